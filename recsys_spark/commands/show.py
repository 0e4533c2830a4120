"""A query's history and every model's recommendations, for `recsys-spark show ID`: of a user, a
session or a playlist.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_spark.core import columns as c
from recsys_spark.core import xxh64
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError, TableError
from recsys_spark.lake.direct import Reader

SHOWN = 10  # rows of the history and of each list
# Of an event: what is shown of it, and what orders the events of a query
EVENT = (c.QUERY_ID, c.ITEM_ID, c.VALUE, c.PART, c.TS, c.STEP, c.POSITION)


@dataclass(frozen=True)
class Event:
    item_id: str
    title: str
    value: float
    part: str


@dataclass(frozen=True)
class Place:
    rank: int
    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class Listed:
    model: str
    run_id: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Shown:
    """history: the latest events, newest first; lists: the newest one of each scored step."""

    query_kind: str
    query_id: str
    history: tuple[Event, ...]
    lists: tuple[Listed, ...]


def shown(lake: Reader, named: str) -> Shown:
    """named: the id of a query; of a session also its session_id or its user, where there is one
    such session alone. DataError for an unknown one.
    """
    runs = sorted(lake.runs(), key=lambda run: run.ended_at)
    prepared = [run for run in runs if run.stage == "prepare"]
    if not prepared:
        raise TableError(
            "no prepared events",
            expected="a completed `prepare` step",
            remedy="run the pipeline first: recsys-spark run",
        )
    run, kind, query_id = _found(lake, prepared, named)
    events = _latest(lake, run, query_id)
    newest = {
        run.step: run
        for run in runs
        if c.RECOMMENDATIONS in run.output_versions and run.stage == "score"
    }
    lists = [(scored, _places(lake, scored, kind, query_id)) for scored in newest.values()]
    items = {row[c.ITEM_ID] for rows in (events, *(places for _, places in lists)) for row in rows}
    titles = _titles(lake, run, items)
    return Shown(
        kind,
        query_id,
        tuple(
            Event(row[c.ITEM_ID], titles[row[c.ITEM_ID]], row[c.VALUE], row[c.PART])
            for row in events
        ),
        tuple(
            Listed(
                places[0][c.MODEL],
                scored.run_id,
                tuple(
                    Place(row[c.RANK], row[c.ITEM_ID], titles[row[c.ITEM_ID]], row[c.SCORE])
                    for row in places
                ),
            )
            for scored, places in lists
            if places
        ),
    )


def _found(lake: Reader, prepared: Sequence[Run], named: str) -> tuple[Run, str, str]:
    """(the newest split that has the query, its kind, its id)."""
    others: dict[str, None] = {}
    for run in reversed(prepared):
        matches = _matches(lake, run, {c.QUERY_ID: [named]}) or [
            match
            for column in (c.SESSION_ID, c.USER_ID)
            for match in _matches(lake, run, {column: [named], c.QUERY_KIND: [c.SESSION]})
        ]
        chosen = sorted(set(matches))
        if len(chosen) == 1:
            return run, *chosen[0]
        others |= dict.fromkeys(query_id for _, query_id in chosen)
    raise DataError(
        f"user, session or playlist {named!r}",
        found=f"several: {', '.join(sorted(others)[:SHOWN])}"
        if others
        else "no event in the prepared data",
        expected="the id of one of them, as in column query_id of the table splits",
    )


def _matches(lake: Reader, run: Run, where: dict[str, list[str]]) -> list[tuple[str, str]]:
    rows = lake.table(
        c.SPLITS,
        run.output_versions[c.SPLITS],
        columns=(c.QUERY_KIND, c.QUERY_ID),
        where={c.RUN_ID: [run.run_id], **where},
    )
    return [(row[c.QUERY_KIND], row[c.QUERY_ID]) for row in rows.to_pylist()]


def _latest(lake: Reader, run: Run, query_id: str) -> list[dict[str, Any]]:
    rows = lake.table(
        c.SPLITS,
        run.output_versions[c.SPLITS],
        columns=EVENT,
        where={c.RUN_ID: [run.run_id], c.QUERY_ID: [query_id]},
    )
    return sorted(rows.to_pylist(), key=age, reverse=True)[:SHOWN]


def age(event: dict[str, Any]) -> list[tuple[bool, float]]:
    """Orders the events of a query, oldest first, as `etl.queries.oldest_first` does in Spark."""
    values = (
        event[c.TS],
        event[c.STEP],
        event[c.POSITION],
        ~xxh64.of(event[c.QUERY_ID], event[c.ITEM_ID]),
        event[c.VALUE],
    )
    return [(value is not None, value or 0) for value in values]  # without one: before all others


def _places(lake: Reader, run: Run, kind: str, query_id: str) -> list[dict[str, Any]]:
    """The first places of its list, best first."""
    rows = lake.table(
        c.RECOMMENDATIONS,
        run.output_versions[c.RECOMMENDATIONS],
        columns=(c.RANK, c.ITEM_ID, c.SCORE, c.MODEL),
        where={c.RUN_ID: [run.run_id], c.QUERY_KIND: [kind], c.QUERY_ID: [query_id]},
    )
    return sorted(rows.to_pylist(), key=lambda row: row[c.RANK])[:SHOWN]


def _titles(lake: Reader, run: Run, items: Collection[str]) -> dict[str, str]:
    """{item: its title, else its id}."""
    rows = (
        lake.table(
            c.ITEMS,
            run.output_versions.get(c.ITEMS),
            columns=(c.ITEM_ID, "title"),
            where={c.ITEM_ID: items},
        ).to_pylist()
        if items and lake.exists(c.ITEMS)
        else []
    )
    return {item: item for item in items} | {
        row[c.ITEM_ID]: row["title"] for row in rows if row["title"]
    }
