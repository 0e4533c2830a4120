"""The items among which a query's targets are ranked where that is not the whole catalogue: a set for each query.

A query is a user with an event in the scored part; its items of that part are its targets. Beside them stand
sampled    `count` items, uniform among those of the split that the user touched neither in the part nor before it, without repeats
           (what a later part holds is unknown when validation is scored): draw d of a user is the item at the place hash(seed,
           user_id, d) of all items ordered by hash(item_id), and what was touched or drawn before is passed over. So they depend
           on the seed, the user and the split alone.
new_items  every item of the scored part that no part before it knows: the catalogue of C-ITEM.
published  what a file says: NCF's format, `(user,item)<tab>negative<tab>negative ...` a line, in the ids of the raw data.
A target that stands among its own negatives is one candidate, and counts as the target.
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
    """(query_id, item_id, source, position 0): the items of every query."""
    pairs = events.where(F.col(c.PART) == part).select(F.col(c.USER_ID).alias(c.QUERY_ID), c.ITEM_ID).distinct()
    return pairs.select(c.QUERY_ID, c.ITEM_ID, F.lit(c.TARGET).alias(c.SOURCE), F.lit(0).alias(c.POSITION))


def sampled(events: DataFrame, part: str, count: int, seed: int) -> DataFrame:
    """(query_id, item_id, source, position from 1): the drawn negatives of every query. `events` is the whole split."""
    items = events.select(c.ITEM_IDX, c.ITEM_ID).distinct()
    numbers = items.select(c.ITEM_IDX, F.xxhash64(c.ITEM_ID).alias("hash")).toArrow()  # 12 bytes an item, on the driver and each worker
    by_hash = np.lexsort((numbers.column(c.ITEM_IDX).to_numpy(), numbers.column("hash").to_numpy()))
    catalogue = numbers.column(c.ITEM_IDX).to_numpy()[by_hash].astype(np.int32)
    known = events.where(F.col(c.PART).isin(*c.BEFORE[part], part))
    users = known.groupBy(c.USER_ID).agg(F.collect_set(c.ITEM_IDX).alias("touched"), F.max(F.col(c.PART) == part).alias("scored"))
    queries = users.where(F.col("scored")).select(c.USER_ID, order.hashed(seed, "candidates", c.USER_ID).alias("key"), "touched")
    drawn = queries.mapInArrow(partial(draw_batches, catalogue, count), f"{c.USER_ID} string, items array<int>")
    rows = drawn.select(c.USER_ID, F.posexplode("items").alias("place", c.ITEM_IDX)).join(items, on=c.ITEM_IDX, how="inner")
    source, position = F.lit(c.SAMPLED).alias(c.SOURCE), (F.col("place") + 1).alias(c.POSITION)
    return rows.select(F.col(c.USER_ID).alias(c.QUERY_ID), c.ITEM_ID, source, position)


def draw_batches(catalogue: NDArray[np.int32], count: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: (user_id, key, touched) -> (user_id, items)."""
    for batch in batches:
        keys, touched = batch.column("key").to_numpy(), batch.column("touched")
        items = [draw(int(key), touched[row].values.to_numpy(), catalogue, count) for row, key in enumerate(keys)]
        yield pa.RecordBatch.from_arrays([batch.column(c.USER_ID), pa.array(items, pa.list_(pa.int32()))], names=[c.USER_ID, "items"])


