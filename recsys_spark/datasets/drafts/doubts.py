"""What looks wrong in a sample, in words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from recsys_spark.core import columns as c
from recsys_spark.datasets.drafts.columns import Column
from recsys_spark.datasets.drafts.roles import Role

NO_IDS = ("", "null", "none", "nan", "unknown", "anonymous", "0", "-1")
_CROWD = 0.05  # of all events: more than a person makes
_NULLS = 0.001  # of a column: beyond the share of rows that an ingest step may reject


def doubts(roles: Mapping[str, Role], events: pd.DataFrame, now: float) -> list[str]:
    """events: user_id, item_id as text, ts in seconds, value. now: seconds since 1970."""
    says = []
    for role in (c.USER_ID, c.ITEM_ID):
        column = roles[role].column
        if column.nulls > _NULLS * column.rows:
            share = 100 * column.nulls / column.rows
            says.append(f"{column.name} is null in {share:.1f} % of the rows: these are rejected")
        if column.type.startswith(("double", "float", "decimal")):
            says.append(f"{column.name} is a number with a point: 12.0 becomes the id 12")
        filler = events[role][events[role].str.strip().str.lower().isin(NO_IDS)]
        if len(filler) > _CROWD * len(events):
            says.append(
                f"{column.name} is {filler.iloc[0]!r} in {len(filler):,} of {len(events):,} rows, "
                "as if it were nobody's: leave these rows out by a `query`"
            )
    if c.TS in roles and len(events):
        says += _of_times(roles[c.TS].column, events[c.TS], now)
    if c.VALUE in roles:
        column = roles[c.VALUE].column
        if column.low is not None and column.low < 0:
            says.append(f"{column.name} goes down to {column.low:g}: is that a dislike?")
        if column.distinct == 1:
            says.append(f"{column.name} is {column.examples[0]} everywhere: it says nothing")
    return says


def _of_times(column: Column, times: pd.Series[int], now: float) -> list[str]:
    name = column.name
    if times.nunique() == 1:
        return [f"{name} is the same in all rows: they have no order"]
    future = int((times > now).sum())
    says = [f"{name} lies in the future in {future:,} rows"] if future else []
    if column.written is not None and column.either:
        says.append(f"{name} is read as {column.written.words}: is its month the other number?")
    if bool((times % 86_400 == 0).all()):
        says.append(f"{name} is a day without a time: the order within a day is by chance")
    return says
