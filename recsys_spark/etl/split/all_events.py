"""Rules that divide all events at once, at random or by time.

random          By hash(seed, user_id, item_id, ts): the shares are met up to chance, and an event's part does not depend on which
                other events there are.
global_time     One instant divides train from valid and one valid from test: the first `train` share of all events, the next
                `valid` share, the rest. Events of one second stay together on the later side, so no training event is as
                late as a test event, and the shares are met up to one second's events.
click_time      As global_time; the value becomes the label, 1 where it was at least `threshold` and else 0.
session_time    A session goes whole where its last event would go by global_time: every training event is older than the end of every
                test session (a session that reaches over the instant has events older than that). A session is what has one
                `session_id` and user; with `gap_s`, a user's events as long as no more than so many seconds lie between two.
next_in_session The same sessions, each a user of its own (`user_id#session`): of those of valid and test the last event is to be
                found and the ones before it are known (valid_fold_in, test_fold_in). One of a single event is all known.
rolling         `boundaries` b1 < b2 < ... (days, at 00:00 UTC, or seconds); in window w events before b[w] are train, those before
                b[w + 1] valid, those before b[w + 2] test. Later ones take no part: a window is what it would have been on that day.
"""

from __future__ import annotations

from datetime import date
from typing import ClassVar

from pydantic import Field, model_validator
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.spec import seconds
from recsys_spark.etl import order
from recsys_spark.etl.split.rule import Fractions, Rule, count_of, newest_first, whole, with_part


class Random(Rule):
    fractions: Fractions = (0.8, 0.1, 0.1)

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        drawn = order.hashed(seed, "split", c.USER_ID, c.ITEM_ID, c.TS)
        train, valid = (whole(order.HASH_END, share) for share in (self.fractions[0], self.fractions[0] + self.fractions[1]))
        return with_part(events, _before(drawn, train, valid))


class GlobalTime(Rule):
    fractions: Fractions = (0.8, 0.1, 0.1)

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        return with_part(events, _before(F.col(c.TS), *_instants(events, self.fractions)))


class ClickTime(Rule):
    threshold: float  # values from here on are clicks
    fractions: Fractions = (0.8, 0.1, 0.1)

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        label = (F.col(c.VALUE) >= self.threshold).cast("double")
        return with_part(events, _before(F.col(c.TS), *_instants(events, self.fractions)), value=label)


class SessionTime(Rule):
    needs: ClassVar[tuple[str, ...]] = ("session_id",)
    gap_s: int | None = Field(None, ge=1)  # none: by session_id
    fractions: Fractions = (0.8, 0.1, 0.1)

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError for events without session_id, where that decides."""
        return with_part(*self._sessions(events))

    def _sessions(self, events: DataFrame) -> tuple[DataFrame, Column]:
        """The events with their `_session` (of the user), and the part where a whole session goes."""
        session = F.col("session_id")
        instants = _instants(events, self.fractions)
        if self.gap_s is None:
            lacking = events.where(session.isNull()).count()
            if lacking:
                raise DataError("events of a rule over sessions", found=f"{lacking} without session_id", expected="one in every event",
                                remedy="name that column in `columns` of the ingest step, or set gap_s")
        else:
            oldest_first = Window.partitionBy(c.USER_ID).orderBy(c.TS)
            opens = (F.col(c.TS) - F.lag(c.TS).over(oldest_first) > self.gap_s).cast("int")
            # Events of one second have no gap between them, so their order in the sum plays no part.
            events = events.withColumn("_opens", F.coalesce(opens, F.lit(0)))
            session = F.sum("_opens").over(oldest_first.rangeBetween(Window.unboundedPreceding, 0))
        ended = events.withColumn("_session", session).withColumn("_end", F.max(c.TS).over(Window.partitionBy(c.USER_ID, "_session")))
        return ended, _before(F.col("_end"), *instants)


class NextInSession(SessionTime):
    users_held_out: ClassVar[bool] = True
    renames_users: ClassVar[bool] = True

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        ended, part = self._sessions(events)
        named = ended.withColumns({"_part": part, c.USER_ID: F.concat_ws("#", c.USER_ID, F.col("_session").cast("string"))})
        last = (F.row_number().over(newest_first(c.USER_ID)) == 1) & (count_of(newest_first(c.USER_ID)) > 1)
        known = F.when(F.col("_part") == c.TEST, c.TEST_FOLD_IN).when(F.col("_part") == c.VALID, c.VALID_FOLD_IN).otherwise(c.TRAIN)
        return with_part(named, F.when(last, F.col("_part")).otherwise(known))


class Rolling(Rule):
    boundaries: tuple[int | date, ...] = Field(min_length=3)  # increasing; two more than there are windows
    window: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _is_a_window(self) -> Rolling:
        if any(one >= other for one, other in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(f"boundaries that increase, not {', '.join(map(str, self.boundaries))}")
        if self.window > len(self.boundaries) - 2:
            raise ValueError(f"window 1 to {len(self.boundaries) - 2} of {len(self.boundaries)} boundaries")
        return self

    @property
    def times(self) -> list[int]:
        return [seconds(each.isoformat()) if isinstance(each, date) else each for each in self.boundaries]

    @property
    def until(self) -> int:
        return self.times[self.window + 1]

    def assign(self, events: DataFrame, seed: int) -> DataFrame:
        return with_part(events, _before(F.col(c.TS), *self.times[self.window - 1 : self.window + 1]))


def _before(number: Column, train: int, valid: int) -> Column:
    return F.when(number < F.lit(train), c.TRAIN).when(number < F.lit(valid), c.VALID).otherwise(c.TEST)


def _instants(events: DataFrame, fractions: tuple[float, float, float]) -> list[int]:
    """When valid begins, and when test begins."""
    times = order.ranks(events, F.col(c.TS))
    if not times.count:
        return [0, 0]
    firsts = [whole(times.count, share) for share in (fractions[0], fractions[0] + fractions[1])]
    return times.at([min(first, times.count - 1) for first in firsts])
