"""What a rule is, and what rules share: shares in whole numbers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator
from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.etl import queries

# What a split keeps of an event
EVENT = (
    *(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE),
    *(c.SESSION_ID, c.ACTION, c.POSITION, c.STEP),
)
# Shares are counted in them, so that 0.8 + 0.1 is 0.9 and every machine gets the same whole numbers
_PARTS_PER_BILLION = 10**9


class Rule(Settings):
    """A rule and its arguments. `assign` gets every event of the split and gives each its part."""

    needs: ClassVar[tuple[str, ...]] = ()  # columns of `interactions` beside EVENT
    filters: ClassVar[bool] = True  # false: no event may be left out beforehand
    # Queries of valid and test are in no other part; what is known of them is their fold-in part
    held_out: ClassVar[bool] = False
    query_kind: ClassVar[queries.Kind] = "user"  # whose lists are made

    @property
    def until(self) -> int | None:
        """Events from this time on take no part, and are left out before anything is counted."""
        return None

    def cut(self, events: DataFrame) -> DataFrame:
        """The events (EVENT, *needs) that take part: those of an item."""
        return events.where(F.col(c.ITEM_ID) != c.NO_ITEM)

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        """events (EVENT, *needs) -> the same rows as (query_id, EVENT, part)."""
        return self.divide(events.withColumn(c.QUERY_ID, queries.id_of(self.query_kind)), seed)

    def scenarios(self, events: DataFrame, seed: int) -> DataFrame | None:
        """(query_id, part, scenario) of held-out queries, where the rule treats them in several
        ways. events: all of the split, with their query_id.
        """
        return None

    def known_fields(self, users: DataFrame, events: DataFrame, seed: int) -> DataFrame:
        """Queries (query_id, fields, ...) with those of their fields that are known when their
        lists are made. events: as for `scenarios`.
        """
        return users

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """As `assign`, of events that have their query_id."""
        raise NotImplementedError


def _add_up(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    train, valid, test = fractions
    if train <= 0 or valid < 0 or test <= 0 or abs(train + valid + test - 1) > 1e-9:
        raise ValueError("train and test above 0, valid at least 0, the three adding up to 1")
    return fractions


Fractions = Annotated[tuple[float, float, float], AfterValidator(_add_up)]  # train, valid, test


def with_part(events: DataFrame, part: Column, value: Column | None = None) -> DataFrame:
    """The contract of `Rule.assign`."""
    kept = events if value is None else events.withColumn(c.VALUE, value)
    return kept.select(c.QUERY_ID, *EVENT, part.alias(c.PART))


def count_of(window: WindowSpec) -> Column:
    """Rows of the group. Over the same window as the places in it, so that the rows are sorted
    once.
    """
    return F.count(F.lit(1)).over(
        window.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    )


def whole(total: int, share: float) -> int:
    """The largest whole number that is at most `share` of `total`.

    >>> whole(10, 0.8 + 0.1), int(10 * (0.8 + 0.1)), whole(15, 0.1)
    (9, 9, 1)
    >>> whole(100, 0.57), int(100 * 0.57)  # in floating point 100 * .57 is below 57
    (57, 56)
    """
    return total * round(share * _PARTS_PER_BILLION) // _PARTS_PER_BILLION


def rounded(count: Column, share: float) -> Column:
    """`share` of a column of counts (below 9 billion), to the nearest whole number, halves up."""
    return _div(count * F.lit(round(share * _PARTS_PER_BILLION)) + F.lit(_PARTS_PER_BILLION // 2))


def floored(count: Column, share: float) -> Column:
    """`share` of a column of counts (below 9 billion), down to a whole number."""
    return _div(count * F.lit(round(share * _PARTS_PER_BILLION)))


def _div(billions: Column) -> Column:
    # Of whole numbers: `/` would go through doubles
    return F.call_function("div", billions, F.lit(_PARTS_PER_BILLION))
