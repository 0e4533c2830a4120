"""A `source:` entry of whatever form: its rows, its identity, its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from pyspark.sql import SparkSession

from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.forms import changes, columnar, files, headed, records, tables
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.files import Files
from recsys_spark.datasets.forms.scan import Scan
from recsys_spark.datasets.forms.source import Entry, Source

SCANS: dict[str, Callable[[SparkSession, Entry, Files], Scan]] = {
    "delimited": headed.scan,
    "json": records.scan,
    "parquet": columnar.scan,
    "orc": columnar.scan,
    "avro": columnar.scan,
}


@dataclass(frozen=True)
class Opened:
    """facts: what the run's record says of the source. files: None for a table or query."""

    entry: Entry
    scan: Scan
    facts: dict[str, Any]
    files: Files | None = None

    def require_unchanged(self, spark: SparkSession) -> None:
        """Raises DataError where files were changed, added or taken away since they were found."""
        if self.files is None:
            return
        now = files.find(spark, self.entry)
        before, after = self.files.states, now.states
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        if changed:
            raise DataError(
                f"files {self.entry.files}",
                found=f"{', '.join(changed[:5])}, changed while the step read them",
                expected="files that stay as they are; nothing was published",
                remedy="run the same command again when nothing writes there",
            )


def opened(spark: SparkSession, entry: Entry, taken: dict[str, Any] | None = None) -> Opened:
    """taken: what the last run's record says of the source, of which only the rows since then are
    wanted. Raises DataError, TableError or ConfigError for a source that cannot be read.
    """
    with spelled_out(_thing(entry)):
        return _opened(spark, entry, taken)


def _opened(spark: SparkSession, entry: Entry, taken: dict[str, Any] | None) -> Opened:
    if entry.files is not None:
        there = files.find(spark, entry)
        facts: dict[str, Any] = {
            "files": len(there.names),
            "bytes": there.size_bytes,
            "format": there.form,
        }
        return Opened(entry, SCANS[there.form](spark, entry, there), facts, there)
    at = tables.version_of(spark, entry)
    if at is None:
        name = entry.table or "query"
        scan = tables.scan_placeless(entry, name, tables.rows(spark, entry, at))
        facts = {"table": name} if entry.table else {"query": entry.query}
        return Opened(entry, scan, facts)
    facts = {"table": at.where, "id": at.id, "version": at.version}
    added = changes.since(spark, at, taken)
    if added is None:
        return Opened(entry, tables.scan(spark, entry, at), facts)
    facts["since"] = taken["version"] if taken else None
    return Opened(entry, tables.scan_placeless(entry, at.name, added), facts)


def identity(spark: SparkSession, source: Source, runs: Path) -> dict[str, str]:
    """{table: fingerprint of what its source holds now}. Raises as `opened`."""
    fingerprints = {}
    for entry in source.entries():
        with spelled_out(_thing(entry)):
            fingerprints[entry.fills] = _identity(spark, entry, runs)
    return fingerprints


def _thing(entry: Entry) -> str:
    if entry.files is not None:
        return f"files {entry.files}"
    return f"table {entry.table}" if entry.table else f"query {str(entry.query)[:120]}"


def estimate(spark: SparkSession, entry: Entry) -> dict[str, int | None]:
    """Rows, as far as they are known without reading them, and bytes. Raises as `opened`."""
    with spelled_out(_thing(entry)):
        return _estimate(spark, entry)


def _estimate(spark: SparkSession, entry: Entry) -> dict[str, int | None]:
    if entry.files is not None:
        there = files.find(spark, entry)
        if there.form in ("delimited", "json"):
            rows: int | None = _rows_of_text(spark, there)
        else:
            columnar.require_whole(there)
            rows = columnar.rows_of(there)
        return {"rows": rows, "bytes": there.size_bytes}
    at = tables.version_of(spark, entry)
    source = tables.rows(spark, entry, at)
    # Delta knows the count without reading rows; elsewhere it would cost a pass over them
    return {} if at is None else {"rows": source.count(), "bytes": at.size_bytes}


def _identity(spark: SparkSession, entry: Entry, runs: Path) -> str:
    if entry.files is not None:
        return files.find(spark, entry).identity(runs)
    at = tables.version_of(spark, entry)
    return tables.identity(entry, at, tables.rows(spark, entry, at))


def _rows_of_text(spark: SparkSession, there: Files) -> int:
    first = there.stored[0]
    lines = heads.lines(spark, first.url, 1000)
    return round(there.size_bytes * len(lines) / max(1, sum(len(line) + 1 for line in lines)))
