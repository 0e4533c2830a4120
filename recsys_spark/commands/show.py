"""A query's history and every model's recommendations, for `recsys-spark show ID`: of a user, a
session or a playlist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError, TableError
from recsys_spark.etl import queries
from recsys_spark.lake.tables import Lake

SHOWN = 10  # rows of the history and of each list


def show(console: Console, lake: Lake, named: str) -> None:
    """Print the latest events of a query and the newest list of each scored step. named: its id; of
    a session also its session_id or its user, where there is one such session alone. DataError for
    an unknown one.
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
    titles = (
        lake.read(c.ITEMS, run.output_versions.get(c.ITEMS)).select(c.ITEM_ID, "title")
        if lake.exists(c.ITEMS)
        else None
    )
    history = _history(lake, run, query_id, titles)
    heading = f"{kind} {query_id}: the last {len(history)} events"
    table = Table("title", "value", "part", title=Text(heading))
    for row in history:
        table.add_row(Text(row.title or row.item_id), f"{row.value:g}", row.part)
    console.print(table)
    newest = {
        run.step: run
        for run in runs
        if c.RECOMMENDATIONS in run.output_versions and run.stage == "score"
    }
    for run in newest.values():
        _print_list(console, lake, run, kind, query_id, titles)


def _found(lake: Lake, prepared: Sequence[Run], named: str) -> tuple[Run, str, str]:
    """(the newest split that has the query, its kind, its id)."""
    others: list[str] = []
    for run in reversed(prepared):
        rows = lake.read(c.SPLITS, run.output_versions[c.SPLITS]).where(
            (F.col(c.RUN_ID) == run.run_id)
            & F.lit(named).isin(F.col(c.QUERY_ID), F.col(c.SESSION_ID), F.col(c.USER_ID))
        )
        matches = rows.select(c.QUERY_KIND, c.QUERY_ID).distinct().limit(SHOWN).collect()
        exact = [row for row in matches if row[c.QUERY_ID] == named]
        of_sessions = [row for row in matches if row[c.QUERY_KIND] == c.SESSION]
        chosen = exact or of_sessions
        if len(chosen) == 1:
            return run, chosen[0][c.QUERY_KIND], chosen[0][c.QUERY_ID]
        others += [row[c.QUERY_ID] for row in chosen if row[c.QUERY_ID] not in others]
    raise DataError(
        f"user, session or playlist {named!r}",
        found=f"several: {', '.join(sorted(others)[:SHOWN])}"
        if others
        else "no event in the prepared data",
        expected="the id of one of them, as in column query_id of the table splits",
    )


def _history(lake: Lake, run: Run, query_id: str, titles: Any) -> list[Any]:
    events = lake.read(c.SPLITS, run.output_versions[c.SPLITS]).where(
        (F.col(c.RUN_ID) == run.run_id) & (F.col(c.QUERY_ID) == query_id)
    )
    newest = F.desc("order")
    events = events.withColumn("order", queries.oldest_first()).orderBy(newest).limit(SHOWN)
    return (
        _titled(events, titles)
        .orderBy(newest)
        .select("title", c.ITEM_ID, c.VALUE, c.PART)
        .collect()
    )


def _print_list(
    console: Console, lake: Lake, run: Run, kind: str, query_id: str, titles: Any
) -> None:
    rows = lake.read(c.RECOMMENDATIONS, run.output_versions[c.RECOMMENDATIONS])
    rows = rows.where(
        (F.col(c.RUN_ID) == run.run_id)
        & (F.col(c.QUERY_KIND) == kind)
        & (F.col(c.QUERY_ID) == query_id)
        & (F.col(c.RANK) <= SHOWN)
    )
    listed = (
        _titled(rows, titles)
        .orderBy(c.RANK)
        .select(c.RANK, "title", c.ITEM_ID, c.SCORE, c.MODEL)
        .collect()
    )
    if listed:
        table = Table("#", "title", "score", title=f"{listed[0].model}  ({run.run_id})")
        for row in listed:
            table.add_row(str(row.rank), Text(row.title or row.item_id), f"{row.score:.4g}")
        console.print(table)


def _titled(rows: Any, titles: Any) -> Any:
    return (
        rows.withColumn("title", F.lit(None).cast("string"))
        if titles is None
        else rows.join(titles, on=c.ITEM_ID, how="left")
    )
