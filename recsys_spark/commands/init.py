"""`recsys-spark init`: a look at data that nobody described, and a first pipeline for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.datasets.drafts import columns, delimiter, doubts, draft, roles, times
from recsys_spark.datasets.drafts.columns import UNITS, Column
from recsys_spark.datasets.drafts.draft import Looked
from recsys_spark.datasets.drafts.roles import Role
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.forms import files, opened
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.scan import HEADER, inner
from recsys_spark.datasets.forms.source import Entry
from recsys_spark.etl.profile import profile
from recsys_spark.pipeline import steps
from recsys_spark.report import first_look
from recsys_spark.report.content import Profile

SAMPLE = 200_000  # rows
LINES = 20  # of a text file, from which its separator is found
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_QUERY = re.compile(r"\s*(select|with|values)\s", re.IGNORECASE)


class _Any(Entry):
    """An entry whose columns are not known yet."""

    fills = c.INTERACTIONS
    known = ()
    needed = ()


@dataclass(frozen=True)
class Look:
    """What was seen in the first rows of a source. total: rows in all, where that is known."""

    where: str
    place: dict[str, Any]  # of `source.interactions`
    columns: list[Column]
    roles: dict[str, Role]
    profile: Profile
    doubts: list[str]
    looked: Looked
    total: int | None


def look(spark: SparkSession, where: str, given: Mapping[str, str], now: float) -> Look:
    """where: a file, folder, pattern, URL, the name of a table, or a query (SELECT ...). given:
    {role: column}.

    Reads SAMPLE rows. Raises DataError, TableError or ConfigError for what cannot be read, or from
    which nothing can be recommended.
    """
    with spelled_out(where):
        return _look(spark, where, given, now)


def _look(spark: SparkSession, where: str, given: Mapping[str, str], now: float) -> Look:
    place = _place(spark, where)
    entry = _Any(**place)
    scan = opened.opened(spark, entry).scan
    total = opened.estimate(spark, entry).get("rows")
    names = list(scan.file.columns)
    rows = scan.rows
    if inner(HEADER) in rows.columns:
        rows = rows.where(~F.col(inner(HEADER)))
    rows = rows.select(*(F.col(f"`{name}`") for name in names)).limit(SAMPLE)
    sample = rows.toPandas()
    types = {field.name: field.dataType.simpleString() for field in rows.schema}
    described = columns.described(sample, types)
    chosen = roles.roles(described, given)
    events = _events(sample, chosen)
    seen = Looked(
        rows=len(events),
        users=events[c.USER_ID].nunique(),
        items=events[c.ITEM_ID].nunique(),
        events_a_user=float(events.groupby(c.USER_ID).size().median()) if len(events) else 0.0,
        repeated=int(events.duplicated([c.USER_ID, c.ITEM_ID]).sum()),
        instants=events[c.TS].nunique(),
        whole=len(sample) < SAMPLE,
    )
    draft.require_possible(seen, where)
    picture = profile(spark.createDataFrame(events))
    return Look(
        where,
        place,
        described,
        chosen,
        picture,
        doubts.doubts(chosen, events, now),
        seen,
        len(sample) if seen.whole else total,
    )


def show(console: Console, seen: Look) -> None:
    """Print the columns, what they are taken for, and a picture of the events."""
    total = "" if seen.total is None else f" of {seen.total:,}"
    rows = "all rows" if seen.looked.whole else f"the first {SAMPLE:,}{total} rows"
    first_look.show(
        console,
        [
            (
                column.name,
                column.looks,
                f"{column.nulls:,}",
                f"{column.distinct:,}" if column.distinct else "",
                ", ".join(column.examples),
            )
            for column in seen.columns
        ],
        {role.column.name: f"{name}, {role.why}" for name, role in seen.roles.items()},
        seen.profile,
        title=f"{seen.where}: {rows}",
        doubts=seen.doubts,
    )


def write(seen: Look, out: Path) -> Path:
    """The pipeline file, checked as `run` would check it. Raises ConfigError where there is a file
    already.
    """
    if out.exists():
        raise ConfigError(
            str(out),
            found="a file that is there already",
            expected="a new one",
            remedy="name another with -o",
        )
    text = draft.pipeline(_plain(out.stem), seen.place, seen.roles, seen.looked)
    artifacts.write_text(out, text)
    try:
        steps.load(out)
    except RecsysError:
        out.unlink()  # a file that does not run would be in the way of the next one
        raise
    return out


def name_of(where: str) -> str:
    """A name for the pipeline: the last part of a path or of a table's name, without its ending.

    >>> name_of("s3://bucket/shop/events/"), name_of("main.shop.events"), name_of("a/clicks.csv.gz")
    ('events', 'events', 'clicks')
    >>> name_of("SELECT * FROM sales")
    'own'
    """
    if _QUERY.match(where):
        return "own"
    last = re.split(r"[/.]" if "/" not in where else "/", where.rstrip("/*"))[-1]
    return _plain(last.split(".")[0])


def _plain(name: str) -> str:
    """With the characters alone that a data set's name may have."""
    return _NAME.sub("-", name).strip("-._") or "own"


def _place(spark: SparkSession, where: str) -> dict[str, Any]:
    """How `source.interactions` names it. A path without a scheme is made absolute, so that the
    pipeline runs from any folder.
    """
    if _QUERY.match(where):
        return {"query": " ".join(where.split())}
    if "/" not in where and not Path(where).exists():
        if spark.catalog.tableExists(where):
            return {"table": where}
        raise DataError(
            where,
            found="neither a file or folder here nor a table of the session",
            expected="a path, a URL, or a name such as catalog.schema.table",
            remedy="correct it; a path has a slash in it, such as ./events.csv",
        )
    path = where if "://" in where else str(Path(where).expanduser().absolute())
    if (Path(path) / "_delta_log").is_dir() or path.rstrip("/").endswith(".delta"):
        return {"table": path}
    there = files.find(spark, _Any(files=path))
    if there.form != "delimited":
        return {"files": path, "format": there.form}
    first = heads.lines(spark, there.stored[0].url, LINES)
    lines = [line.decode("utf-8", errors="replace").removeprefix("\ufeff") for line in first]
    written = delimiter.written(lines, path)
    place = {"files": path, "format": there.form, "separator": written.separator}
    return place if written.header else place | {"header": False, "names": list(written.names)}


def _events(sample: pd.DataFrame, chosen: Mapping[str, Role]) -> pd.DataFrame:
    """user_id, item_id, ts (seconds; the row's number where there are no times), value."""
    present = sample.dropna(subset=[chosen[role].column.name for role in roles.REQUIRED])
    events = pd.DataFrame(
        {role: columns.texts(present[chosen[role].column.name]) for role in roles.REQUIRED}
    )
    events[c.TS] = _seconds(present, chosen.get(c.TS))
    value = chosen.get(c.VALUE)
    events[c.VALUE] = (
        1.0 if value is None else pd.to_numeric(present[value.column.name]).astype(float)
    )
    return events.dropna().astype({c.TS: "int64"}).reset_index(drop=True)


def _seconds(rows: pd.DataFrame, role: Role | None) -> Any:
    if role is None:
        return range(len(rows))
    values, time = rows[role.column.name], role.column.time
    if time in UNITS:
        return pd.to_numeric(values) // UNITS[time]
    if role.column.written is not None:
        return times.seconds(columns.texts(values), role.column.written)
    return (
        pd.to_datetime(values, utc=True, format="ISO8601")
        .astype("datetime64[s, UTC]")
        .astype("int64")
    )
