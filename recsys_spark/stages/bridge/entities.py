"""Users and items of a split, with their fields and numbers. Of playlists the users are these."""

from __future__ import annotations

from typing import Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl.split import rule_of
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context


def of_side(
    ctx: Context, side: Literal["user", "item"], source: str
) -> tuple[DataFrame, DataFrame]:
    """(table with `fields`, its index) of a side that the split has."""
    if side == "item":
        return ctx.read(c.ITEMS, source), ctx.read(c.ITEM_INDEX, source)
    rows = users(ctx, source)
    assert rows is not None, "the split has users"
    return rows, user_index(ctx, source)


def users(ctx: Context, source: str) -> DataFrame | None:
    """(user_id, fields): what is known of them when lists are made; None without such a table."""
    prepared = ctx.inputs[source]
    if c.USERS not in prepared.output_versions:
        return None
    rows = ctx.read(c.USERS, source).withColumn(c.QUERY_ID, F.col(c.USER_ID))
    facts, events = prepared.summary, lineage.split_rows(ctx, source)
    return rule_of(facts).known_fields(rows, events, facts["seed"]).drop(c.QUERY_ID)


def user_index(ctx: Context, source: str) -> DataFrame:
    """(user_id, user_idx)."""
    kind = lineage.query_kind(ctx, source)
    if kind == c.USER:
        return ctx.read(c.USER_INDEX, source)
    numbers = ctx.read(c.QUERY_INDEX, source).where(F.col(c.QUERY_KIND) == kind)
    return numbers.select(F.col(c.QUERY_ID).alias(c.USER_ID), F.col(c.QUERY_IDX).alias(c.USER_IDX))
