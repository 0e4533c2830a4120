"""Rules that hold out whole users, playlists or items: nothing of them is trained on.

How many: a number from 1 on, or a share below 1 (to the nearest whole number). Which: those with
the lowest hash(seed, id) are test, the next valid, all others train; so raising `valid` moves
nobody out of test.

strong      A held-out user's n events in the order of hash(seed, user_id, item_id, ts): the last
            floor((1 - fold_in) * n) are to be found (part test or valid), the others are what is
            known of the user (test_fold_in, valid_fold_in).
cold_users  The first `known` events of a held-out user in time are what is known of them, all later
            ones are to be found; with `known: 0` nothing is known.
playlist_continuation
            A playlist is what has one `session_id`, whoever's it is. The first `known` events of a
            held-out one (a number, or a share below 1) are known, the floor((1 - known) * n) or
            n - known others are to be found; one with no more than these is all known.
cold_items  All events of a held-out item are valid or test; their users train with their other
            events.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.etl import order, queries
from recsys_spark.etl.queries import newest_first
from recsys_spark.etl.split.rule import Rule, count_of, floored, with_part


def _number_or_share(wanted: float) -> float:
    if wanted > 1 and wanted != int(wanted):
        raise ValueError("a whole number, or a share below 1")
    return wanted


Some = Annotated[float, Field(gt=0), AfterValidator(_number_or_share)]
Perhaps = Annotated[float, Field(ge=0), AfterValidator(_number_or_share)]


class Strong(Rule):
    held_out: ClassVar[bool] = True
    valid_users: Perhaps = 0.1
    test_users: Some = 0.1
    fold_in: float = Field(0.8, gt=0, lt=1)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError when no user is left to train on."""
        held = _held_out(events, c.USER_ID, "users", seed, self.valid_users, self.test_users)
        window = Window.partitionBy(c.USER_ID).orderBy(
            order.hashed(seed, "fold_in", c.USER_ID, c.ITEM_ID, c.TS), c.ITEM_ID, c.TS
        )
        known = F.row_number().over(window) <= count_of(window) - floored(
            count_of(window), 1 - self.fold_in
        )
        return with_part(events, _folded(held, known))


class ColdUsers(Rule):
    held_out: ClassVar[bool] = True
    valid_users: Perhaps = 0.1
    test_users: Some = 0.1
    known: int = Field(0, ge=0)

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError when no user is left to train on."""
        held = _held_out(events, c.USER_ID, "users", seed, self.valid_users, self.test_users)
        window = newest_first(c.QUERY_ID)
        return with_part(
            events, _folded(held, F.row_number().over(window) > count_of(window) - self.known)
        )


class PlaylistContinuation(Rule):
    held_out: ClassVar[bool] = True
    query_kind: ClassVar[queries.Kind] = "playlist"
    valid_playlists: Perhaps = 0.1
    test_playlists: Some = 0.1
    known: Some = 0.8

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError for events without session_id, or when no playlist is left to train
        on.
        """
        queries.require_session_ids(events, "")
        held = _held_out(
            events, c.QUERY_ID, "playlists", seed, self.valid_playlists, self.test_playlists
        )
        window = newest_first(c.QUERY_ID)
        count = count_of(window)
        to_find = count - int(self.known) if self.known >= 1 else floored(count, 1 - self.known)
        return with_part(events, _folded(held, F.row_number().over(window) > to_find))


class ColdItems(Rule):
    valid_items: Perhaps = 0.1
    test_items: Some = 0.1

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError when no item is left to train on."""
        held = _held_out(events, c.ITEM_ID, "items", seed, self.valid_items, self.test_items)
        return with_part(events, held)


def _held_out(
    events: DataFrame, id_column: str, kind: str, seed: int, valid: float, test: float
) -> Column:
    """The part of each user, playlist or item: train, valid or test."""
    drawn = order.hashed(seed, f"held_out/{id_column}", id_column)
    hashes = order.ranks(events.select(id_column).distinct(), drawn, low=0, high=order.HASH_END - 1)
    of_test, of_valid = (
        int(wanted) if wanted >= 1 else round(wanted * hashes.count) for wanted in (test, valid)
    )
    if not 0 < of_test < hashes.count - of_valid:
        raise DataError(
            f"{kind} of the split",
            found=f"{hashes.count}, of which {of_test} for test and {of_valid} for valid",
            expected="at least one for test and one to train on",
            remedy=f"change test_{kind} and valid_{kind}",
        )
    test_end, valid_end = hashes.at([of_test, of_test + of_valid])
    return (
        F.when(drawn < F.lit(test_end), c.TEST)
        .when(drawn < F.lit(valid_end), c.VALID)
        .otherwise(c.TRAIN)
    )


def _folded(held: Column, known: Column) -> Column:
    fold_in = F.when(held == c.TEST, c.TEST_FOLD_IN).when(held == c.VALID, c.VALID_FOLD_IN)
    return F.coalesce(F.when(known, fold_in), held)
