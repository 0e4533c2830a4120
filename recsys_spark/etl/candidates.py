"""Candidate sets: the items among which a query's targets are ranked, instead of the whole
catalogue.

A query with an event in the scored part has its items of that part as targets. The other candidates
are, by source,
sampled    `count` items, uniform among those of the split that the user touched neither in the part
           nor before it, without repeats (events of a later part are unknown when validation is
           scored): draw d of a user is the item at the place hash(seed, query_id, d) of all items
           ordered by hash(item_id), and items touched or drawn before are skipped. So they depend
           on the seed, the user and the split alone.
new_items  every item of the scored part that is in no earlier part: the catalogue of C-ITEM.
published  the content of a file in NCF's format, one line per target:
           `(user,item)<tab>negative<tab>negative ...`, with the ids of the raw data. A target that
           is also among its own negatives is one candidate, and counts as the target.
shown      the last list that was shown to the query (table `impressions`) no later than its last
           event of the part: that list alone, in its order and with its fields. A target that was
           not on it is no candidate, so nothing can find it.
"""

from __future__ import annotations

from functools import partial
from typing import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.etl import order

_LINE = r"^\(([^,()]+),([^,()]+)\)\t(.+)$"
_STEP = np.uint64(0x9E3779B97F4A7C15)


def targets(events: DataFrame, part: str) -> DataFrame:
    """(query_id, item_id, source, position 0): the targets of every query."""
    pairs = events.where(F.col(c.PART) == part).select(c.QUERY_ID, c.ITEM_ID).distinct()
    return pairs.select(
        c.QUERY_ID, c.ITEM_ID, F.lit(c.TARGET).alias(c.SOURCE), F.lit(0).alias(c.POSITION)
    )


def sampled(events: DataFrame, part: str, count: int, seed: int) -> DataFrame:
    """(query_id, item_id, source, position from 1): the drawn negatives of every query. `events` is
    the whole split.
    """
    items = events.select(c.ITEM_IDX, c.ITEM_ID).distinct()
    numbers = items.select(
        c.ITEM_IDX, F.xxhash64(c.ITEM_ID).alias("hash")
    ).toArrow()  # 12 bytes per item, on the driver and each worker
    by_hash = np.lexsort((numbers.column(c.ITEM_IDX).to_numpy(), numbers.column("hash").to_numpy()))
    catalogue = numbers.column(c.ITEM_IDX).to_numpy()[by_hash].astype(np.int32)
    seen = events.where(F.col(c.PART).isin(*c.BEFORE[part], part))
    users = seen.groupBy(c.QUERY_ID).agg(
        F.collect_set(c.ITEM_IDX).alias("touched"), F.max(F.col(c.PART) == part).alias("scored")
    )
    queries = users.where(F.col("scored")).select(
        c.QUERY_ID, order.hashed(seed, "candidates", c.QUERY_ID).alias("key"), "touched"
    )
    drawn = queries.mapInArrow(
        partial(draw_batches, catalogue, count), f"{c.QUERY_ID} string, items array<int>"
    )
    rows = drawn.select(c.QUERY_ID, F.posexplode("items").alias("place", c.ITEM_IDX)).join(
        items, on=c.ITEM_IDX, how="inner"
    )
    source, position = F.lit(c.SAMPLED).alias(c.SOURCE), (F.col("place") + 1).alias(c.POSITION)
    return rows.select(c.QUERY_ID, c.ITEM_ID, source, position)


