"""Example users with item titles: which users to show, their liked and held-out items, and their
lists. Only a few rows, on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.report.content import Example, Item

SHOWN = 10  # items of a user's history and of each list


@dataclass(frozen=True)
class Ranked:
    """Scored lists and their split, each at the version that its run wrote.

    events: rows of `splits` of one run; lists: rows of `recommendations` for queries of this kind;
    items: the table, None where there is none.
    """

    events: DataFrame
    part: str
    lists: DataFrame
    items: DataFrame | None
    query_kind: str = c.USER

    @property
    def held(self) -> DataFrame:
        """The events of the evaluated part."""
        return self.events.where(F.col(c.PART) == self.part)

    @property
    def train(self) -> DataFrame:
        return self.events.where(F.col(c.PART) == c.TRAIN)


def draw(users: DataFrame, count: int, seed: int) -> list[str]:
    """`count` pseudo-random users (column query_id): the first in the order of a hash of
    (seed, user).
    """
    order = F.xxhash64(F.lit(seeds.derive(seed, "example users")), c.QUERY_ID)
    return [
        row[0]
        for row in users.select(c.QUERY_ID)
        .distinct()
        .orderBy(order, c.QUERY_ID)
        .limit(count)
        .collect()
    ]


def examples(
    ranked: Ranked, users: Sequence[str], labels: Mapping[str, str]
) -> tuple[Example, ...]:
    """Examples in the order of `users`. labels: {run id: name}, of the runs to show lists of."""
    if not users:
        return ()
    of_users = F.col(c.QUERY_ID).isin(list(users))
    best = Window.partitionBy(c.QUERY_ID).orderBy(F.desc(c.VALUE), F.desc(c.TS), c.ITEM_ID)
    train = ranked.train.where(of_users).withColumns(
        {
            "place": F.row_number().over(best),
            "events": F.count(F.lit(1)).over(Window.partitionBy(c.QUERY_ID)),
        }
    )
    liked = _titled(
        ranked.items,
        train.where(F.col("place") <= SHOWN).select(
            c.QUERY_ID, c.ITEM_ID, c.VALUE, "place", "events"
        ),
    )
    held_out = _titled(
        ranked.items,
        ranked.held.where(of_users).select(c.QUERY_ID, c.ITEM_ID, c.VALUE, F.lit(0).alias("place")),
    )
    lists = ranked.lists.where(
        F.col(c.RUN_ID).isin(list(labels))
        & F.col(c.QUERY_ID).isin(list(users))
        & (F.col(c.RANK) <= SHOWN)
    )
    shown = _titled(
        ranked.items,
        lists.select(c.QUERY_ID, c.ITEM_ID, c.RUN_ID, F.col(c.RANK).alias("place")),
    )
    return tuple(
        replace(_example(user, liked, held_out, shown, labels), query_kind=ranked.query_kind)
        for user in users
    )


def _example(
    user: str,
    liked: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    shown: list[dict[str, Any]],
    labels: Mapping[str, str],
) -> Example:
    """The example of one user, from the rows of all users. shown: rows of the lists."""
    own_liked = [row for row in liked if row[c.QUERY_ID] == user]
    own_shown = [row for row in shown if row[c.QUERY_ID] == user]
    lists = {
        label: tuple(_item(row) for row in own_shown if row[c.RUN_ID] == run_id)
        for run_id, label in labels.items()
    }
    return Example(
        query_id=user,
        events=own_liked[0]["events"] if own_liked else 0,
        liked=tuple(_item(row) for row in own_liked),
        held_out=tuple(_item(row) for row in held_out if row[c.QUERY_ID] == user),
        lists=lists,
    )


def _titled(items: DataFrame | None, rows: DataFrame) -> list[dict[str, Any]]:
    """The rows with title and genres, in order of `place`; without titles where there is no table
    of items.
    """
    if items is not None:
        named = items.select(c.ITEM_ID, "title", F.col("fields")["genres"].alias("genres"))
        rows = rows.join(named, on=c.ITEM_ID, how="left")
    else:
        rows = rows.withColumns(
            {"title": F.lit(None).cast("string"), "genres": F.lit(None).cast("string")}
        )
    return [row.asDict() for row in rows.orderBy(c.QUERY_ID, "place", c.ITEM_ID).collect()]


def _item(row: dict[str, Any]) -> Item:
    genres = tuple(row["genres"].split("|")) if row["genres"] else ()
    return Item(row[c.ITEM_ID], row["title"] or row[c.ITEM_ID], genres, row.get(c.VALUE))
