"""What a rule is, and what rules share: shares in whole numbers, the order of a user's events."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator
from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings

_PARTS_PER_BILLION = 10**9  # shares are counted in them, so that 0.8 + 0.1 is 0.9 and every machine gets the same whole numbers


class Rule(Settings):
    """A rule and its arguments. `assign` gets every event of the split and gives each its part."""

    needs: ClassVar[tuple[str, ...]] = ()  # columns of `interactions` beside user_id, item_id, ts and value
    filters: ClassVar[bool] = True  # false: no event may be left out beforehand
    users_held_out: ClassVar[bool] = False  # users of valid and test are in no other part; what is known of them is their fold-in part
    renames_users: ClassVar[bool] = False  # true: the users of the split are not those of the table, but for example their sessions

    @property
    def until(self) -> int | None:
        """Events from this time on take no part, and are left out before anything is counted."""
        return None

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        """events (user_id, item_id, ts, value, *needs) -> (user_id, item_id, ts, value, part), the same rows (but for `renames_users`)."""
        raise NotImplementedError


def _add_up(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    train, valid, test = fractions
    if train <= 0 or valid < 0 or test <= 0 or abs(train + valid + test - 1) > 1e-9:
        raise ValueError("train and test above 0, valid at least 0, the three adding up to 1")
    return fractions


Fractions = Annotated[tuple[float, float, float], AfterValidator(_add_up)]  # train, valid, test


def with_part(events: DataFrame, part: Column, value: Column | None = None) -> DataFrame:
    """The contract of `Rule.assign`."""
    return events.select(c.USER_ID, c.ITEM_ID, c.TS, F.col(c.VALUE) if value is None else value.alias(c.VALUE), part.alias(c.PART))


def newest_first(*groups: str | Column) -> WindowSpec:
    """The events of each group, latest first. Events of one second by (xxhash64(user_id, item_id), item_id): a fixed order that favours
    no item (that of the ids would hold out the highest, and so often newest, items)."""
    return Window.partitionBy(*groups).orderBy(F.desc(c.TS), F.xxhash64(c.USER_ID, c.ITEM_ID), c.ITEM_ID)


def count_of(window: WindowSpec) -> Column:
    """Rows of the group. Over the same window as the places in it, so that the rows are sorted once."""
    return F.count(F.lit(1)).over(window.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing))


def whole(total: int, share: float) -> int:
    """The largest whole number that is at most `share` of `total`."""
    return total * round(share * _PARTS_PER_BILLION) // _PARTS_PER_BILLION


def rounded(count: Column, share: float) -> Column:
    """`share` of a column of counts (below 9 billion), to the nearest whole number, halves up."""
    return _div(count * F.lit(round(share * _PARTS_PER_BILLION)) + F.lit(_PARTS_PER_BILLION // 2))


def floored(count: Column, share: float) -> Column:
    """`share` of a column of counts (below 9 billion), down to a whole number."""
    return _div(count * F.lit(round(share * _PARTS_PER_BILLION)))


def _div(billions: Column) -> Column:
    return F.call_function("div", billions, F.lit(_PARTS_PER_BILLION))  # of whole numbers: `/` would go through doubles
