"""What is known of each item of a list that was shown, before the list was answered.

Of the list, in its order (the first four are those of the organisers of the RecSys Challenge 2019):
    shown_place      ln(position)
    shown_price      price divided by the mean price of the list; 1 where there is none
    shown_cheaper    share of the list's other prices that are lower
    shown_length     items of the list
Of the item among the events of the query before the list:
    shown_met        ln(1 + its events)
    shown_last       1 for the item of the last event, else 0
    shown_kinds      its different actions
    shown_since      events of the query since its last one
    shown_ago        ln(1 + seconds since its last event)
    shown_again      earlier lists of the query that it was on
    shown_from_last  its place less that of the item of the list that was met last
    shown_to_met     ln(its price / the mean price of the items of the list that were met)
Of the query before the list:
    shown_events     ln(1 + events)
    shown_items      ln(1 + different items)
    shown_began      ln(1 + seconds since the first event)
    shown_paused     ln(1 + seconds since the last event)
Of the item in answered lists of days before (UTC), of the queries that a model is fitted on:
    shown_times      ln(1 + lists that it was on)
    shown_chosen     ln(1 + times that it was chosen)
    shown_rate       (times chosen + 1) / (lists + 25): as if it was chosen once of 25 times more

NaN where there is no such thing: no earlier event of the item, no price. Whole days, because an
answer of the same hour may be the one to be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl.queries import newest_first

DAY_S = 86_400
OF_QUERY = ("shown_events", "shown_items", "shown_began", "shown_paused")
OF_DAYS = ("shown_times", "shown_chosen", "shown_rate")


def of_lists(
    lists: DataFrame,
    known: DataFrame,
    names: Sequence[str],
    impressions: DataFrame | None = None,
    fitted: DataFrame | None = None,
) -> DataFrame:
    """lists (query_id, item_id, position, ts, context, ...), one list a query, with a float column
    for each of `names`.

    known: the events of the queries before their lists, of the columns of `splits`. impressions:
    those of the kind of query; fitted (query_id): the queries whose answers may be counted. Both
    are needed for names of earlier lists alone.
    """
    rows = _of_list(lists)
    rows = rows.join(_met(known), on=[c.QUERY_ID, c.ITEM_ID], how="left")
    # Each of these is a shuffle more, which the four of `shown_logit` do not need
    if set(names) & set(OF_QUERY):
        rows = rows.join(_so_far(known), on=c.QUERY_ID, how="left")
    if "shown_again" in names:
        assert impressions is not None, "earlier lists are counted from the impressions"
        rows = rows.join(_again(lists, impressions), on=[c.QUERY_ID, c.ITEM_ID], how="left")
    if set(names) & set(OF_DAYS):
        assert impressions is not None and fitted is not None, "answers of earlier days are counted"
        answered = impressions.where(F.col(c.VALUE).isNotNull())
        past = answered.join(fitted, on=c.QUERY_ID, how="left_semi")
        rows = rows.withColumn("_day", _day())
        rows = rows.join(_days_before(rows, past), on=[c.ITEM_ID, "_day"], how="left")
    features = _features()
    none = F.lit(float("nan"))
    asked = {name: F.coalesce(features[name].cast("float"), none) for name in names}
    return rows.withColumns(asked).select(*lists.columns, *names)


def _of_list(lists: DataFrame) -> DataFrame:
    price = F.col(c.CONTEXT).getItem("price").try_cast("double")
    rows, of_query = lists.withColumn("_price", price), Window.partitionBy(c.QUERY_ID)
    by_price = Window.partitionBy(c.QUERY_ID, F.col("_price").isNull()).orderBy("_price")
    return rows.withColumns(
        {
            "_mean": F.avg("_price").over(of_query),
            "_cheaper": F.when(F.col("_price").isNotNull(), F.percent_rank().over(by_price)),
            "_length": F.count(F.lit(1)).over(of_query),
        }
    )


def _met(known: DataFrame) -> DataFrame:
    """(query_id, item_id, _met, _since, _met_ts, _kinds): of the items of the events."""
    since = F.row_number().over(newest_first(c.QUERY_ID)) - 1
    return (
        known.withColumn("_since", since)
        .groupBy(c.QUERY_ID, c.ITEM_ID)
        .agg(
            F.count(F.lit(1)).alias("_met"),
            F.min("_since").alias("_since"),
            F.max(c.TS).alias("_met_ts"),
            F.count_distinct(c.ACTION).alias("_kinds"),
        )
    )


def _so_far(known: DataFrame) -> DataFrame:
    """(query_id, _events, _items, _first_ts, _last_ts)."""
    return known.groupBy(c.QUERY_ID).agg(
        F.count(F.lit(1)).alias("_events"),
        F.count_distinct(c.ITEM_ID).alias("_items"),
        F.min(c.TS).alias("_first_ts"),
        F.max(c.TS).alias("_last_ts"),
    )


def _again(lists: DataFrame, impressions: DataFrame) -> DataFrame:
    """(query_id, item_id, _again): in how many earlier lists of its query the item was."""
    until = lists.select(c.QUERY_ID, F.col(c.TS).alias("_until")).distinct()
    earlier = impressions.join(until, on=c.QUERY_ID, how="inner").where(
        F.col(c.TS) < F.col("_until")
    )
    return earlier.groupBy(c.QUERY_ID, c.ITEM_ID).agg(F.count(F.lit(1)).alias("_again"))


def _day() -> Column:
    return F.floor(F.col(c.TS) / DAY_S)


def _days_before(rows: DataFrame, past: DataFrame) -> DataFrame:
    """(item_id, _day, _times, _chosen): for each item and day of `rows` the sums of `past` over the
    days before.
    """
    counts = past.groupBy(c.ITEM_ID, _day().alias("_day")).agg(
        F.count(F.lit(1)).alias("_times"), F.count_if(F.col(c.VALUE) > 0).alias("_chosen")
    )
    asked = rows.select(c.ITEM_ID, "_day", F.lit(0).alias("_times"), F.lit(0).alias("_chosen"))
    days = counts.unionByName(asked.distinct()).groupBy(c.ITEM_ID, "_day")
    before = Window.partitionBy(c.ITEM_ID).orderBy("_day")
    before = before.rangeBetween(Window.unboundedPreceding, -1)
    return days.agg(*(F.sum(name).alias(name) for name in ("_times", "_chosen"))).withColumns(
        {name: F.coalesce(F.sum(name).over(before), F.lit(0)) for name in ("_times", "_chosen")}
    )


def _features() -> dict[str, Column]:
    """{name: its value}, of the columns that the joins above have put beside the lists."""
    col, zero, of_query = F.col, F.lit(0), Window.partitionBy(c.QUERY_ID)
    last_place = F.min_by(c.POSITION, "_since").over(of_query)
    met_price = F.avg(F.when(col("_met").isNotNull(), col("_price"))).over(of_query)
    times, chosen = F.coalesce("_times", zero), F.coalesce("_chosen", zero)
    return {
        "shown_place": F.log(F.greatest(F.lit(1), c.POSITION)),
        "shown_price": F.coalesce(
            F.when(col("_mean") > 0, col("_price") / col("_mean")), F.lit(1.0)
        ),
        "shown_met": F.log1p(F.coalesce("_met", zero)),
        "shown_last": F.coalesce((col("_since") == 0).cast("int"), zero),
        "shown_cheaper": col("_cheaper"),
        "shown_length": col("_length"),
        "shown_kinds": F.coalesce("_kinds", zero),
        "shown_since": col("_since"),
        "shown_ago": F.log1p(col(c.TS) - col("_met_ts")),
        "shown_again": F.coalesce("_again", zero),
        "shown_from_last": col(c.POSITION) - last_place,
        "shown_to_met": F.when(
            (col("_price") > 0) & (met_price > 0), F.log(col("_price") / met_price)
        ),
        "shown_events": F.log1p(F.coalesce("_events", zero)),
        "shown_items": F.log1p(F.coalesce("_items", zero)),
        "shown_began": F.log1p(col(c.TS) - col("_first_ts")),
        "shown_paused": F.log1p(col(c.TS) - col("_last_ts")),
        "shown_times": F.log1p(times),
        "shown_chosen": F.log1p(chosen),
        "shown_rate": (chosen + 1) / (times + 25),
    }


def answered(impressions: DataFrame, events: DataFrame, names: Sequence[str]) -> DataFrame:
    """(query_id, chosen, names..., each an array in the order of positions): the last answered list
    of each query of `events`, whose newest event is the answer. chosen: the place of the answer in
    the arrays, from 0.
    """
    of_queries = events.select(c.QUERY_ID).distinct()
    latest = Window.partitionBy(c.QUERY_ID).orderBy(F.desc(c.TS), F.desc(c.IMPRESSION_ID))
    lists = (
        impressions.where(F.col(c.VALUE).isNotNull())
        .join(of_queries, on=c.QUERY_ID, how="left_semi")
        .withColumn("_list", F.rank().over(latest))
        .where("_list = 1")
        .select(c.QUERY_ID, c.ITEM_ID, c.POSITION, c.TS, c.VALUE, c.CONTEXT)
    )
    place = F.row_number().over(newest_first(c.QUERY_ID))
    known = events.withColumn("_place", place).where("_place > 1").drop("_place")
    entry = F.struct(c.POSITION, c.VALUE, *names)
    sets = (
        of_lists(lists, known, names, impressions, of_queries)
        .groupBy(c.QUERY_ID)
        .agg(F.sort_array(F.collect_list(entry)).alias("set"))
    )
    clicked = F.array_position(F.transform(F.col("set")[c.VALUE], lambda v: v > 0), True)
    return sets.select(
        c.QUERY_ID,
        (clicked - 1).alias("chosen"),
        *(F.col("set")[name].alias(name) for name in names),
    ).where("chosen >= 0")