def draw(key: int, touched: NDArray[np.int32], catalogue: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """`count` different items of the catalogue, uniform among those not `touched`, as drawn; all of them when there are no more."""
    count, draws = min(count, len(catalogue) - len(touched)), 2 * count + 16
    while True:
        items = catalogue[_mixed(key, draws) % np.uint64(len(catalogue))]
        items = items[~np.isin(items, touched)]
        first = np.sort(np.unique(items, return_index=True)[1])
        if len(first) >= count:
            return items[first[:count]]
        draws *= 2


def _mixed(key: int, count: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): the first numbers of the stream that starts at `key`."""
    mixed = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * _STEP
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def new_items(events: DataFrame, part: str) -> DataFrame:
    """(query_id, item_id, source, position from 1, in the order of their numbers): for every query all new items but its targets.

    Their number times that of the queries makes the rows: new items are few beside the catalogue, or the split is not of C-ITEM.
    """
    known = events.where(F.col(c.PART).isin(*c.BEFORE[part]))
    new = events.where(F.col(c.PART) == part).select(c.ITEM_IDX, c.ITEM_ID).distinct().join(known, on=c.ITEM_IDX, how="left_anti")
    numbered = new.select(c.ITEM_ID, F.row_number().over(Window.orderBy(c.ITEM_IDX)).alias(c.POSITION))
    own = targets(events, part).select(c.QUERY_ID, c.ITEM_ID)
    offered = own.select(c.QUERY_ID).distinct().crossJoin(F.broadcast(numbered)).join(own, on=[c.QUERY_ID, c.ITEM_ID], how="left_anti")
    return offered.select(c.QUERY_ID, c.ITEM_ID, F.lit(c.NEW_ITEMS).alias(c.SOURCE), c.POSITION)


def lines_of(events: DataFrame, path: str) -> DataFrame:
    """(query_id, target, negatives array<string>) of a published file. Raises DataError for a line of another form."""
    lines = events.sparkSession.read.text(path)
    bad = lines.where(~F.col("value").rlike(_LINE)).limit(1).collect()
    if bad:
        raise DataError(f"candidates file {path}", found=repr(bad[0]["value"][:80]),
                        expected="lines of `(user,item)`, a tab, and negatives with tabs between",
                        remedy="check that this is a file of NCF's format")
    user, item, negatives = (F.regexp_extract("value", _LINE, group) for group in (1, 2, 3))
    return lines.select(user.alias(c.QUERY_ID), item.alias("target"), F.split(negatives, "\t").alias("negatives"))


def require_matching(lines: DataFrame, wanted: DataFrame, path: str, part: str) -> None:
    """Every line is of a target of the part, and every query has a line. Raises DataError."""
    of_lines, of_part = lines.select(c.QUERY_ID, F.col("target").alias(c.ITEM_ID)), wanted.select(c.QUERY_ID, c.ITEM_ID)
    strange = of_lines.join(of_part, on=[c.QUERY_ID, c.ITEM_ID], how="left_anti")
    lacking = of_part.join(of_lines, on=c.QUERY_ID, how="left_anti").select(c.QUERY_ID, c.ITEM_ID)
    for rows, found, expected in ((strange, "lines whose pair is not in part " + part, "the pairs of the part"),
                                  (lacking, f"pairs of part {part} whose user has no line", "a line for every user of the part")):
        count = rows.count()
        if count:
            first = rows.orderBy(c.QUERY_ID, c.ITEM_ID).first()
            raise DataError(f"candidates file {path}", found=f"{count} {found}, first {tuple(first or ())}", expected=expected,
                            remedy="take the file that was published with this split")


def published(lines: DataFrame, events: DataFrame, part: str) -> tuple[DataFrame, dict[str, int]]:
    """(query_id, item_id, source, position from 1), and what was odd in the file: {what: how often}.

    An item that is not in the split cannot be ranked and is left out; one that the user touched in another part stays.
    """
    named = lines.select(c.QUERY_ID, F.posexplode("negatives").alias("place", c.ITEM_ID))
    once = named.groupBy(c.QUERY_ID, c.ITEM_ID).agg(F.min("place").alias("place"), F.count(F.lit(1)).alias("times"))
    known = events.select(c.ITEM_ID).distinct().withColumn("known", F.lit(True))
    touched = events.groupBy(F.col(c.USER_ID).alias(c.QUERY_ID), c.ITEM_ID).agg(F.max(F.col(c.PART) == part).alias("target"))
    judged = once.join(known, on=c.ITEM_ID, how="left").join(touched, on=[c.QUERY_ID, c.ITEM_ID], how="left")
    odd = judged.agg(F.sum(F.col("times") - 1).alias("repeated_negatives"), F.count_if(F.col("known").isNull()).alias("unknown_negatives"),
                     F.count_if("target").alias("targets_among_negatives"), F.count_if(~F.col("target")).alias("touched_negatives"))
    facts = {name: int(value or 0) for name, value in odd.collect()[0].asDict().items()}
    rows = judged.where(F.col("known").isNotNull() & ~F.coalesce("target", F.lit(False)))
    return rows.select(c.QUERY_ID, c.ITEM_ID, F.lit(c.PUBLISHED).alias(c.SOURCE), (F.col("place") + 1).alias(c.POSITION)), facts
