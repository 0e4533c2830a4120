"""The Spark engine: users are divided into blocks, a worker measures a block, the driver adds some
kilobytes per block.

The driver holds arrays with an entry for every item, which are sent to the workers with the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl import row_key
from recsys_spark.etl.evaluation.engine import CREDIT, Facts, Source, clicks, credited, top_values
from recsys_spark.metrics import blocks, ctr, exposure, partials, row_blocks, slices
from recsys_spark.metrics.blocks import NAN, UNKNOWN, Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.partials import SCHEMA, Partial
from recsys_spark.metrics.ragged import dense

BLOCK = "block"
INTS, FLOATS = "array<int>", "array<float>"
ROWS = ("items", "labels", "predictions")


class Distributed:
    """Persists one row per evaluated user: query_id, query_idx, block, events, fields, targets,
    known.
    """

    def __init__(self, source: Source) -> None:
        self.rows, self.items = source.rows, source.items
        counts = source.known.groupBy(c.ITEM_IDX).agg(F.count_if("trained").alias("events"))
        target_counts = source.rows.groupBy(c.ITEM_IDX).agg(F.count(F.lit(1)).alias("asked"))
        item_fields = [] if source.item_fields is None else source.item_fields.columns[1:]
        items = source.items.join(counts, on=c.ITEM_IDX, how="left").join(
            target_counts, on=c.ITEM_IDX, how="left"
        )
        if source.item_fields is not None:
            items = items.join(source.item_fields, on=c.ITEM_ID, how="left")
        credit = [CREDIT] if CREDIT in items.columns else []
        catalogue = _catalogue(
            items.select(
                c.ITEM_IDX, "events", "asked", *credit, *map(_quoted, item_fields)
            ).toArrow(),
            item_fields,
        )
        numbers = (
            source.known.where("trained")
            .agg(F.avg(c.VALUE), F.min(c.VALUE), F.max(c.VALUE))
            .collect()[0]
        )
        mean, low, high = numbers if numbers[0] is not None else (0.0, math.inf, -math.inf)
        base = source.rows.select(c.QUERY_IDX, c.QUERY_ID).distinct()
        num_users = base.count()
        others = F.count_if(~F.coalesce(F.col(c.VALUE).isin(0.0, 1.0), F.lit(False)))
        num_rows, not_binary = source.rows.agg(F.count(F.lit(1)), others).collect()[0]
        unseen = (
            items.where(F.coalesce("events", F.lit(0)) == 0).agg(F.sum("asked")).collect()[0][0]
        )
        history = source.known.groupBy(c.QUERY_IDX).agg(
            F.count_if("counted").alias("events"), F.collect_list(c.ITEM_IDX).alias("known")
        )
        targets = source.rows.groupBy(c.QUERY_IDX).agg(
            F.sort_array(F.collect_set(c.ITEM_IDX)).alias("targets")
        )
        users = base.join(history, on=c.QUERY_IDX, how="left").join(
            targets, on=c.QUERY_IDX, how="inner"
        )
        fields = [] if source.user_fields is None else source.user_fields.columns[1:]
        self.fields = [blocks.field_column(number) for number in range(len(fields))]
        if source.user_fields is not None:
            users = users.join(source.user_fields, on=c.QUERY_ID, how="left")
        self.num_blocks = partials.num_blocks(max(1, num_users))
        block = F.pmod(c.QUERY_IDX, F.lit(self.num_blocks)).alias(BLOCK)
        named = [
            F.col(_quoted(name)).alias(column)
            for name, column in zip(fields, self.fields, strict=True)
        ]
        self.users = users.select(
            c.QUERY_ID,
            c.QUERY_IDX,
            block,
            F.coalesce("events", F.lit(0)).alias("events"),
            "targets",
            F.coalesce("known", F.array().cast(INTS)).alias("known"),
            *named,
        ).persist(StorageLevel.MEMORY_AND_DISK)
        quartiles = F.percentile("events", F.array(F.lit(0.25), F.lit(0.5), F.lit(0.75)))
        bounds, new, old = self.users.agg(
            quartiles, F.count_if(F.col("events") == 0), F.count_if(F.col("events") > 0)
        ).collect()[0]
        counts_of: dict[str, dict[str | None, int]] = {}
        for name, column in zip(fields, self.fields, strict=True):
            counts_of[name] = dict(self.users.groupBy(column).count().collect())
        self.facts = Facts(
            num_users=num_users,
            num_rows=num_rows,
            unseen_rows=int(unseen or 0),
            users=slices.Users(
                tuple(bounds or ()), tell_new=bool(new and old), fields=top_values(counts_of)
            ),
            catalogue=catalogue,
            mean=float(f"{mean:.6g}"),
            low=low,
            high=high,
            binary=not not_binary,
        )

    def ranking(self, entries: DataFrame, settings: Settings) -> Partial:
        code = F.when(F.col(c.SCORE).isNull() | F.isnan(c.SCORE), NAN).otherwise(
            F.coalesce(c.ITEM_IDX, F.lit(UNKNOWN))
        )
        numbered = entries.join(self.items, on=c.ITEM_ID, how="left")
        place = F.struct(c.RANK, code.alias("item"))
        lists = numbered.groupBy(c.QUERY_ID).agg(F.sort_array(F.collect_list(place)).alias("list"))
        lists = lists.select(c.QUERY_ID, F.col("list.item").alias("items")).persist(
            StorageLevel.MEMORY_AND_DISK
        )
        users = self.users.join(lists, on=c.QUERY_ID, how="left").withColumn(
            "items", F.coalesce("items", F.array().cast(INTS))
        )
        shown: blocks.Shown = {}
        if any(name in settings.metrics for name in exposure.METRICS):
            counts = _exposure(users, settings.ks, len(settings.catalogue.events) - 1)
            shown = exposure.parts(counts, settings.catalogue, settings.num_users, settings.metrics)
        try:
            partial = self._measure(
                users,
                ("targets", "items", "known"),
                lambda table: settings.ranking(table, shown),
            )
            return partials.merge(
                [partial, Partial({}, {"lists_without_target": self._strangers(lists)})]
            )
        finally:
            lists.unpersist()

    def candidates(self, entries: DataFrame, settings: Settings) -> Partial:
        numbered = entries.join(self.items, on=c.ITEM_ID, how="left")
        score = F.coalesce(c.SCORE, F.lit(float("nan")).cast("float"))
        pair = F.struct(F.coalesce(c.ITEM_IDX, F.lit(UNKNOWN)).alias("item"), score.alias("score"))
        sets = numbered.groupBy(c.QUERY_ID).agg(F.sort_array(F.collect_list(pair)).alias("set"))
        sets = sets.select(
            c.QUERY_ID, F.col("set.item").alias("candidates"), F.col("set.score").alias("scores")
        )
        sets = sets.persist(StorageLevel.MEMORY_AND_DISK)
        users = self.users.join(sets, on=c.QUERY_ID, how="left").withColumns(
            {
                "candidates": F.coalesce("candidates", F.array().cast(INTS)),
                "scores": F.coalesce("scores", F.array().cast(FLOATS)),
            }
        )
        try:
            partial = self._measure(
                users,
                ("targets", "candidates", "scores"),
                lambda table: blocks.candidate_block(table, settings),
            )
            return partials.merge(
                [partial, Partial({}, {"lists_without_target": self._strangers(sets)})]
            )
        finally:
            sets.unpersist()

    def rating(self, predictions: DataFrame, settings: Settings) -> Partial:
        single = predictions.groupBy(c.QUERY_ID, c.ITEM_ID).agg(F.min(c.VALUE).alias("predicted"))
        labels = self.rows.select(
            c.QUERY_ID, c.ITEM_ID, c.ITEM_IDX, c.TS, F.col(c.VALUE).alias("label")
        )
        joined = labels.join(single, on=[c.QUERY_ID, c.ITEM_ID], how="left")
        rows = joined.select(
            c.QUERY_ID,
            c.ITEM_IDX,
            c.TS,
            "label",
            self._finite().alias("prediction"),
            _missing().alias("missing"),
        )
        users = self._by_user(rows, ("missing",))
        partial = self._measure(
            users, (*ROWS, "missing"), lambda table: row_blocks.rating_block(table, settings)
        )
        repeated = predictions.agg(
            F.count(F.lit(1)) - F.countDistinct(c.QUERY_ID, c.ITEM_ID)
        ).collect()[0][0]
        return partials.merge([partial, Partial({}, {"repeated_predictions": int(repeated)})])

    def click(self, predictions: DataFrame, settings: Settings) -> Partial:
        single = predictions.groupBy(c.ROW_KEY).agg(F.min(c.VALUE).alias("predicted"))
        key = row_key.column().alias(c.ROW_KEY)
        labels = self.rows.select(c.QUERY_ID, c.ITEM_IDX, c.TS, F.col(c.VALUE).alias("label"), key)
        joined = labels.join(single, on=c.ROW_KEY, how="left")
        p = F.greatest(F.lit(0.0), F.least(F.lit(1.0), self._finite()))
        rows = joined.select(
            c.QUERY_ID,
            c.ITEM_IDX,
            c.TS,
            "label",
            p.alias("prediction"),
            _missing().alias("missing"),
            (~_missing() & (F.col("predicted") != p)).alias("outside"),
        )
        rows = rows.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            curve = _curve(rows)
            users = self._by_user(rows, ("missing", "outside"))
            partial = self._measure(
                users,
                (*ROWS, "missing", "outside"),
                lambda table: row_blocks.click_block(table, settings, curve),
            )
        finally:
            rows.unpersist()
        repeated = predictions.agg(F.count(F.lit(1)) - F.countDistinct(c.ROW_KEY)).collect()[0][0]
        return clicks([partial], settings, curve, int(repeated))

    def close(self) -> None:
        self.users.unpersist()

    def _measure(
        self, users: DataFrame, columns: tuple[str, ...], measure: Callable[[pa.Table], Partial]
    ) -> Partial:
        def one(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
            return _numbered(measure(table), key[0].as_py())

        kept = users.select(BLOCK, c.QUERY_IDX, "events", *self.fields, *columns)
        schema = f"{BLOCK} int, {c.SLICE} string, {c.METRIC} string, sums binary, counts binary"
        measured = kept.groupBy(BLOCK).applyInArrow(one, schema)
        if self.num_blocks > partials.MAX_GROUPS:
            group = F.pmod(BLOCK, F.lit(partials.MAX_GROUPS))
            measured = measured.groupBy(group).applyInArrow(_added, schema)
        return partials.merge_groups(_by_block(measured.toArrow()))

    def _finite(self) -> Column:
        """`predicted` where it is finite, else the training mean."""
        return F.when(_missing(), F.lit(self.facts.mean)).otherwise(F.col("predicted"))

    def _by_user(self, rows: DataFrame, counted: tuple[str, ...]) -> DataFrame:
        """The evaluated users with their rows (query_id, item_idx, ts, label, prediction, flags) as
        columns of `row_blocks`.
        """
        row = F.struct(c.ITEM_IDX, c.TS, "label", "prediction")
        counts = [F.count_if(name).alias(name) for name in counted]
        lists = rows.groupBy(c.QUERY_ID).agg(
            F.sort_array(F.collect_list(row)).alias("row"), *counts
        )
        fields = (c.ITEM_IDX, "label", "prediction")
        named = [
            F.col(f"row.{field}").alias(name) for field, name in zip(fields, ROWS, strict=True)
        ]
        return self.users.join(
            lists.select(c.QUERY_ID, *named, *counted), on=c.QUERY_ID, how="inner"
        )

    def _strangers(self, lists: DataFrame) -> int:
        """Number of queries that are not evaluated users."""
        return lists.join(self.users.select(c.QUERY_ID), on=c.QUERY_ID, how="left_anti").count()


def _numbered(partial: Partial, block: int) -> pa.Table:
    rows = partial.table()
    return rows.add_column(0, BLOCK, pa.array([block] * len(rows), pa.int32()))


def _by_block(rows: pa.Table) -> dict[int, Partial]:
    block_of_row = rows[BLOCK].to_numpy()
    return {
        int(number): Partial.of(rows.filter(pa.array(block_of_row == number)).select(SCHEMA.names))
        for number in np.unique(block_of_row)
    }


def _added(rows: pa.Table) -> pa.Table:
    """The sums of one group of blocks, as rows of its first block."""
    blocks = _by_block(rows)
    first = min(blocks)
    return _numbered(partials.merge(blocks[number] for number in sorted(blocks)), first)


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _missing() -> Column:
    # NaN is larger than infinity in Spark
    return ~F.coalesce(F.abs("predicted") < F.lit(math.inf), F.lit(False))


def _curve(rows: DataFrame) -> ctr.Curve:
    """The result of `Curve.of_rows` for columns label and prediction, from counts."""
    p = F.col("prediction")
    for bits in ctr.BITS:
        far = p * F.lit(float(2 ** (53 - bits) + 1))
        rounded = p if bits == ctr.BITS[0] else far - (far - p)
        counts = rows.groupBy(rounded.alias("p")).agg(
            F.count(F.lit(1)).alias("rows"), F.count_if(F.col("label") > 0).alias("clicks")
        )
        if bits == ctr.BITS[-1] or counts.count() <= ctr.MOST_SCORES:
            break
    table = counts.toArrow().sort_by("p")
    return ctr.Curve.of(
        table["p"].to_numpy(), table["rows"].to_numpy(), table["clicks"].to_numpy(), bits
    )


def _exposure(users: DataFrame, ks: tuple[int, ...], num_items: int) -> NDArray[np.int64]:
    """(len(ks), I + 1): `exposure.count` of all lists."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros((len(ks), num_items + 1), np.int64)
        for batch in batches:
            items = np.maximum(dense(pa.chunked_array([batch.column(0)]), max(ks)), 0)
            total += exposure.count(exposure.without_repeats(items), ks, num_items)
        nonzero = np.flatnonzero(total.any(axis=0))
        yield pa.RecordBatch.from_pydict(
            {"item": nonzero, **{f"at{column}": row[nonzero] for column, row in enumerate(total)}}
        )

    names = [f"at{column}" for column in range(len(ks))]
    counted = users.select("items").mapInArrow(
        count, ", ".join(f"{name} long" for name in ("item", *names))
    )
    table = counted.groupBy("item").agg(*(F.sum(name).alias(name) for name in names)).toArrow()
    counts = np.zeros((len(ks), num_items + 1), np.int64)
    for row, name in zip(counts, names, strict=True):
        row[table["item"].to_numpy()] = table[name].to_numpy()
    return counts


def _catalogue(items: pa.Table, fields: list[str]) -> Catalogue:
    """items: item_idx, events, asked (number of evaluated events), one column per field."""
    number = items[c.ITEM_IDX].to_numpy()
    size = int(number.max(initial=0))
    counts = np.zeros((2, size + 1), np.int64)
    for row, name in zip(counts, ("events", "asked"), strict=True):
        row[number] = items[name].fill_null(0).to_numpy()
    columns: dict[str, list[str | None]] = {}
    for name in fields:
        columns[name] = [None] * (size + 1)
        for at, value in zip(number.tolist(), items[name].to_pylist(), strict=True):
            columns[name][at] = value
    return credited(Catalogue.of(counts[0], columns, counts[1]), items)
