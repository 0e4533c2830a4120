"""Rules that divide all events at once, at random or by time.

random          By hash(seed, user_id, item_id, ts): the shares are met up to chance, and an event's
                part does not depend on which other events there are.
everything      All events are train: for the lists of production, which nothing measures.
global_time     One instant divides train from valid and one valid from test: the first `train`
                share of all events, the next `valid` share, the rest. Events of one second stay
                together on the later side, so no training event is as late as a test event, and the
                shares are met up to one second's events.
click_time      As global_time; the value becomes the label, 1 where it was at least `threshold` and
                else 0; or 1 where the event's context has `label`.
session_time    A session goes whole where its last event would go by global_time: every training
                event is older than the end of every test session (a session that reaches over the
                instant has events older than that). A session is what has one `session_id` and
                user; with `gap_s`, a user's events as long as no more than so many seconds lie
                between two: its session_id is then its number among the user's, from 0.
next_in_session The same sessions, each a query of its own (`user_id#session_id`): of those of valid
                and test the last event is to be found and the ones before it are known
                (valid_fold_in, test_fold_in). One of a single event is all known. With `action` the
                last event of this action is to be found, also where it is the only one; what comes
                after it takes no part, and the shares are those of these events. A session without
                one, or where its item is not known, is all known.
rolling         `boundaries` b1 < b2 < ... (days, at 00:00 UTC, or seconds); in window w events
                before b[w] are train, those before b[w + 1] valid, those before b[w + 2] test.
                Later ones take no part: a window is what it would have been on that day.
"""

from __future__ import annotations

from datetime import date
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.datasets.files.spec import seconds
from recsys_spark.etl import order, queries
from recsys_spark.etl.queries import newest_first
from recsys_spark.etl.split.rule import Fractions, Rule, count_of, whole, with_part

UNLABELLED = "unlabelled"
_ANSWERED = "_answered"


class Random(Rule):
    fractions: Fractions = (0.8, 0.1, 0.1)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        drawn = order.hashed(seed, "split", c.USER_ID, c.ITEM_ID, c.TS)
        train, valid = (
            whole(order.HASH_END, share)
            for share in (self.fractions[0], self.fractions[0] + self.fractions[1])
        )
        return with_part(events, _before(drawn, train, valid))


class Everything(Rule):
    """All events are training: what is fitted on this split is for use, and cannot be measured."""

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        return with_part(events, F.lit(c.TRAIN))


class GlobalTime(Rule):
    fractions: Fractions = (0.8, 0.1, 0.1)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        return with_part(events, _before(F.col(c.TS), *_instants(events, self.fractions)))


class ClickTime(Rule):
    threshold: float | None = None  # values from here on are clicks
    label: str = ""  # or: events that have this in their context
    # Where it is not known what came of an event (`unlabelled` in its context): left out, or the
    # part test, for an answer that nothing here can measure
    unlabelled: Literal["leave_out", "test"] = "leave_out"
    fractions: Fractions = (0.8, 0.1, 0.1)
    needs: ClassVar[tuple[str, ...]] = (c.CONTEXT,)

    @model_validator(mode="after")
    def _says_what_is_a_click(self) -> ClickTime:
        if (self.threshold is None) == (not self.label):
            raise ValueError("threshold or label: what makes an event a click")
        if self.unlabelled == c.TEST and not self.label:
            raise ValueError("unlabelled goes with label")
        return self

    def cut(self, events: DataFrame) -> DataFrame:
        events = super().cut(events)
        everything = not self.label or self.unlabelled == c.TEST
        return events if everything else events.where(~_unlabelled())

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        clicked = (
            F.col(c.CONTEXT).getItem(self.label).isNotNull()
            if self.label
            else F.col(c.VALUE) >= F.lit(self.threshold)
        )
        label = F.coalesce(clicked, F.lit(False)).cast("double")
        if self.unlabelled == "leave_out":
            part = _before(F.col(c.TS), *_instants(events, self.fractions))
            return with_part(events, part, value=label)
        train, valid, _ = self.fractions
        known = events.where(~_unlabelled())
        instants = _instants(known, (train / (train + valid), valid / (train + valid), 0.0))
        part = F.when(F.col(c.TS) < instants[0], c.TRAIN).otherwise(c.VALID)
        return with_part(events, F.when(_unlabelled(), c.TEST).otherwise(part), value=label)


def _unlabelled() -> Column:
    return F.coalesce(F.col(c.CONTEXT).getItem(UNLABELLED).isNotNull(), F.lit(False))


