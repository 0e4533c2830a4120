"""Example users of rows that were read already, by Spark or without it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recsys_spark.core import columns as c
from recsys_spark.report.content import Example, Item

SHOWN = 10  # items of a user's history and of each list
EVENT = (c.QUERY_ID, c.ITEM_ID, c.VALUE, c.TS)  # what is read of an event
PLACE = (c.QUERY_ID, c.ITEM_ID, c.RUN_ID, c.RANK)  # and of a list's place

Row = Mapping[str, Any]


def items_of(train: Iterable[Row], held: Iterable[Row], lists: Iterable[Row]) -> list[str]:
    """Ids of the items of which `examples` needs the titles."""
    train = list(train)
    liked = [row for user in {row[c.QUERY_ID] for row in train} for row in _liked(train, user)]
    return sorted({row[c.ITEM_ID] for rows in (liked, held, lists) for row in rows})


def examples(
    users: Sequence[str],
    train: Sequence[Row],
    held: Sequence[Row],
    lists: Sequence[Row],
    items: Mapping[str, Row],
    labels: Mapping[str, str],
    query_kind: str = c.USER,
) -> tuple[Example, ...]:
    """Examples in the order of `users`. train, held: their events; lists: their places down to
    SHOWN; items: {id: title and genres}; labels: {run id: name}, of the runs to show lists of.
    """

    def item(row: Row) -> Item:
        known = items.get(row[c.ITEM_ID], {})
        genres = known.get("genres")
        return Item(
            row[c.ITEM_ID],
            known.get("title") or row[c.ITEM_ID],
            tuple(genres.split("|")) if genres else (),
            row.get(c.VALUE),
        )

    shown = []
    for user in users:
        places = sorted(_of(user, lists), key=lambda row: (row[c.RANK], row[c.ITEM_ID]))
        held_out = sorted(_of(user, held), key=lambda row: row[c.ITEM_ID])
        shown.append(
            Example(
                query_id=user,
                events=len(_of(user, train)),
                liked=tuple(map(item, _liked(train, user))),
                held_out=tuple(map(item, held_out)),
                lists={
                    label: tuple(item(row) for row in places if row[c.RUN_ID] == run_id)
                    for run_id, label in labels.items()
                },
                query_kind=query_kind,
            )
        )
    return tuple(shown)


def _of(user: str, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row[c.QUERY_ID] == user]


def _liked(train: Iterable[Row], user: str) -> list[Row]:
    """What the user likes best: the highest values, of these the newest."""
    in_order = sorted(_of(user, train), key=lambda row: row[c.ITEM_ID])
    return sorted(in_order, key=lambda row: (row[c.VALUE], row[c.TS]), reverse=True)[:SHOWN]
