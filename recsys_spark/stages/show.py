"""A user's history and every model's recommendations, for `recsys-spark show USER_ID`."""

from __future__ import annotations

from typing import Any

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError, TableError
from recsys_spark.lake.tables import Lake

SHOWN = 10  # rows of the history and of each list


def show(console: Console, lake: Lake, user_id: str) -> None:
    """Print the latest events of a user and the newest list of each scored step. DataError for an unknown user."""
    runs = sorted(lake.runs(), key=lambda run: run.ended_at)
    prepared = [run for run in runs if run.stage == "prepare"]
    if not prepared:
        raise TableError("no prepared events", expected="a completed `prepare` step", remedy="run the pipeline first: recsys-spark run")
    titles = lake.read(c.ITEMS, prepared[-1].output_versions.get(c.ITEMS)).select(c.ITEM_ID, "title") if lake.exists(c.ITEMS) else None
    history = _history(lake, prepared[-1], user_id, titles)
    if not history:
        raise DataError(f"user {user_id!r}", found="no event in the prepared data", expected="a user_id of the interactions table")
    table = Table("title", "value", "part", title=f"user {user_id}: the last {len(history)} events")
    for row in history:
        table.add_row(row.title or row.item_id, f"{row.value:g}", row.part)
    console.print(table)
    newest = {run.step: run for run in runs if c.RECOMMENDATIONS in run.output_versions and run.stage == "score"}
    for run in newest.values():
        _print_list(console, lake, run, user_id, titles)


def _history(lake: Lake, run: Run, user_id: str, titles: Any) -> list[Any]:
    events = lake.read(c.SPLITS, run.output_versions[c.SPLITS]).where((F.col(c.RUN_ID) == run.run_id) & (F.col(c.USER_ID) == user_id))
    events = events.orderBy(F.desc(c.TS), F.desc(c.ITEM_ID)).limit(SHOWN)
    return _titled(events, titles).orderBy(F.desc(c.TS), F.desc(c.ITEM_ID)).select("title", c.ITEM_ID, c.VALUE, c.PART).collect()


def _print_list(console: Console, lake: Lake, run: Run, user_id: str, titles: Any) -> None:
    rows = lake.read(c.RECOMMENDATIONS, run.output_versions[c.RECOMMENDATIONS])
    rows = rows.where((F.col(c.RUN_ID) == run.run_id) & (F.col(c.QUERY_ID) == user_id) & (F.col(c.RANK) <= SHOWN))
    found = _titled(rows, titles).orderBy(c.RANK).select(c.RANK, "title", c.ITEM_ID, c.SCORE, c.MODEL).collect()
    if found:
        table = Table("#", "title", "score", title=f"{found[0].model}  ({run.run_id})")
        for row in found:
            table.add_row(str(row.rank), row.title or row.item_id, f"{row.score:.4g}")
        console.print(table)


def _titled(rows: Any, titles: Any) -> Any:
    return rows.withColumn("title", F.lit(None).cast("string")) if titles is None else rows.join(titles, on=c.ITEM_ID, how="left")
