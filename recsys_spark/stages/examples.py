"""Example users by title: whom to show, what they liked, what was held out, and the lists that they got. A few rows, on the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.report.content import Example, Item

SHOWN = 10  # items of a user's history and of each list


@dataclass(frozen=True)
class Ranked:
    """Scored lists and the split that they are for, each at the version that its run left.

    events: rows of `splits` of one run; lists: rows of `recommendations`, of users alone; items: the table, None where there is none.
    """

    events: DataFrame
    part: str
    lists: DataFrame
    items: DataFrame | None

    @property
    def held(self) -> DataFrame:
        """The events of the evaluated part."""
        return self.events.where(F.col(c.PART) == self.part)

    @property
    def train(self) -> DataFrame:
        return self.events.where(F.col(c.PART) == c.TRAIN)


def draw(users: DataFrame, count: int, seed: int) -> list[str]:
    """`count` of the users (column user_id), in the order of a hash of (seed, user): nobody chose them."""
    order = F.xxhash64(F.lit(seeds.derive(seed, "example users")), c.USER_ID)
    return [row[0] for row in users.select(c.USER_ID).distinct().orderBy(order, c.USER_ID).limit(count).collect()]


def examples(ranked: Ranked, users: Sequence[str], labels: Mapping[str, str]) -> tuple[Example, ...]:
    """In the order of `users`. labels: what each run whose list is shown is called."""
    if not users:
        return ()
    of_users = F.col(c.USER_ID).isin(list(users))
    best = Window.partitionBy(c.USER_ID).orderBy(F.desc(c.VALUE), F.desc(c.TS), c.ITEM_ID)
    train = ranked.train.where(of_users).withColumns(
        {"place": F.row_number().over(best), "events": F.count(F.lit(1)).over(Window.partitionBy(c.USER_ID))})
    liked = _titled(ranked.items, train.where(F.col("place") <= SHOWN).select(c.USER_ID, c.ITEM_ID, c.VALUE, "place", "events"))
    wanted = _titled(ranked.items, ranked.held.where(of_users).select(c.USER_ID, c.ITEM_ID, c.VALUE, F.lit(0).alias("place")))
    lists = ranked.lists.where(F.col(c.RUN_ID).isin(list(labels)) & F.col(c.QUERY_ID).isin(list(users)) & (F.col(c.RANK) <= SHOWN))
    shown = _titled(ranked.items, lists.select(F.col(c.QUERY_ID).alias(c.USER_ID), c.ITEM_ID, c.RUN_ID, F.col(c.RANK).alias("place")))
    return tuple(
        Example(
            user_id=user,
            events=next((row["events"] for row in liked if row[c.USER_ID] == user), 0),
            liked=tuple(_item(row) for row in liked if row[c.USER_ID] == user),
            held_out=tuple(_item(row) for row in wanted if row[c.USER_ID] == user),
            lists={label: tuple(_item(row) for row in shown if (row[c.USER_ID], row[c.RUN_ID]) == (user, run_id))
                   for run_id, label in labels.items()},
        )
        for user in users
    )


def _titled(items: DataFrame | None, rows: DataFrame) -> list[dict[str, Any]]:
    """The rows with title and genres, in order of `place`; without titles where there is no table of items."""
    if items is not None:
        named = items.select(c.ITEM_ID, "title", F.col("fields")["genres"].alias("genres"))
        rows = rows.join(named, on=c.ITEM_ID, how="left")
    else:
        rows = rows.withColumns({"title": F.lit(None).cast("string"), "genres": F.lit(None).cast("string")})
    return [row.asDict() for row in rows.orderBy(c.USER_ID, "place", c.ITEM_ID).collect()]


def _item(row: dict[str, Any]) -> Item:
    genres = tuple(row["genres"].split("|")) if row["genres"] else ()
    return Item(row[c.ITEM_ID], row["title"] or row[c.ITEM_ID], genres, row.get(c.VALUE))
