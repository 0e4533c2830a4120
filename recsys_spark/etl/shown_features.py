"""What is known of each item of a list that was shown, in its session, before it was answered: the
four features of the organisers of the RecSys Challenge 2019.

    shown_place   ln(position)
    shown_price   price divided by the mean price of the list; 1 where there is none
    shown_met     ln(1 + earlier events of the item in the query)
    shown_last    1 for the item of the query's last event before the list, else 0
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl.queries import newest_first

NAMES = ("shown_place", "shown_price", "shown_met", "shown_last")


def of_lists(lists: DataFrame, known: DataFrame) -> DataFrame:
    """lists (query_id, item_id, position, context, ...), one list a query, with a column for each
    of NAMES. known: the events of the queries before their lists, of the columns of `splits`.
    """
    newest = F.row_number().over(newest_first(c.QUERY_ID)) == 1
    met = (
        known.withColumn("_newest", newest)
        .groupBy(c.QUERY_ID, c.ITEM_ID)
        .agg(F.count(F.lit(1)).alias("_met"), F.max("_newest").alias("_last"))
    )
    price = F.col(c.CONTEXT).getItem("price").try_cast("double")
    mean = F.avg("_price").over(Window.partitionBy(c.QUERY_ID))
    relative = F.when(mean > 0, F.col("_price") / mean)
    return (
        lists.withColumn("_price", price)
        .withColumn("_relative", relative)
        .join(met, on=[c.QUERY_ID, c.ITEM_ID], how="left")
        .withColumns(
            {
                "shown_place": F.log(F.greatest(F.lit(1), c.POSITION)).cast("float"),
                "shown_price": F.coalesce("_relative", F.lit(1.0)).cast("float"),
                "shown_met": F.log1p(F.coalesce("_met", F.lit(0))).cast("float"),
                "shown_last": F.coalesce("_last", F.lit(False)).cast("float"),
            }
        )
        .drop("_price", "_relative", "_met", "_last")
    )


def answered(impressions: DataFrame, events: DataFrame) -> DataFrame:
    """(query_id, chosen, NAMES..., each an array in the order of positions): the last answered list
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
    )
    place = F.row_number().over(newest_first(c.QUERY_ID))
    known = events.withColumn("_place", place).where("_place > 1").drop("_place")
    entry = F.struct(c.POSITION, c.VALUE, *NAMES)
    sets = (
        of_lists(lists, known)
        .groupBy(c.QUERY_ID)
        .agg(F.sort_array(F.collect_list(entry)).alias("set"))
    )
    clicked = F.array_position(F.transform(F.col("set")[c.VALUE], lambda v: v > 0), True)
    return sets.select(
        c.QUERY_ID,
        (clicked - 1).alias("chosen"),
        *(F.col("set")[name].alias(name) for name in NAMES),
    ).where("chosen >= 0")
