"""Whose lists are made: the id of a user, session or playlist, and the order of its events."""

from __future__ import annotations

from typing import Literal

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError

Kind = Literal["user", "session", "playlist"]


def id_of(kind: Kind) -> Column:
    """The query of an event, of its user_id and session_id: the user; the user's session, such as
    `u3#7`; or the playlist, whose id is the session_id alone. A `#` in a user's id is written
    `\\#`, so that no two sessions share an id.
    """
    if kind == c.USER:
        return F.col(c.USER_ID)
    if kind == c.PLAYLIST:
        return F.col(c.SESSION_ID)
    user = F.replace(c.USER_ID, F.lit("\\"), F.lit("\\\\"))
    user = F.replace(user, F.lit(c.SESSION_MARK), F.lit("\\" + c.SESSION_MARK))
    return F.concat(user, F.lit(c.SESSION_MARK), c.SESSION_ID)


def require_session_ids(events: DataFrame, remedy: str) -> None:
    """Raises DataError for events without session_id."""
    lacking = events.where(F.col(c.SESSION_ID).isNull()).count()
    if lacking:
        raise DataError(
            "events of a rule over sessions or playlists",
            found=f"{lacking} without session_id",
            expected="one in every event",
            remedy=f"name that column in `columns` of the ingest step{remedy}",
        )


def oldest_first(*, of_item: bool = False) -> Column:
    """What orders the events of a query, ascending, as a struct: the time; then the source's own
    step and position, where it has them; then a hash of (query_id, item_id), which favours no item
    (the order of the ids would hold out the highest, and so often newest, items); then the value.
    of_item: of the events of one query and item, which share the hash.
    """
    order = {name: column for name, column in _order().items() if name != "hash" or not of_item}
    return F.struct(*(column.alias(name) for name, column in order.items()))


def newest_first(*groups: str | Column) -> WindowSpec:
    """The events of each group, latest first, in the order of `oldest_first`."""
    # By columns: a window sorts these faster than a struct
    return Window.partitionBy(*groups).orderBy(*map(F.desc, _order().values()))


def _order() -> dict[str, Column]:
    named = {name: F.col(name) for name in (c.TS, c.STEP, c.POSITION)}
    # Inverted: of equal times the lower hash is the newer event
    return named | {
        "hash": F.bitwise_not(F.xxhash64(c.QUERY_ID, c.ITEM_ID)),
        c.VALUE: F.col(c.VALUE),
    }