def draw_batches(
    catalogue: NDArray[np.int32], count: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: (query_id, key, touched) -> (query_id, items)."""
    for batch in batches:
        keys, touched = batch.column("key").to_numpy(), batch.column("touched")
        items = [
            draw(int(key), touched[row].values.to_numpy(), catalogue, count)
            for row, key in enumerate(keys)
        ]
        yield pa.RecordBatch.from_arrays(
            [batch.column(c.QUERY_ID), pa.array(items, pa.list_(pa.int32()))],
            names=[c.QUERY_ID, "items"],
        )


def draw(
    key: int, touched: NDArray[np.int32], catalogue: NDArray[np.int32], count: int
) -> NDArray[np.int32]:
    """`count` different items of the catalogue, uniform among those not `touched`, in the order of
    the draws; all of these when there are no more than `count`.
    """
    count, draws = min(count, len(catalogue) - len(touched)), 2 * count + 16
    while True:
        items = catalogue[_mixed(key, draws) % np.uint64(len(catalogue))]
        items = items[~np.isin(items, touched)]
        first = np.sort(np.unique(items, return_index=True)[1])
        if len(first) >= count:
            return items[first[:count]]
        draws *= 2


def _mixed(key: int, count: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): the first `count` numbers of the stream that starts
    at `key`.
    """
    mixed = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * _STEP
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def new_items(events: DataFrame, part: str) -> DataFrame:
    """(query_id, item_id, source, position from 1, in the order of item_idx): for every query all
    new items except its targets.

    There are (new items) * (queries) rows: in a split of C-ITEM, new items are a small part of the
    catalogue.
    """
    earlier = events.where(F.col(c.PART).isin(*c.BEFORE[part]))
    new = (
        events.where(F.col(c.PART) == part)
        .select(c.ITEM_IDX, c.ITEM_ID)
        .distinct()
        .join(earlier, on=c.ITEM_IDX, how="left_anti")
    )
    numbered = new.select(
        c.ITEM_ID, F.row_number().over(Window.orderBy(c.ITEM_IDX)).alias(c.POSITION)
    )
    own = targets(events, part).select(c.QUERY_ID, c.ITEM_ID)
    offered = (
        own.select(c.QUERY_ID)
        .distinct()
        .crossJoin(F.broadcast(numbered))
        .join(own, on=[c.QUERY_ID, c.ITEM_ID], how="left_anti")
    )
    return offered.select(c.QUERY_ID, c.ITEM_ID, F.lit(c.NEW_ITEMS).alias(c.SOURCE), c.POSITION)


def shown(impressions: DataFrame, events: DataFrame, part: str) -> tuple[DataFrame, dict[str, int]]:
    """(query_id, item_id, source, position, ts, context), and {what of the part and its lists does
    not fit: count}.

    impressions: those of the split's kind of query.
    """
    of_part = events.where(F.col(c.PART) == part)
    asked = of_part.groupBy(c.QUERY_ID).agg(F.max(c.TS).alias("_until"))
    before = impressions.join(asked, on=c.QUERY_ID, how="inner").where(
        F.col(c.TS) <= F.col("_until")
    )
    latest = Window.partitionBy(c.QUERY_ID).orderBy(F.desc(c.TS), F.desc(c.IMPRESSION_ID))
    last = before.withColumn("_list", F.rank().over(latest)).where(F.col("_list") == 1)
    wanted = of_part.select(c.QUERY_ID, c.ITEM_ID).distinct().withColumn("_target", F.lit(True))
    judged = last.join(wanted, on=[c.QUERY_ID, c.ITEM_ID], how="left")
    counts = judged.agg(
        F.count_if("_target").alias("targets"),
        F.countDistinct(c.QUERY_ID).alias("queries"),
    ).collect()[0]
    split = events.select(c.QUERY_ID).distinct()
    facts = {
        "targets_not_shown": wanted.count() - counts["targets"],
        "queries_without_list": asked.count() - counts["queries"],
        "impressions_of_no_query": impressions.join(split, on=c.QUERY_ID, how="left_anti").count(),
    }
    source = F.when(F.col("_target"), c.TARGET).otherwise(c.SHOWN).alias(c.SOURCE)
    rows = judged.select(c.QUERY_ID, c.ITEM_ID, source, c.POSITION, c.TS, c.CONTEXT)
    return rows, facts


def unanswered(impressions: DataFrame, events: DataFrame) -> tuple[DataFrame, dict[str, int]]:
    """As `shown`, of the last list of each query where nothing is known of what came of it. A query
    without an event in the split has no number: its list is counted, and has no candidates.
    """
    by_list = Window.partitionBy(c.QUERY_ID, c.TS, c.IMPRESSION_ID)
    latest = Window.partitionBy(c.QUERY_ID).orderBy(F.desc(c.TS), F.desc(c.IMPRESSION_ID))
    lists = impressions.withColumns(
        {"_known": F.max(F.col(c.VALUE).isNotNull()).over(by_list), "_list": F.rank().over(latest)}
    )
    asked = lists.where((F.col("_list") == 1) & ~F.col("_known"))
    split = events.select(c.QUERY_ID).distinct()
    counted = asked.select(c.QUERY_ID).distinct().join(split, on=c.QUERY_ID, how="left_anti")
    rows = asked.join(split, on=c.QUERY_ID, how="left_semi").select(
        c.QUERY_ID, c.ITEM_ID, F.lit(c.SHOWN).alias(c.SOURCE), c.POSITION, c.TS, c.CONTEXT
    )
    return rows, {"lists_of_queries_without_event": counted.count()}


def lines_of(events: DataFrame, path: str) -> DataFrame:
    """(query_id, target, negatives array<string>) of a published file. Raises DataError for a line
    in another format.
    """
    lines = events.sparkSession.read.text(path)
    bad = lines.where(~F.col("value").rlike(_LINE)).limit(1).collect()
    if bad:
        raise DataError(
            f"candidates file {path}",
            found=repr(bad[0]["value"][:80]),
            expected="lines of `(user,item)`, a tab, and negatives with tabs between",
            remedy="check that this is a file of NCF's format",
        )
    user, item, negatives = (F.regexp_extract("value", _LINE, group) for group in (1, 2, 3))
    return lines.select(
        user.alias(c.QUERY_ID), item.alias("target"), F.split(negatives, "\t").alias("negatives")
    )


def require_matching(lines: DataFrame, target_events: DataFrame, path: str, part: str) -> None:
    """Raises DataError unless every line is for a target of the part and every query has a line."""
    of_lines, of_part = (
        lines.select(c.QUERY_ID, F.col("target").alias(c.ITEM_ID)),
        target_events.select(c.QUERY_ID, c.ITEM_ID),
    )
    strange = of_lines.join(of_part, on=[c.QUERY_ID, c.ITEM_ID], how="left_anti")
    lacking = of_part.join(of_lines, on=c.QUERY_ID, how="left_anti").select(c.QUERY_ID, c.ITEM_ID)
    for rows, problem, expected in (
        (strange, "lines whose pair is not in part " + part, "the pairs of the part"),
        (
            lacking,
            f"pairs of part {part} whose user has no line",
            "a line for every user of the part",
        ),
    ):
        count = rows.count()
        if count:
            first = rows.orderBy(c.QUERY_ID, c.ITEM_ID).first()
            raise DataError(
                f"candidates file {path}",
                found=f"{count} {problem}, first {tuple(first or ())}",
                expected=expected,
                remedy="take the file that was published with this split",
            )


def published(lines: DataFrame, events: DataFrame, part: str) -> tuple[DataFrame, dict[str, int]]:
    """(query_id, item_id, source, position from 1), and {irregularity in the file: count}.

    An item that is not in the split cannot be ranked and is left out; one that the user touched in
    another part stays.
    """
    named = lines.select(c.QUERY_ID, F.posexplode("negatives").alias("place", c.ITEM_ID))
    once = named.groupBy(c.QUERY_ID, c.ITEM_ID).agg(
        F.min("place").alias("place"), F.count(F.lit(1)).alias("times")
    )
    catalogue = events.select(c.ITEM_ID).distinct().withColumn("known", F.lit(True))
    touched = events.groupBy(c.QUERY_ID, c.ITEM_ID).agg(
        F.max(F.col(c.PART) == part).alias("target")
    )
    judged = once.join(catalogue, on=c.ITEM_ID, how="left").join(
        touched, on=[c.QUERY_ID, c.ITEM_ID], how="left"
    )
    odd = judged.agg(
        F.sum(F.col("times") - 1).alias("repeated_negatives"),
        F.count_if(F.col("known").isNull()).alias("unknown_negatives"),
        F.count_if("target").alias("targets_among_negatives"),
        F.count_if(~F.col("target")).alias("touched_negatives"),
    )
    facts = {name: int(value or 0) for name, value in odd.collect()[0].asDict().items()}
    rows = judged.where(F.col("known").isNotNull() & ~F.coalesce("target", F.lit(False)))
    return rows.select(
        c.QUERY_ID,
        c.ITEM_ID,
        F.lit(c.PUBLISHED).alias(c.SOURCE),
        (F.col("place") + 1).alias(c.POSITION),
    ), facts
