"""Example users with item titles: which users to show, their liked and held-out items, and their
lists. Only a few rows, on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.report import example_users
from recsys_spark.report.content import Example


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


def draw(users: DataFrame, count: int, seed: int) -> list[str]:
    """`count` pseudo-random users (column query_id): the first in the order of a hash of
    (seed, user), as `commands.list_changes.draw` has it.
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
    events = ranked.events.where(of_users & F.col(c.PART).isin(c.TRAIN, ranked.part))
    rows = events.select(c.PART, *example_users.EVENT).collect()
    lists = (
        ranked.lists.where(
            of_users & F.col(c.RUN_ID).isin(list(labels)) & (F.col(c.RANK) <= example_users.SHOWN)
        )
        .select(*example_users.PLACE)
        .collect()
    )
    train, held = (
        [row.asDict() for row in rows if row[c.PART] == part] for part in (c.TRAIN, ranked.part)
    )
    places = [row.asDict() for row in lists]
    items = _items(ranked.items, example_users.items_of(train, held, places))
    return example_users.examples(users, train, held, places, items, labels, ranked.query_kind)


def _items(items: DataFrame | None, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """{id: title and genres}; nothing where there is no table of items."""
    if items is None:
        return {}
    named: list[Row] = (
        items.where(F.col(c.ITEM_ID).isin(list(ids)))
        .select(c.ITEM_ID, "title", F.col("fields")["genres"].alias("genres"))
        .collect()
    )
    return {row[c.ITEM_ID]: row.asDict() for row in named}
