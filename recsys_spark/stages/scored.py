"""A model's folder and a split -> lists or predictions, as DataFrames: what `score` writes and what a search is judged by.

Queries are all users of the split; where users are held out whole, those with an event in the scored part. With candidates, the users
that have some: theirs are ranked, all of them, and nothing is left out.
History: the events of the parts before the scored one. It is what a list leaves out, and what models of profiles score from.
One scorer a Python worker, one thread each; lists stay arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines import artifact
from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.etl import features, layouts
from recsys_spark.models import registry, store
from recsys_spark.scoring import index, worker
from recsys_spark.scoring.queries import CANDIDATES, COLD, FOLDED, HISTORY, PREDICTION, VALUES
from recsys_spark.stages.context import Context

BATCH_ROWS = 4096  # of an Arrow batch: with histories of some hundred items a few MB
BATCH_BYTES = 64 << 20  # and at most about so much, where profiles are long


@dataclass(frozen=True)
class Scoring:
    """The model in `folder` (an index or a checkpoint) for one part of the split that the step `source` made."""

    ctx: Context
    source: str
    part: str
    folder: Path
    k: int
    partitions: int = 0  # of the queries; 0: as many as the cluster runs tasks at once
    candidates: str | None = None  # the step that made them
    only: DataFrame | None = None  # (user_idx): these users alone; few enough to be sent to every task

    @property
    def split(self) -> str:
        return str(self.ctx.inputs[self.source].summary["split"])

    def events(self) -> DataFrame:
        events = self.ctx.read(c.SPLITS, self.source).where(F.col(c.SPLIT) == self.split)
        return events if self.only is None else events.join(F.broadcast(self.only), on=c.USER_IDX, how="left_semi")

    def lists(self) -> DataFrame:
        """(user_idx, user_id, item_idx array<int>, score array<float>, cold, folded): at most k items of each query, or its candidates."""
        settings = self._settings(seeds.derive(self.ctx.seed, "score"), (c.USER_IDX, c.USER_ID))
        shape = f"{c.USER_IDX} int, {c.USER_ID} string, {c.ITEM_IDX} array<int>, {c.SCORE} array<float>, {COLD} boolean, {FOLDED} boolean"
        return self._queries().mapInArrow(partial(worker.rank_batches, settings), shape)

    def predictions(self) -> DataFrame:
        """(row_key, user_id, item_id, label, prediction): every row of the part."""
        if (by := self.profiles_by()) is not None:
            return self._predicted(self._profiles(by).repartition(self._tasks(), layouts.sides(by)[0]))
        names = self._event_fields()
        rows = features.raw(self.events(), names).where(F.col(c.PART) == self.part)
        key = F.concat_ws("|", c.USER_ID, c.ITEM_ID, c.TS).alias(c.ROW_KEY)
        rows = rows.select(key, c.USER_ID, c.ITEM_ID, c.USER_IDX, c.ITEM_IDX, F.col(c.VALUE).alias(c.LABEL),
                           *(c.TS if name == "ts" else c.EVENT + name for name in names))
        vectors = self.vectors()
        rows = rows if vectors is None else rows.join(vectors, on=c.USER_IDX, how="left")
        return self._predicted(rows.repartition(self._tasks(), c.USER_IDX))

    def _predicted(self, rows: DataFrame) -> DataFrame:
        passed = (c.ROW_KEY, c.USER_ID, c.ITEM_ID, c.LABEL)
        shape = f"{c.ROW_KEY} string, {c.USER_ID} string, {c.ITEM_ID} string, {c.LABEL} double, {PREDICTION} double"
        return rows.mapInArrow(partial(worker.predict_batches, self._settings(self.ctx.seed, passed)), shape)

    def profiles_by(self) -> layouts.By | None:
        """Whose profiles a trained model predicts ratings from; None where it does nothing of the kind."""
        if (facts := self._trained()) is None:
            return None
        kind = registry.find(facts.model)
        if kind.layout != "profile" or kind.task_of(facts.config) != "rating":
            return None
        return "item" if kind.by_of(facts.config) == "item" else "user"

    def _profiles(self, by: layouts.By) -> DataFrame:
        """One row a user (or item) with an event in the part: its index, its history with values, and the events to be predicted, as lists
        beside each other (index of the other side, row_key, user_id, item_id, label)."""
        mine, other = layouts.sides(by)
        events = self.ctx.read(c.SPLITS, self.source).where(F.col(c.SPLIT) == self.split)
        known = layouts.latest(events.where(F.col(c.PART).isin(*c.BEFORE[self.part])))
        asked = self.events().where(F.col(c.PART) == self.part)
        key = F.concat_ws("|", c.USER_ID, c.ITEM_ID, c.TS).alias(c.ROW_KEY)
        event = F.struct(F.col(other).alias(c.HELD_IDX), key, c.USER_ID, c.ITEM_ID, F.col(c.VALUE).alias(c.LABEL))
        held = asked.groupBy(mine).agg(F.collect_list(event).alias("held"))
        entry = F.struct(F.col(other).alias(HISTORY), F.col(c.VALUE).cast("float").alias(VALUES))
        history = known.groupBy(mine).agg(F.sort_array(F.collect_list(entry)).alias("known"))
        both = held.join(history, on=mine, how="left")
        none = F.expr(f"cast(array() as array<struct<{HISTORY}: int, {VALUES}: float>>)")
        both = both.withColumn("known", F.coalesce("known", none))
        return both.select(mine, *(F.col("known").getField(name).alias(name) for name in (HISTORY, VALUES)),
                           *(F.col("held").getField(name).alias(name) for name in (c.HELD_IDX, c.ROW_KEY, c.USER_ID, c.ITEM_ID, c.LABEL)))

    def vectors(self) -> DataFrame | None:
        """(user_idx, vector), or (user_idx, rows, weights), of an index whose queries bring their own."""
        if not (self.folder / index.FILE).exists():
            return None
        facts = index.facts(self.folder)
        return self.ctx.spark.read.parquet(str(self.folder / facts.queries)) if facts.queries else None

    def _event_fields(self) -> list[str]:
        """What a trained model knows of an event beside user and item."""
        facts = self._trained()
        return [one.name for one in facts.fields if one.side == "event"] if facts else []

    def _trained(self) -> store.Stored | None:
        """None: an index."""
        return store.read_facts(self.folder) if (self.folder / store.FACTS).exists() else None

    def _queries(self) -> DataFrame:
        """(user_idx, user_id, history array<int>[, history_values array<float>][, candidates array<int>][, what the index has of one])."""
        with_values = self.profiles_by() is not None
        entry = F.struct(F.col(c.ITEM_IDX).alias(HISTORY), F.col(c.VALUE).cast("float").alias(VALUES)) if with_values else F.col(c.ITEM_IDX)
        known = F.when(F.col(c.PART).isin(*c.BEFORE[self.part]), entry)  # null, which collect_list leaves out, for later parts
        users = self.events().repartition(self._tasks(), c.USER_IDX).groupBy(c.USER_IDX).agg(
            F.first(c.USER_ID).alias(c.USER_ID), F.collect_list(known).alias(HISTORY), F.max(F.col(c.PART) == self.part).alias("_scored"))
        if self.ctx.inputs[self.source].summary.get("users_held_out"):
            users = users.where(F.col("_scored"))
        columns = [c.USER_IDX, c.USER_ID, HISTORY]
        if with_values:
            columns.append(VALUES)
            users = users.withColumns({name: F.col(HISTORY).getField(name) for name in (HISTORY, VALUES)})
        if self.candidates is not None:
            users = users.join(self._offered(self.candidates), on=c.USER_ID, how="inner")
            columns.append(CANDIDATES)
        vectors = self.vectors()
        if vectors is None:
            return users.select(*columns)
        return users.join(vectors, on=c.USER_IDX, how="left").select(*columns, *(name for name in vectors.columns if name != c.USER_IDX))

    def _offered(self, step: str) -> DataFrame:
        """(user_id, candidates array<int>): a set each, in the order of their numbers."""
        rows = self.ctx.read(c.CANDIDATES, step).where(F.col(c.RUN_ID) == self.ctx.inputs[step].run_id)
        numbered = rows.join(self.ctx.read(c.ITEM_INDEX, self.source), on=c.ITEM_ID, how="inner")
        return numbered.groupBy(F.col(c.QUERY_ID).alias(c.USER_ID)).agg(F.sort_array(F.collect_set(c.ITEM_IDX)).alias(CANDIDATES))

    def _settings(self, seed: int, passed: tuple[str, ...]) -> worker.Settings:
        return worker.Settings(str(self.folder), self.k, seed, self._fallback(), passed=passed,
                                written=worker.written(self.folder))

    def _fallback(self) -> str | None:
        """Counts of the events before the scored part, for a model without a fallback of its own; none of users held out for it."""
        if (self.folder / index.FILE).exists() and index.facts(self.folder).fallback_scores:
            return None
        events = self.ctx.read(c.SPLITS, self.source).where(F.col(c.SPLIT) == self.split)
        fitted_on = c.FITTED_ON["train" if self.part == c.VALID else "train+valid"]
        counts = artifact.counts(events.where(F.col(c.PART).isin(*fitted_on)),
                                 int(self.ctx.inputs[self.source].summary["num_items"]))
        path = self.ctx.run_dir / "popularity.npy"
        np.save(path, counts)
        return str(path)

    def _tasks(self) -> int:
        return self.partitions or self.ctx.spark.sparkContext.defaultParallelism


@contextmanager
def arrow_batches(ctx: Context) -> Iterator[None]:
    """Arrow batches of the size that the scorer likes, while lists or predictions are computed."""
    wanted = {"spark.sql.execution.arrow.maxRecordsPerBatch": BATCH_ROWS, "spark.sql.execution.arrow.maxBytesPerBatch": BATCH_BYTES}
    before = {name: ctx.spark.conf.get(name) for name in wanted}
    try:
        for name, value in wanted.items():
            ctx.spark.conf.set(name, str(value))
        yield
    finally:
        for name, earlier in before.items():
            ctx.spark.conf.set(name, str(earlier))
