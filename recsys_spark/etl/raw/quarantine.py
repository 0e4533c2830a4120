"""Rejected rows with their line numbers, counted against a budget before anything is published."""

from __future__ import annotations

import datetime
from functools import reduce
from typing import cast

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import QualityError
from recsys_spark.datasets.files.spec import PER_SECOND, Unit
from recsys_spark.datasets.forms.scan import AT, BLOCK, ENCODING, FIELDS, FIRST, RECORD
from recsys_spark.etl.raw import clean
from recsys_spark.etl.raw.check import Checked
from recsys_spark.etl.raw.typed import NO_UNIT, NO_ZONE, OTHER_UNIT

EXAMPLES = 3  # rejected lines shown in an error
# {reason: what to do where most rows have it}
_REMEDIES = {
    RECORD: "write one JSON object a line",
    ENCODING: "set `encoding`, or write the files in UTF-8",
    clean.NO_ID: "fill the ids, or leave such rows out where they are made",
    NO_UNIT: "set `unit` to that of these numbers: s, ms, us or ns",
    NO_ZONE: "set `zone` to that in which these times were written, such as UTC",
    clean.TIME: "map ts to a time: text such as 2026-01-31T10:00:00Z, or a number with its `unit`",
    clean.VALUE_RANGE: "set `value_min` and `value_max` to what values may be",
    clean.NO_USER: "complete the users, or set `unknown_ids: keep` under `source`",
    clean.NO_ITEM: "complete the items, or set `unknown_ids: keep` under `source`",
    clean.CONFLICT: "set `stored: follow` where the source is right and what is stored is old; "
    "events of one user, item and second that differ need times that tell them apart",
    clean.EXACT: "the files hold rows twice: take one copy away",
}


def rejects(tables: list[Checked], *, run_id: str, now: float) -> DataFrame | None:
    """The rejected rows of all tables, in the form of the table `quarantine`; None when there are
    none.
    """
    rejected: list[DataFrame] = []
    when = F.lit(datetime.datetime.fromtimestamp(now, datetime.UTC))
    for checked in tables:
        if not checked.reasons:
            continue
        bad = checked.rows.where(F.col(c.REASON).isNotNull()).select(
            c.SOURCE_FILE, BLOCK, AT, c.RAW, c.REASON
        )
        if checked.conflicts is not None:
            bad = bad.unionByName(checked.conflicts.select(*bad.columns))
        for scan in checked.scans:
            if scan.in_files:
                lined = bad.join(scan.first_lines(), on=[c.SOURCE_FILE, BLOCK], how="inner")
                line = F.col(FIRST) + F.col(AT)
            else:  # a row of a table is known by what `raw` says of it
                lined = bad.where(F.col(c.SOURCE_FILE).isin(list(scan.names)))
                line = F.lit(None).cast("bigint")
            rejected.append(
                lined.select(
                    F.lit(run_id).alias(c.RUN_ID),
                    F.lit(checked.table).alias("table"),
                    c.SOURCE_FILE,
                    line.alias(c.LINE),
                    c.RAW,
                    c.REASON,
                    when.alias(c.QUARANTINED_AT),
                )
            )
    return reduce(DataFrame.unionByName, rejected) if rejected else None


def require_budget(checked: Checked, rejected: DataFrame | None, share: float) -> None:
    """Raises QualityError when more than `share` of a table's rows are rejected, naming the reasons
    and the first lines.
    """
    bad, rows = sum(checked.reasons.values()), sum(checked.read.values())
    # A team's rows may come twice: the second one adds nothing, and takes nothing away
    harmless = checked.reasons.get(clean.EXACT, 0) if checked.is_own else 0
    if bad - harmless <= share * rows:
        return
    assert rejected is not None, "counted as rejected, so they are there"
    first = (
        rejected.where(F.col("table") == checked.table)
        .orderBy(c.SOURCE_FILE, c.LINE)
        .limit(EXAMPLES)
        .collect()
    )
    lines = "; ".join(
        f"{row[c.SOURCE_FILE]}{_line(row)} {row[c.REASON]} {row[c.RAW][:120]!r}" for row in first
    )
    counts = ", ".join(
        f"{count} {reason}"
        for reason, count in sorted(checked.reasons.items(), key=lambda pair: -pair[1])
    )
    raise QualityError(
        f"raw rows of {checked.table}",
        found=f"{bad} of {rows} rejected ({counts}): {lines}",
        expected=f"at most {100 * share:g} % "
        f"(max_quarantine_share={share:g}); nothing was published",
        remedy=f"{_remedy(checked, first)}look at these lines and mend the files, or raise "
        "max_quarantine_share",
    )


def _line(row: Row) -> str:
    return "" if row[c.LINE] is None else f" line {row[c.LINE]}"


def _remedy(checked: Checked, examples: list[Row]) -> str:
    """What would help against the commonest reason, where a description may be mistaken."""
    if not checked.is_own:
        return ""
    reason = max(checked.reasons, key=lambda name: checked.reasons[name])
    files = {name: scan.file for scan in checked.scans for name in scan.names}
    file = files[examples[0][c.SOURCE_FILE]] if examples else None
    if reason == FIELDS and file is not None:
        return (
            f"lines are split by {file.separator!r} into {len(file.columns)} fields "
            f"({', '.join(file.columns)}): set `separator`, `quoted` and `columns` as the files "
            "have them; else "
        )
    if reason == OTHER_UNIT and file is not None:
        return (
            f"as numbers of {file.unit} these times lie after the year 5000: they look like "
            f"{_finer(file.unit)}, or finer; set `unit: {_finer(file.unit)}`; else "
        )
    remedy = _REMEDIES.get(reason)
    return f"{remedy}; else " if remedy else ""


def _finer(unit: str | None) -> str:
    units = list(PER_SECOND)
    return units[min(units.index(cast(Unit, unit or "s")) + 1, len(units) - 1)]


def require_expected(checked: Checked, expected: dict[str, int], folder: str) -> None:
    """Raises QualityError when a known data set has an unexpected number of rows. expected:
    {label of the files: rows}, which only a table with a row for each line counts.
    """
    listed = {scan.file.label for scan in checked.scans if scan.file.lists or scan.file.repeats}
    for pattern, rows in checked.read.items():
        if pattern not in listed and rows != expected.get(pattern, rows):
            raise QualityError(
                f"{folder}/{pattern}",
                found=f"{rows:,} rows",
                expected=f"{expected[pattern]:,} rows; nothing was published",
                remedy="the file is cut, doubled or another version: fetch it again, or set "
                "`expected: ignore` where it is meant to be so",
            )
