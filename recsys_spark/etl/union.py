"""The union of several models' lists: candidates of a query for a second model to rank.

An item that one of the lists has is a candidate, once. `context` says of it, under the name of each
model that lists it,
    NAME_rank     its place in the model's list, from 1
    NAME_score    its score there
    NAME_level    the score's place between the lowest (0) and the highest (1) of the list; 1 where
                  all are equal
and beside them
    fused         sum over the lists of 1 / (60 + place) (reciprocal rank fusion; Cormack, Clarke
                  and Buettcher, SIGIR 2009, which is where 60 comes from)
    lists         how many models list it
    item_events   events of the item before the scored part
    query_events  events of the query before it

Candidates are in the order of `fused`, equal ones by item id. As a list of that order they are a
recommender that learns nothing: score them by `shown_order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c

CONSTANT = 60
OF_A_LIST = ("rank", "score", "level")
OF_ALL = ("fused", "lists", "item_events", "query_events")


def features(names: Sequence[str]) -> list[str]:
    """What `context` may have of a candidate, where these models made the lists."""
    return [f"{name}_{fact}" for name in names for fact in OF_A_LIST] + list(OF_ALL)


def named(models: Sequence[str]) -> list[str]:
    """A name for each list: its model's, with a number from the second of one model on.

    >>> named(["ease", "item_knn", "ease"])
    ['ease', 'item_knn', 'ease_2']
    """
    return [
        model if not (earlier := list(models[:place]).count(model)) else f"{model}_{earlier + 1}"
        for place, model in enumerate(models)
    ]


def of_lists(lists: Mapping[str, DataFrame], events: DataFrame, part: str) -> DataFrame:
    """(query_id, item_id, source, position from 1, context).

    lists: {name: (query_id, item_id, rank, score)}. events: the split. A target of the part that no
    list has is no candidate, so nothing can find it.
    """
    known = events.where(F.col(c.PART).isin(*c.KNOWN[part]))
    targets = events.where(F.col(c.PART) == part).select(c.QUERY_ID, c.ITEM_ID).distinct()
    of_items = known.groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("item_events"))
    of_queries = known.groupBy(c.QUERY_ID).agg(F.count(F.lit(1)).alias("query_events"))
    rows = (
        _united(lists)
        .join(of_items, on=c.ITEM_ID, how="left")
        .join(of_queries, on=c.QUERY_ID, how="left")
        .join(targets.withColumn("_target", F.lit(True)), on=[c.QUERY_ID, c.ITEM_ID], how="left")
    )
    of_all = [
        F.struct(F.lit(name), F.coalesce(name, F.lit(0)).cast("float").cast("string"))
        for name in OF_ALL
    ]
    best_first = Window.partitionBy(c.QUERY_ID).orderBy(F.desc("fused"), c.ITEM_ID)
    return rows.select(
        c.QUERY_ID,
        c.ITEM_ID,
        F.when(F.col("_target"), c.TARGET).otherwise(c.UNION).alias(c.SOURCE),
        F.row_number().over(best_first).alias(c.POSITION),
        F.map_from_entries(F.concat("_facts", F.array(*of_all))).alias(c.CONTEXT),
    )


def _united(lists: Mapping[str, DataFrame]) -> DataFrame:
    """(query_id, item_id, fused, lists, _facts array<struct<name, text>>), of every item once."""
    marked = [
        rows.select(c.QUERY_ID, c.ITEM_ID, c.RANK, c.SCORE, F.lit(name).alias("_name"))
        for name, rows in lists.items()
    ]
    # By query alone: all that follows then needs no further shuffle
    rows = reduce(DataFrame.unionByName, marked).repartition(c.QUERY_ID)
    of_list = Window.partitionBy(c.QUERY_ID, "_name")
    low, high = F.min(c.SCORE).over(of_list), F.max(c.SCORE).over(of_list)
    level = F.when(high > low, (F.col(c.SCORE) - low) / (high - low)).otherwise(1.0)
    values = (F.col(c.RANK), F.col(c.SCORE), level)
    facts = [
        F.struct(F.concat("_name", F.lit(f"_{fact}")), value.cast("float").cast("string"))
        for fact, value in zip(OF_A_LIST, values, strict=True)
    ]
    return (
        rows.withColumn("_facts", F.array(*facts))
        .groupBy(c.QUERY_ID, c.ITEM_ID)
        .agg(
            # Exact in any order: a sum of floats is not
            F.expr(
                f"aggregate(sort_array(collect_list({c.RANK})), 0D, (sum, place) -> "
                f"sum + 1 / ({CONSTANT} + place))"
            ).alias("fused"),
            F.count(F.lit(1)).alias("lists"),
            F.sort_array(F.flatten(F.collect_list("_facts"))).alias("_facts"),
        )
    )


def with_features(candidates: DataFrame, names: Sequence[str]) -> DataFrame:
    """Candidates with a float column for each name; NaN where `context` lacks it."""
    texts = F.col(c.CONTEXT)
    none = F.lit(float("nan"))
    return candidates.withColumns(
        {name: F.coalesce(texts.getItem(name).cast("float"), none) for name in names}
    )


def to_fit(candidates: DataFrame, names: Sequence[str]) -> DataFrame:
    """(query_id, wanted array<int>, names..., each an array<float>): the candidates of each query
    in their order. Queries of which no candidate is a target teach nothing, and are left out.
    """
    wanted = (F.col(c.SOURCE) == c.TARGET).cast("int").alias("wanted")
    entry = F.struct(c.POSITION, wanted, *names)
    sets = (
        with_features(candidates, names)
        .groupBy(c.QUERY_ID)
        .agg(F.sort_array(F.collect_list(entry)).alias("set"))
    )
    lists = sets.select(
        c.QUERY_ID,
        *(F.col("set").getField(name).alias(name) for name in ("wanted", *names)),
    )
    return lists.where(F.array_max("wanted") > 0)
