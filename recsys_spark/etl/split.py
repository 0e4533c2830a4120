"""Every event gets its part: train, valid or test. By rule and by the event's own values alone, never by partition or row order.

leave_last_out  A user's last event is test, the one before valid, the rest train. Events of one second are ordered by
                (xxhash64(user_id, item_id), item_id): a fixed order that favours no item (that of the ids would test on the
                highest, and so often newest, items). A user with fewer than 3 events trains with all of them.
global_time     One instant divides train from valid and one valid from test: the first `train` share of all events, the next
                `valid` share, the rest. Events of one second stay together on the later side, so no training event is as
                late as a test event, and the shares are met up to one second's events.
random          By xxhash64(seed, user_id, item_id, ts): the shares are met up to chance, and an event's part does not depend on
                which other events there are.
"""

from __future__ import annotations

from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl import order

Rule = Literal["leave_last_out", "global_time", "random"]
Fractions = tuple[float, float, float]  # train, valid, test


def assign(events: DataFrame, rule: Rule, *, fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0) -> DataFrame:
    """`events` (user_id, item_id, ts, ...) with the column `part`. Adds nothing, drops nothing."""
    if rule == "leave_last_out":
        part = _leave_last_out()
    elif rule == "global_time":
        part = _global_time(events, fractions)
    else:
        part = _random(fractions, seed)
    return events.select("*", part.alias(c.PART))


def _leave_last_out() -> Column:
    newest_first = Window.partitionBy(c.USER_ID).orderBy(F.desc(c.TS), F.xxhash64(c.USER_ID, c.ITEM_ID), c.ITEM_ID)
    place = F.row_number().over(newest_first)
    third_newest = F.when(place <= 2, F.when(place == 1, F.lead(c.TS, 2).over(newest_first)).otherwise(F.lead(c.TS, 1).over(newest_first)))
    # One window, so one sort: that a user has 3 events is seen by the third newest being there.
    return F.when(third_newest.isNull(), c.TRAIN).when(place == 1, c.TEST).otherwise(c.VALID)


def _global_time(events: DataFrame, fractions: Fractions) -> Column:
    times = order.ranks(events, F.col(c.TS))
    if not times.count:
        return F.lit(c.TRAIN)
    firsts = [_share(times.count, fractions[0]), _share(times.count, fractions[0] + fractions[1])]
    valid_from, test_from = times.at([min(first, times.count - 1) for first in firsts])
    return F.when(F.col(c.TS) >= test_from, c.TEST).when(F.col(c.TS) >= valid_from, c.VALID).otherwise(c.TRAIN)


def _random(fractions: Fractions, seed: int) -> Column:
    drawn = order.hashed(seed, "split", c.USER_ID, c.ITEM_ID, c.TS)
    train, valid = (_share(order.HASH_END, share) for share in (fractions[0], fractions[0] + fractions[1]))
    return F.when(drawn < F.lit(train), c.TRAIN).when(drawn < F.lit(valid), c.VALID).otherwise(c.TEST)


def _share(total: int, share: float) -> int:
    # In parts per billion, so that 0.8 + 0.1 is 0.9.
    return min(total * round(share * 10**9) // 10**9, 2**63 - 1)
