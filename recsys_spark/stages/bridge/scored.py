"""A model's folder and a split -> lists or predictions, as DataFrames: what `score` writes and what
a search is judged by.

Queries are all of the split; where queries are held out whole, those with an event in the scored
part. With candidates, the queries that have some: theirs are ranked, all of them, and nothing is
left out. History: the events of the parts before the scored one (for part now: of all), oldest
first. Its items are what a list leaves out, unless `seen` keeps them. One scorer a Python worker,
one thread each; lists stay arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.batches import registry as batches
from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.core.contracts import Seen
from recsys_spark.etl import layout as layouts
from recsys_spark.etl import queries, row_key, shown_features, union
from recsys_spark.etl.layouts import profile
from recsys_spark.etl.shards import event_fields
from recsys_spark.models import registry, store
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context
from recsys_spark.scoring import index, worker
from recsys_spark.scoring.queries import (
    CANDIDATES,
    COLD,
    FOLDED,
    HISTORY,
    OF_CANDIDATES,
    PREDICTION,
    SEEN,
    VALUES,
)
from recsys_spark.stages.bridge import artefact


@dataclass(frozen=True)
class Scoring:
    """The model in `folder` (an index or a checkpoint) for one part of the split that the step
    `source` made.
    """

    ctx: Context
    source: str
    part: str
    folder: Path
    k: int
    partitions: int = 0  # of the queries; 0: as many as the cluster runs tasks at once
    candidates: str | None = None  # the step that made them
    seen: Seen = "leave_out"  # items of the history are left out of the list, or may be in it
    only: DataFrame | None = None  # (query_idx): these queries alone
    # (query_idx): those whose events have changed since an index that folds in was fitted
    stale: DataFrame | None = None
    # Rows with a split's columns that are scored as if they were of the split's part
    asked: DataFrame | None = None
    # (query_id, candidates array<int>): ranked in place of a step's
    offered: DataFrame | None = None

    @property
    def split(self) -> str:
        return str(self.ctx.inputs[self.source].summary["split"])

    @property
    def query_kind(self) -> str:
        """What the lists are for: `user`, or what the split's rule says."""
        return lineage.query_kind(self.ctx, self.source)

    def events(self) -> DataFrame:
        events = lineage.split_rows(self.ctx, self.source)
        if self.asked is not None:
            events = events.unionByName(self.asked)
        if self.only is None:
            return events
        return events.join(self.only, on=c.QUERY_IDX, how="left_semi")

    def lists(self) -> DataFrame:
        """(query_idx, query_id, item_idx array<int>, score array<float>, cold, folded): at most k
        items of each query (of united lists too), or its candidates.
        """
        settings = self._settings(seeds.derive(self.ctx.seed, "score"), (c.QUERY_IDX, c.QUERY_ID))
        shape = (
            f"{c.QUERY_IDX} int, {c.QUERY_ID} string, {c.ITEM_IDX} array<int>, {c.SCORE} "
            f"array<float>, {COLD} boolean, {FOLDED} boolean"
        )
        ranked = self._queries().mapInArrow(partial(worker.rank_batches, settings), shape)
        if not self.in_united_lists:
            return ranked
        best = {name: F.slice(name, 1, self.k) for name in (c.ITEM_IDX, c.SCORE)}
        return ranked.withColumns(best)

    @property
    def in_united_lists(self) -> bool:
        """Whether the candidates stand for the catalogue: of their ranking the first k are kept."""
        if self.candidates is None:
            return False
        return bool(self.ctx.inputs[self.candidates].summary["source"] == c.UNION)

    def encoded(self) -> DataFrame:
        """(query_id, vector array<float>), of a trained model whose scores are dot products with
        the vectors of items.
        """
        settings = self._settings(self.ctx.seed, (c.QUERY_ID,))
        shape = f"{c.QUERY_ID} string, {c.VECTOR} array<float>"
        return self._queries().mapInArrow(partial(worker.encode_batches, settings), shape)

    def predictions(self) -> DataFrame:
        """(row_key, query_id, item_id, label, prediction): every row of the part."""
        if (by := self.profiles_by()) is not None:
            return self._predicted(
                self._profiles(by).repartition(self._tasks(), layouts.sides(by)[0])
            )
        names = self._event_fields()
        rows = event_fields.raw(self.events(), names).where(F.col(c.PART) == self.part)
        rows = rows.select(
            row_key.column().alias(c.ROW_KEY),
            c.QUERY_ID,
            c.ITEM_ID,
            c.QUERY_IDX,
            c.ITEM_IDX,
            F.col(c.VALUE).alias(c.LABEL),
            *(c.TS if name == "ts" else c.EVENT + name for name in names),
        )
        vectors = self.vectors()
        rows = rows if vectors is None else rows.join(vectors, on=c.QUERY_IDX, how="left")
        return self._predicted(rows.repartition(self._tasks(), c.QUERY_IDX))

    def _predicted(self, rows: DataFrame) -> DataFrame:
        passed = (c.ROW_KEY, c.QUERY_ID, c.ITEM_ID, c.LABEL)
        shape = (
            f"{c.ROW_KEY} string, {c.QUERY_ID} string, {c.ITEM_ID} string, {c.LABEL} "
            f"double, {PREDICTION} double"
        )
        return rows.mapInArrow(
            partial(worker.predict_batches, self._settings(self.ctx.seed, passed)), shape
        )

    def profiles_by(self) -> layouts.By | None:
        """Whose profiles a trained model predicts ratings from; None where it does nothing of the
        kind.
        """
        if (facts := self._trained()) is None:
            return None
        kind = registry.find(facts.model)
        if kind.layout != "profile" or kind.task_of(facts.config) != "rating":
            return None
        return "item" if kind.by_of(facts.config) == "item" else "user"

    def _profiles(self, by: layouts.By) -> DataFrame:
        """One row a user (or item) with an event in the part."""
        events = lineage.split_rows(self.ctx, self.source)
        asked = self.events().where(F.col(c.PART) == self.part)
        asked = asked.withColumn(c.ROW_KEY, row_key.column())
        return profile.to_predict(events, asked, self.part, by)

    def vectors(self) -> DataFrame | None:
        """(query_idx, vector), or (query_idx, rows, weights), of an index whose queries bring their
        own.
        """
        if not (self.folder / index.FILE).exists():
            return None
        facts = index.facts(self.folder)
        if not facts.queries:
            return None
        vectors = self.ctx.spark.read.parquet(str(self.folder / facts.queries))
        if self.stale is None:
            return vectors
        # Made anew of the whole history, by the half step that the fit would end with
        return vectors.join(self.stale, on=c.QUERY_IDX, how="left_anti")

    def _event_fields(self) -> list[str]:
        """What a trained model knows of an event beside user and item."""
        facts = self._trained()
        return [one.name for one in facts.fields if one.side == "event"] if facts else []

    def _trained(self) -> store.Stored | None:
        """None: an index."""
        return store.read_facts(self.folder) if (self.folder / store.FACTS).exists() else None

    def _queries(self) -> DataFrame:
        """(query_idx, query_id, history array<int>[, history_values array<float>][, seen
        array<int>][, candidates array<int>][, what the index has of one]).

        A history is what a model reads: the same items that its shards had, so that lists are those
        of the model that was validated.
        """
        repeats = self._reads_repeats()
        asked = self._histories(repeats)
        if self.part != c.NOW and self.ctx.inputs[self.source].summary.get("held_out"):
            asked = asked.where(F.col("_scored"))
        columns = [c.QUERY_IDX, c.QUERY_ID, HISTORY]
        columns += [VALUES] if self.profiles_by() is not None else []
        if self.seen == "keep" or repeats:
            met = F.array() if self.seen == "keep" else F.array_distinct(HISTORY)
            asked = asked.withColumn(SEEN, met.cast("array<int>"))
            columns.append(SEEN)
        offered = self._offered(self.candidates) if self.candidates is not None else self.offered
        if offered is not None:
            asked = asked.join(offered, on=c.QUERY_ID, how="inner")
            columns += offered.columns[1:]
        vectors = self.vectors()
        if vectors is None:
            return asked.select(*columns)
        return asked.join(vectors, on=c.QUERY_IDX, how="left").select(
            *columns, *(name for name in vectors.columns if name != c.QUERY_IDX)
        )

    def _reads_repeats(self) -> bool:
        """Whether the model reads every event of a history; else each item once."""
        facts = self._trained()
        return facts is not None and batches.find(registry.find(facts.model).layout).repeats

    def _events_met(self) -> DataFrame:
        """(query_idx, query_id, item_idx, met, _scored): the events of a query together in one
        task. met: the event's place in `queries.oldest_first`; null for one of another part.
        """
        known = F.col(c.PART).isin(*c.KNOWN[self.part])
        events = self.events().select(
            c.QUERY_IDX,
            c.QUERY_ID,
            c.ITEM_IDX,
            F.when(known, queries.oldest_first()).alias("met"),
            self._is_asked().alias("_scored"),
        )
        return events.repartition(self._tasks(), c.QUERY_IDX)

    def _is_asked(self) -> Column:
        """Of an event: whether its query gets a list. Where a challenge keeps the part to itself,
        the queries are those of which something is given.
        """
        prepared, given = self.ctx.inputs[self.source].summary, f"{self.part}_fold_in"
        withheld = not prepared.get(self.part) and prepared.get(given)
        return F.col(c.PART) == (given if withheld else self.part)

    def _items_met(self) -> DataFrame:
        """As `_events_met`, each item once, at its last time."""
        # Without a second shuffle: rows that lie together by query do so by query and item
        items = self._events_met().groupBy(c.QUERY_IDX, c.ITEM_IDX)
        last = [F.max("met").alias("met"), F.max("_scored").alias("_scored")]
        return items.agg(F.first(c.QUERY_ID).alias(c.QUERY_ID), *last)

    def _histories(self, repeats: bool) -> DataFrame:
        """(query_idx, query_id, history array<int>, history_values array<float>, _scored): what a
        query met before the part, oldest first. _scored: whether it has an event in the part.
        """
        events = self._events_met() if repeats else self._items_met()
        # Null, which collect_list leaves out, where it is of another part
        entry = F.when(F.col("met").isNotNull(), F.struct("met", c.ITEM_IDX))
        histories = events.groupBy(c.QUERY_IDX).agg(
            F.first(c.QUERY_ID).alias(c.QUERY_ID),
            F.sort_array(F.collect_list(entry)).alias("known"),
            F.max("_scored").alias("_scored"),
        )
        return histories.select(
            c.QUERY_IDX,
            c.QUERY_ID,
            F.col("known").getField(c.ITEM_IDX).alias(HISTORY),
            F.col(f"known.met.{c.VALUE}").cast("array<float>").alias(VALUES),
            "_scored",
        )

    def _offered(self, step: str) -> DataFrame:
        """(query_id, candidates array<int>[, candidates_<column> array for each field of events
        that the model reads]): a set each, in the order of their numbers; of lists that were shown,
        or united, in the order of their places, with fields.
        """
        run = self.ctx.inputs[step]
        source = run.summary["source"]
        shown, in_order = source == c.SHOWN, source in c.ORDERED
        rows = self.ctx.read(c.CANDIDATES, step).where(F.col(c.RUN_ID) == run.run_id)
        numbered = rows.join(self.ctx.read(c.ITEM_INDEX, self.source), on=c.ITEM_ID, how="inner")
        names = self._event_fields() if shown else []
        numbered = event_fields.of_candidates(numbered, names)
        fields = [c.TS if name == "ts" else c.EVENT + name for name in names]
        if in_order and (features := artefact.list_features(self.folder)):
            numbered = (
                self._with_features(numbered, features)
                if shown
                else union.with_features(numbered, features)
            )
            fields += features
        # The first ones order the list
        entry = F.struct(*([c.POSITION] if in_order else []), c.ITEM_IDX, *fields)
        sets = numbered.groupBy(c.QUERY_ID).agg(F.sort_array(F.collect_list(entry)).alias("set"))
        return sets.select(
            c.QUERY_ID,
            F.col("set").getField(c.ITEM_IDX).alias(CANDIDATES),
            *(F.col("set").getField(name).alias(OF_CANDIDATES + name) for name in fields),
        )

    def _with_features(self, lists: DataFrame, names: tuple[str, ...]) -> DataFrame:
        """Those of etl/shown_features.py that an index reads; answers that it was not fitted on are
        not counted.
        """
        known = self.events().where(F.col(c.PART).isin(*c.KNOWN[self.part]))
        fitted = lineage.split_rows(self.ctx, self.source).where(
            F.col(c.PART).isin(*self._fitted_on())
        )
        impressions = self.ctx.read(c.IMPRESSIONS, self.source).where(
            F.col(c.QUERY_KIND) == self.query_kind
        )
        return shown_features.of_lists(
            lists, known, names, impressions, fitted.select(c.QUERY_ID).distinct()
        )

    def _fitted_on(self) -> tuple[str, ...]:
        """The parts that models of the scored part are fitted on."""
        if self.part == c.NOW:
            return c.PARTS
        return c.FITTED_ON["train" if self.part == c.VALID else "train+valid"]

    def _settings(self, seed: int, passed: tuple[str, ...]) -> worker.Settings:
        return worker.Settings(
            str(self.folder),
            self.k,
            seed,
            self._fallback(),
            passed=passed,
            written=worker.written(self.folder),
        )

    def _fallback(self) -> str | None:
        """Counts of the events before the scored part, for a model without a fallback of its own;
        none of users held out for it.
        """
        if (self.folder / index.FILE).exists() and index.facts(self.folder).fallback_scores:
            return None
        events = lineage.split_rows(self.ctx, self.source)
        counts = artifact.counts(
            events.where(F.col(c.PART).isin(*self._fitted_on())),
            artefact.num_items(self.folder),
        )
        path = self.ctx.run_dir / "popularity.npy"
        np.save(path, counts)
        return str(path)

    def _tasks(self) -> int:
        return self.partitions or self.ctx.spark.sparkContext.defaultParallelism
