"""Scored rows and the events they should have found -> one row per run and user, ready to be measured.

`units` (of_run_id, block, user_idx, user_id, activity) has every evaluated user once for every run, so that a user whom a run left
out is there too. Blocks are dealt by a hash of the user: partial sums over a block are the same however Spark splits the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.metrics.blocks import NAN, UNKNOWN

OF, BLOCK, ACTIVITY = "of_run_id", "block", "activity"
USERS_PER_BLOCK, MAX_BLOCKS = 8192, 64  # the partial sums that reach the driver are bounded, whatever the number of users


def users_of(rows: DataFrame, train: DataFrame) -> DataFrame:
    """Users of the evaluated `rows`: user_idx, user_id, events (their rows in `train`)."""
    events = train.groupBy(c.USER_IDX).agg(F.count(F.lit(1)).alias("events"))
    users = rows.select(c.USER_IDX, c.USER_ID).distinct().join(events, on=c.USER_IDX, how="left")
    return users.select(c.USER_IDX, c.USER_ID, F.coalesce("events", F.lit(0)).alias("events"))


def units(users: DataFrame, runs: DataFrame, bounds: Sequence[float], num_users: int) -> DataFrame:
    """Every user for each of `runs` (of_run_id). activity: 1 + how many of `bounds` the user's events exceed."""
    activity = reduce(lambda level, bound: level + (F.col("events") > bound).cast("int"), bounds, F.lit(1))
    blocks = min(MAX_BLOCKS, math.ceil(num_users / USERS_PER_BLOCK))
    block = F.pmod(F.xxhash64(c.USER_IDX), F.lit(blocks)).cast("int")
    return users.crossJoin(F.broadcast(runs)).select(OF, block.alias(BLOCK), c.USER_IDX, c.USER_ID, activity.alias(ACTIVITY))


def ranking_users(units: DataFrame, rows: DataFrame, train: DataFrame, entries: DataFrame) -> DataFrame:
    """of_run_id, block, user_idx, activity, targets, items, events as `metrics.blocks.ranking_block` wants them.

    entries: rows of `recommendations`. A list is in order of (rank, item_id); see `metrics.blocks` for the codes in `items`.
    """
    targets = rows.groupBy(c.USER_IDX).agg(F.sort_array(F.collect_set(c.ITEM_IDX)).alias("targets"))
    events = train.groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("events"))
    items = train.select(c.ITEM_ID, c.ITEM_IDX).union(rows.select(c.ITEM_ID, c.ITEM_IDX)).distinct().join(events, on=c.ITEM_ID, how="left")
    known = entries.join(items, on=c.ITEM_ID, how="left")
    code = F.when(F.col(c.SCORE).isNull() | F.isnan(c.SCORE), NAN).otherwise(F.coalesce(c.ITEM_IDX, F.lit(UNKNOWN)))
    place = F.struct(c.RANK, c.ITEM_ID, code.alias("item"), F.coalesce("events", F.lit(0)).alias("events"))
    by_user = known.groupBy(F.col(c.RUN_ID).alias(OF), F.col(c.QUERY_ID).alias(c.USER_ID))
    lists = by_user.agg(F.sort_array(F.collect_list(place)).alias("list"))
    joined = units.join(targets, on=c.USER_IDX, how="inner").join(lists, on=[OF, c.USER_ID], how="left")
    return joined.select(
        OF, BLOCK, c.USER_IDX, ACTIVITY, "targets",
        F.coalesce("list.item", F.array().cast("array<int>")).alias("items"),
        F.coalesce("list.events", F.array().cast("array<bigint>")).alias("events"),
    )


def rating_users(units: DataFrame, rows: DataFrame, predictions: DataFrame, fallback: float) -> DataFrame:
    """of_run_id, block, user_idx, activity, labels, predictions, missing as `metrics.blocks.rating_block` wants them.

    predictions: rows of that table; of several for one run, user and item the least counts, so that their order does not.
    A row without a finite prediction gets `fallback` and is counted in `missing`.
    """
    single = predictions.groupBy(F.col(c.RUN_ID).alias(OF), c.USER_ID, c.ITEM_ID).agg(F.min(c.VALUE).alias("predicted"))
    labels = rows.select(c.USER_IDX, c.ITEM_ID, c.ITEM_IDX, c.TS, F.col(c.VALUE).alias("label"))
    joined = units.join(labels, on=c.USER_IDX, how="inner").join(single, on=[OF, c.USER_ID, c.ITEM_ID], how="left")
    finite = F.coalesce(F.abs("predicted") < F.lit(math.inf), F.lit(False))  # NaN is larger than infinity in Spark
    row = F.struct(c.ITEM_IDX, c.TS, "label", F.when(finite, F.col("predicted")).otherwise(fallback).alias("prediction"))
    users = joined.groupBy(OF, BLOCK, c.USER_IDX, ACTIVITY).agg(
        F.sort_array(F.collect_list(row)).alias("rows"), F.sum((~finite).cast("long")).alias("missing"))
    return users.select(OF, BLOCK, c.USER_IDX, ACTIVITY, F.col("rows.label").alias("labels"), F.col("rows.prediction").alias("predictions"),
                        "missing")


def coverage(users: DataFrame, ks: Sequence[int]) -> DataFrame:
    """of_run_id, k, items (of the training part, in the first k of any list), sum and squares over users of the items they alone got."""
    exploded = users.select(OF, c.USER_IDX, F.posexplode(F.arrays_zip("items", "events")).alias("place", "entry"))
    known = exploded.where((F.col("entry.items") > 0) & (F.col("entry.events") > 0))
    cut_offs = F.filter(F.array(*map(F.lit, ks)), lambda k: F.col("place") < k)
    got = known.select(OF, F.explode(cut_offs).alias(c.K), F.col("entry.items").alias("item"), c.USER_IDX).distinct()
    by_item = got.groupBy(OF, c.K, "item").agg(F.count(F.lit(1)).alias("users"), F.min(c.USER_IDX).alias("one"))
    # `one` groups the items that a single user got; -1 gathers the others, which count for the total alone.
    alone = F.when(F.col("users") == 1, F.col("one")).otherwise(-1)
    by_user = by_item.groupBy(OF, c.K, alone.alias("one")).agg(F.count(F.lit(1)).alias("items"))
    x = F.when(F.col("one") >= 0, F.col("items")).otherwise(0)
    sums = by_user.groupBy(OF, c.K).agg(F.sum("items").alias("items"), F.sum(x).alias("sum"), F.sum(x * x).alias("squares"))
    return sums.select(OF, c.K, "items", "sum", "squares")
