"""Rules that hold out some events of every user.

leave_last_out  A user's last `hold` events are test, the `hold` before them valid, the rest train.
A user with no more than 2 * hold
                events trains with all of them.
last_share      A user's n events, oldest first: the first round(train * n) are train, those up to
                round((train + valid) * n) valid, the rest test (halves are rounded up).
stratified      The same with the events of each user (or item, `by: item`) in the order of
                hash(seed, user_id, item_id, ts).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl import order
from recsys_spark.etl.queries import newest_first
from recsys_spark.etl.split.rule import Fractions, Rule, count_of, rounded, with_part


class LeaveLastOut(Rule):
    hold: int = Field(1, ge=1)  # events of each user in test, and as many in valid

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        window = newest_first(c.QUERY_ID)
        place = F.row_number().over(window)
        few = count_of(window) <= 2 * self.hold
        return with_part(
            events,
            F.when(few | (place > 2 * self.hold), c.TRAIN)
            .when(place > self.hold, c.VALID)
            .otherwise(c.TEST),
        )


class LastShare(Rule):
    fractions: Fractions = (0.7, 0.1, 0.2)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        window = newest_first(c.QUERY_ID)
        count = count_of(window)
        return with_part(
            events, _by_place(count - F.row_number().over(window), count, self.fractions)
        )


class Stratified(Rule):
    fractions: Fractions = (0.65, 0.1, 0.25)
    by: Literal["user", "item"] = "user"

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        drawn = order.hashed(seed, "stratified", c.USER_ID, c.ITEM_ID, c.TS)
        window = Window.partitionBy(c.USER_ID if self.by == "user" else c.ITEM_ID).orderBy(
            drawn, c.USER_ID, c.ITEM_ID, c.TS
        )
        return with_part(
            events, _by_place(F.row_number().over(window) - 1, count_of(window), self.fractions)
        )


def _by_place(place: Column, count: Column, fractions: tuple[float, float, float]) -> Column:
    """place: from 0."""
    train, valid = rounded(count, fractions[0]), rounded(count, fractions[0] + fractions[1])
    return F.when(place < train, c.TRAIN).when(place < valid, c.VALID).otherwise(c.TEST)