class SessionTime(Rule):
    gap_s: int | None = Field(None, ge=1)  # none: by session_id
    fractions: Fractions = (0.8, 0.1, 0.1)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError for events without session_id, where that decides."""
        return with_part(*self._ended(events))

    def _ended(self, events: DataFrame) -> tuple[DataFrame, Column]:
        """The events with the session_id of their session, and the part where a whole session
        goes.
        """
        instants = _instants(self._timed(events), self.fractions)
        if self.gap_s is None:
            queries.require_session_ids(events, ", or set gap_s")
        else:
            events = _by_gap(events, self.gap_s)
        ended = events.withColumn(
            "_end", F.max(c.TS).over(Window.partitionBy(c.USER_ID, c.SESSION_ID))
        )
        return ended, _before(F.col("_end"), *instants)

    def _timed(self, events: DataFrame) -> DataFrame:
        """The events of which `fractions` are shares."""
        return events


class NextInSession(SessionTime):
    held_out: ClassVar[bool] = True
    query_kind: ClassVar[queries.Kind] = "session"
    action: str = ""  # of the event to be found; empty: of any

    @model_validator(mode="after")
    def _sessions_are_given(self) -> NextInSession:
        if self.action and self.gap_s is not None:
            raise ValueError("action goes by session_id: leave out gap_s")
        return self

    def cut(self, events: DataFrame) -> DataFrame:
        """Without what a session has after its last event of `action`: nothing of it may be read.
        _ANSWERED: whether that event's item is known, so that it can be found.
        """
        if not self.action:
            return super().cut(events)
        named = events.withColumn(c.QUERY_ID, queries.id_of(self.query_kind))
        newest = newest_first(c.QUERY_ID)
        asked = F.coalesce(F.col(c.ACTION) == self.action, F.lit(False))
        until = newest.rowsBetween(Window.unboundedPreceding, 0)
        whole = newest.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        marked = named.withColumns(
            {
                "_until": F.max(asked).over(until),
                "_last": F.first(F.when(asked, F.col(c.ITEM_ID)), ignorenulls=True).over(whole),
            }
        )
        kept = marked.where(F.col("_until") | F.col("_last").isNull())
        answered = F.coalesce(F.col("_last") != c.NO_ITEM, F.lit(False))
        return super().cut(kept.withColumn(_ANSWERED, answered)).drop(c.QUERY_ID, "_until", "_last")

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        ended, part = self._ended(events)
        named = ended.withColumns({"_part": part, c.QUERY_ID: queries.id_of(self.query_kind)})
        newest = newest_first(c.QUERY_ID)
        # Of an action alone: a session that begins with it has a list to rank all the same
        asked = self._to_find() if self.action else count_of(newest) > 1
        last = (F.row_number().over(newest) == 1) & asked
        known = (
            F.when(F.col("_part") == c.TEST, c.TEST_FOLD_IN)
            .when(F.col("_part") == c.VALID, c.VALID_FOLD_IN)
            .otherwise(c.TRAIN)
        )
        return with_part(named, F.when(last, F.col("_part")).otherwise(known))

    def _timed(self, events: DataFrame) -> DataFrame:
        return events.where(self._to_find()) if self.action else events

    def _to_find(self) -> Column:
        return F.col(_ANSWERED) & F.coalesce(F.col(c.ACTION) == self.action, F.lit(False))


class Rolling(Rule):
    # Increasing; two more than there are windows
    boundaries: tuple[int | date, ...] = Field(min_length=3)
    window: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _is_a_window(self) -> Rolling:
        if any(one >= other for one, other in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(
                f"boundaries that increase, not {', '.join(map(str, self.boundaries))}"
            )
        if self.window > len(self.boundaries) - 2:
            raise ValueError(
                f"window 1 to {len(self.boundaries) - 2} of {len(self.boundaries)} boundaries"
            )
        return self

    @property
    def times(self) -> list[int]:
        return [
            seconds(each.isoformat()) if isinstance(each, date) else each
            for each in self.boundaries
        ]

    @property
    def until(self) -> int:
        return self.times[self.window + 1]

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        return with_part(
            events, _before(F.col(c.TS), *self.times[self.window - 1 : self.window + 1])
        )


def _by_gap(events: DataFrame, gap_s: int) -> DataFrame:
    """The events with the number of their session among their user's as session_id, from 0."""
    by_time = Window.partitionBy(c.USER_ID).orderBy(c.TS)
    opens = (F.col(c.TS) - F.lag(c.TS).over(by_time) > gap_s).cast("int")
    # Events of one second have no gap between them, so their order in the sum plays no part
    events = events.withColumn("_opens", F.coalesce(opens, F.lit(0)))
    number = F.sum("_opens").over(by_time.rangeBetween(Window.unboundedPreceding, 0))
    return events.withColumn(c.SESSION_ID, number.cast("string"))


def _before(number: Column, train: int, valid: int) -> Column:
    return (
        F.when(number < F.lit(train), c.TRAIN)
        .when(number < F.lit(valid), c.VALID)
        .otherwise(c.TEST)
    )


def _instants(events: DataFrame, fractions: tuple[float, float, float]) -> list[int]:
    """When valid begins, and when test begins."""
    times = order.ranks(events, F.col(c.TS))
    if not times.count:
        return [0, 0]
    firsts = [whole(times.count, share) for share in (fractions[0], fractions[0] + fractions[1])]
    return times.at([min(first, times.count - 1) for first in firsts])
