"""A fitted model of a lake -> DataFrames of lists, scores and vectors, computed when they are read.

What scores is `stages.bridge.scored`, as in the stage `score`. Nothing here needs more of Spark
than DataFrames: no context, no RDD, no broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError
from recsys_spark.etl import row_key
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.tasks import RANKING
from recsys_spark.ml import recipe
from recsys_spark.models import store
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context, Env
from recsys_spark.scoring import index, scorer, similar
from recsys_spark.scoring.index_scorers import DotScorer
from recsys_spark.scoring.queries import COLD, PREDICTION
from recsys_spark.stages import score, similar_items
from recsys_spark.stages.bridge import artefact
from recsys_spark.stages.bridge.scored import Scoring

ENTRIES = "recommendations"  # the column of lists, as ALS names it


@dataclass(frozen=True)
class Fitted:
    """folder: has `lake` and `runs`. run_ids: {step: run}."""

    spark: SparkSession
    folder: Path
    run_ids: dict[str, str]

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.spark, str(self.folder / "lake"), self.folder / "runs")

    @cached_property
    def context(self) -> Context:
        """In which the lists are made: that of a score step on the model."""
        runs = {run.run_id: run for run in self.lake.runs()}
        inputs = {step: runs[run_id] for step, run_id in self.run_ids.items() if run_id in runs}
        run_id = f"{recipe.LISTS}-{self.run_ids[recipe.MODEL]}"
        run_dir = self.folder / "runs" / run_id
        run_dir.mkdir(parents=True, exist_ok=True)
        model = inputs[recipe.MODEL]
        env = Env(lake=self.lake.root, runs=str(self.folder / "runs"))
        return Context(
            *(self.spark, self.lake, env, model.pipeline, recipe.LISTS, run_id, run_dir, inputs),
            seed=model.seed,
            now=model.ended_at,
        )

    @property
    def run(self) -> Run:
        return self.context.inputs[recipe.MODEL]

    @cached_property
    def artefact(self) -> Path:
        return artefact.folder(self.run)

    @property
    def task(self) -> str:
        return artefact.task(self.run)

    def users(self) -> DataFrame:
        """(query_id, query_idx)."""
        return self.context.read(c.USER_INDEX, recipe.SPLIT).toDF(c.QUERY_ID, c.QUERY_IDX)

    def items(self) -> DataFrame:
        return self.context.read(c.ITEM_INDEX, recipe.SPLIT)

    def last_time(self) -> int:
        """Of the rows that it was fitted on: that of pairs without a time of their own."""
        events = lineage.split_rows(self.context, recipe.SPLIT)
        return int(events.agg(F.max(c.TS)).collect()[0][0])

    def lists(self, k: int, *, exclude_seen: bool, only: DataFrame | None = None) -> DataFrame:
        """(query_id, item_idx array, score array): the k best items of each user, or of those in
        `only` (query_id). Raises ConfigError for a model that ranks nothing.
        """
        self._require_ranks(k)
        asked = None if only is None else self._numbers(only)
        seen = "leave_out" if exclude_seen else "keep"
        return self._scoring(k, seen=seen, only=asked).lists()

    def scores(self, candidates: DataFrame) -> DataFrame:
        """(query_id, item_id, prediction): of users' candidates (query_id, candidates array<int>).
        A user of whom the model knows nothing has no row.
        """
        self._require_ranks(1)
        ranked = self._scoring(1, offered=candidates, only=self._numbers(candidates)).lists()
        entry = F.explode(F.arrays_zip(c.ITEM_IDX, c.SCORE)).alias("entry")
        rows = ranked.where(~F.col(COLD)).select(c.QUERY_ID, entry)
        rows = rows.select(
            c.QUERY_ID, F.col(f"entry.{c.ITEM_IDX}"), F.col(f"entry.{c.SCORE}").alias(PREDICTION)
        )
        return rows.join(self.items(), on=c.ITEM_IDX).select(c.QUERY_ID, c.ITEM_ID, PREDICTION)

    def predicted(self, pairs: DataFrame) -> DataFrame:
        """(row_key, prediction) of (query_id, item_id, ts) that the model can score."""
        known = pairs.dropDuplicates().join(self.users(), on=c.QUERY_ID)
        known = known.join(self.items(), on=c.ITEM_ID)
        if self.task == RANKING.name:
            candidates = known.groupBy(c.QUERY_ID).agg(
                F.sort_array(F.collect_set(c.ITEM_IDX)).alias("candidates")
            )
            rows = pairs.join(self.scores(candidates), on=[c.QUERY_ID, c.ITEM_ID])
            return rows.select(row_key.column().alias(c.ROW_KEY), PREDICTION).dropDuplicates()
        values = {c.USER_ID: F.col(c.QUERY_ID), c.PART: F.lit(c.TEST), c.VALUE: F.lit(0.0)}
        values[c.QUERY_KIND] = F.lit(c.USER)
        asked = known.select(
            *(
                (
                    F.col(field.name)
                    if field.name in known.columns
                    else values.get(field.name, F.lit(None))
                )
                .cast(field.dataType)
                .alias(field.name)
                for field in SCHEMAS[c.SPLITS]
            )
        )
        scoring = self._scoring(1, part=c.TEST, asked=asked, only=self._numbers(known))
        return scoring.predictions().select(c.ROW_KEY, PREDICTION)

    def best_users(self, items: DataFrame, k: int, *, exclude_seen: bool) -> DataFrame:
        """(item_id, place, query_id, score): the k users with the highest scores of each item.
        items: (item_id), few enough to be every user's candidates.
        """
        numbers = items.join(self.items(), on=c.ITEM_ID).agg(
            F.sort_array(F.collect_set(c.ITEM_IDX)).alias("candidates")
        )
        rows = self.scores(self.users().select(c.QUERY_ID).crossJoin(numbers))
        if exclude_seen:
            met = lineage.split_rows(self.context, recipe.SPLIT).select(c.QUERY_ID, c.ITEM_ID)
            rows = rows.join(met, on=[c.QUERY_ID, c.ITEM_ID], how="left_anti")
        best = Window.partitionBy(c.ITEM_ID).orderBy(F.desc(PREDICTION), F.xxhash64(c.QUERY_ID))
        placed = rows.withColumn("place", F.row_number().over(best))
        return placed.where(F.col("place") <= k).withColumnRenamed(PREDICTION, c.SCORE)

    def alike(self, items: DataFrame, k: int) -> DataFrame:
        """(item_id, place, similar_id, score) of (item_id). An item of which the model knows
        nothing by itself has no row. Raises ConfigError for a model that knows none.
        """
        if not similar.possible(scorer.load(self.artefact, k=1, seed=0)):
            raise ConfigError(
                "similarItems",
                found=f"{self.run.summary['model']}, which tells nothing of an item by itself",
                expected="a model with item vectors, or one that ranks by a history",
                remedy="fit als, ials, item_knn, ease, bpr_mf or a model of profiles",
            )
        asked = items.join(self.items(), on=c.ITEM_ID)
        ranked = similar_items.ranked_like(asked, self.artefact, k, self.run.seed, self._tasks())
        entries = entries_of(ranked.where(~F.col(COLD)), similar_items.OF_IDX)
        others = self.items().withColumnRenamed(c.ITEM_ID, c.SIMILAR_ID)
        of = self.items().withColumnRenamed(c.ITEM_IDX, similar_items.OF_IDX)
        return entries.join(others, on=c.ITEM_IDX).join(of, on=similar_items.OF_IDX)

    def factors(self) -> tuple[DataFrame, DataFrame] | None:
        """(query_id, vector) and (item_id, vector), whose dot products are the scores; None where
        the scores are no dot products of users' vectors.
        """
        loaded = scorer.load(self.artefact, k=1, seed=0)
        dot = getattr(loaded, "dot", None)
        if dot is None or (isinstance(loaded, DotScorer) and loaded.facts.constant):
            return None
        path = self.context.run_dir / "item_factors.parquet"
        vectors = dot.items[: loaded.num_items + 1].numpy()
        items = similar_items.vector_table(self.spark, vectors, path).join(
            self.items(), on=c.ITEM_IDX
        )
        if (self.artefact / store.FACTS).exists():
            return self._scoring(1).encoded(), items
        stored = index.facts(self.artefact).queries
        users = self.spark.read.parquet(str(self.artefact / stored))
        ones = F.array(F.lit(1.0).cast("float"))  # times the item's bias
        vector = F.concat(c.VECTOR, ones) if dot.biased else F.col(c.VECTOR)
        users = users.join(self.users(), on=c.QUERY_IDX)
        return users.select(c.QUERY_ID, vector.alias(c.VECTOR)), items

    def _require_ranks(self, k: int) -> None:
        if k < 1:
            raise ConfigError("k", found=k, expected="at least 1")
        job = score.Job(model=recipe.MODEL, source=recipe.SPLIT, part=c.NOW, task=RANKING.name)
        score.checked(self.context, job)

    def _numbers(self, users: DataFrame) -> DataFrame:
        return (
            users.select(c.QUERY_ID).distinct().join(self.users(), on=c.QUERY_ID).drop(c.QUERY_ID)
        )

    def _scoring(self, k: int, *, part: str = c.NOW, **more: Any) -> Scoring:
        return Scoring(
            self.context, recipe.SPLIT, part, self.artefact, k, partitions=self._tasks(), **more
        )

    def _tasks(self) -> int:
        setting = self.spark.conf.get("spark.sql.shuffle.partitions", "") or ""
        return int(setting) if setting.isdigit() else 200  # `auto` on Databricks


def entries_of(ranked: DataFrame, of: str) -> DataFrame:
    """(of, place, item_idx, score): a row for each entry of lists."""
    entry = F.posexplode(F.arrays_zip(c.ITEM_IDX, c.SCORE)).alias("place", "entry")
    rows = ranked.select(of, entry)
    return rows.select(
        of, "place", F.col(f"entry.{c.ITEM_IDX}"), F.col(f"entry.{c.SCORE}").alias(c.SCORE)
    )


def gathered(rows: DataFrame, of: Column, entry: tuple[Column, str]) -> DataFrame:
    """As ALS shapes it: (of, recommendations array<struct<entry, rating float>>), of rows with
    `place` and `score`. entry: (id, its name).
    """
    value, name = entry
    best = F.struct("place", value.alias(name), F.col(c.SCORE).cast("float").alias("rating"))
    lists = rows.groupBy(of).agg(F.sort_array(F.collect_list(best)).alias("_list"))
    return lists.select(
        lists.columns[0],
        F.transform(
            "_list", lambda one: F.struct(one[name].alias(name), one["rating"].alias("rating"))
        ).alias(ENTRIES),
    )
