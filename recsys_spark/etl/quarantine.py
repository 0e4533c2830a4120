"""Rejected rows: with their line, counted against a budget before anything is published."""

from __future__ import annotations

import datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.etl.check import Checked
from recsys_spark.etl.clean import AT, BLOCK, FIRST

EXAMPLES = 3  # rejected lines shown in an error


def rejects(tables: list[Checked], *, run_id: str, now: float) -> DataFrame | None:
    """The rejected rows of all tables, as the table `quarantine` has them; None when there is none."""
    found: list[DataFrame] = []
    when = F.lit(datetime.datetime.fromtimestamp(now, datetime.UTC))
    for checked in tables:
        if not checked.reasons:
            continue
        bad = checked.rows.where(F.col(c.REASON).isNotNull()).select(c.SOURCE_FILE, BLOCK, AT, c.RAW, c.REASON)
        if checked.conflicts is not None:
            bad = bad.unionByName(checked.conflicts.select(*bad.columns))
        for scan in checked.scans:
            lined = bad.join(scan.first_lines(), on=[c.SOURCE_FILE, BLOCK], how="inner")
            found.append(lined.select(
                F.lit(run_id).alias(c.RUN_ID), F.lit(checked.table).alias("table"), c.SOURCE_FILE,
                (F.col(FIRST) + F.col(AT)).alias(c.LINE), c.RAW, c.REASON, when.alias(c.QUARANTINED_AT),
            ))
    return reduce(DataFrame.unionByName, found) if found else None


def require_budget(checked: Checked, rejected: DataFrame | None, share: float) -> None:
    """Raises DataError when more than `share` of a table's rows are rejected, naming the reasons and the first lines."""
    bad, rows = sum(checked.reasons.values()), sum(checked.read.values())
    if bad <= share * rows:
        return
    assert rejected is not None, "counted as rejected, so they are there"
    first = rejected.where(F.col("table") == checked.table).orderBy(c.SOURCE_FILE, c.LINE).limit(EXAMPLES).collect()
    lines = "; ".join(f"{row[c.SOURCE_FILE]} line {row[c.LINE]} {row[c.REASON]} {row[c.RAW][:80]!r}" for row in first)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(checked.reasons.items(), key=lambda pair: -pair[1]))
    raise DataError(f"raw rows of {checked.table}", found=f"{bad} of {rows} rejected ({counts}): {lines}",
                    expected=f"at most {100 * share:g} % (max_quarantine_share={share:g}); nothing was published",
                    remedy="look at these lines and mend the files, or raise max_quarantine_share")


def require_expected(checked: Checked, expected: dict[str, int], folder: str) -> None:
    """Raises DataError when a known set does not have the rows it must have. `expected`: {file pattern: rows}."""
    for pattern, rows in checked.read.items():
        if rows != expected.get(pattern, rows):
            raise DataError(f"{folder}/{pattern}", found=f"{rows:,} rows", expected=f"{expected[pattern]:,} rows; nothing was published",
                            remedy="the file is cut, doubled or another version: fetch it again, or set `expected: ignore`")
