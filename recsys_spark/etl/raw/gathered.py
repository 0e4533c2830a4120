"""All sources of an ingest step: the files of a data set, or what `source:` names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import plugins
from recsys_spark.datasets.files import folder as folders
from recsys_spark.datasets.files import spec
from recsys_spark.datasets.forms import blocks, lines, opened
from recsys_spark.datasets.forms.scan import Scan, inner
from recsys_spark.datasets.forms.source import Source
from recsys_spark.etl.raw import check, mapping
from recsys_spark.etl.raw.check import Checked

_FORMS = "recsys_spark.datasets.forms"


@dataclass(frozen=True)
class Gathered:
    """The scans of each table. added: those that only add fields. facts: for the run's record.
    expected: {label of files: rows}, as far as they are known.
    """

    dataset: spec.Dataset
    scans: dict[str, list[Scan]]
    added: dict[str, list[Scan]]
    facts: dict[str, Any]
    expected: dict[str, int] = field(default_factory=dict)
    sources: tuple[opened.Opened, ...] = ()

    @property
    def is_whole(self) -> bool:
        """False: only the events since the last run were read."""
        return not any("since" in source.facts for source in self.sources)

    @property
    def place(self) -> str:
        return str(self.facts.get("folder", "source"))

    def checked(self, stored: dict[str, DataFrame | None]) -> list[Checked]:
        """The rows of each table with the reasons of rejected ones; nothing is written. stored:
        the tables with which rows are compared.
        """
        users, items = (
            check.entities(
                table,
                self.scans.get(table, []),
                self.added.get(table, []),
                self.dataset,
                stored.get(table),
            )
            for table in (c.USERS, c.ITEMS)
        )
        scans = self.scans[c.INTERACTIONS]
        if not self.is_whole:
            # Few rows, found by reading the whole table past the files that are known: once
            scans = [replace(scan, rows=scan.rows.persist(check.SPILLING)) for scan in scans]
        events = check.events(
            scans,
            users,
            items,
            self.dataset,
            stored.get(c.INTERACTIONS),
            may_be_none=not self.is_whole,
        )
        if not self.is_whole:
            events.cached += [scan.rows for scan in scans]
        shown = self.scans.get(c.IMPRESSIONS)
        impressions = (
            check.events(
                shown, None, items, self.dataset, stored.get(c.IMPRESSIONS), table=c.IMPRESSIONS
            )
            if shown
            else None
        )
        return [rows for rows in (users, items, impressions, events) if rows is not None]


def of_folder(
    spark: SparkSession, dataset: spec.Dataset, folder: Path, runs: Path, *, counts: bool = False
) -> Gathered:
    """The files of a data set. counts: published row counts are expected."""
    raws = folders.files(dataset, folder)
    folders.require_whole(raws, runs)
    reader = blocks.reading(spark, sum(raw.size_bytes for raw in raws))
    scans: dict[bool, dict[str, list[Scan]]] = {False: {}, True: {}}
    for file in dataset.files:
        kind = [raw for raw in raws if raw.file is file]
        headers = {name for raw in kind for name in folders.header_of(raw)} if file.header else ()
        if kind:
            scan = (
                plugins.load(_FORMS, file.form).scan(spark, file, kind)
                if file.form
                else lines.scan(spark, file, kind, reader, headers)
            )
            scans[file.adds_fields].setdefault(file.table, []).append(scan)
    for left_out in scans[False].pop("left_out", []):
        scans = {
            added: {
                table: [_without(scan, left_out) for scan in of_table]
                for table, of_table in tables.items()
            }
            for added, tables in scans.items()
        }
    facts = {"folder": str(folder), "generated": folders.generated(folder) is not None}
    expected = folders.expected_rows(dataset, folder) if counts else {}
    return Gathered(dataset, scans[False], scans[True], facts, expected)


def _without(scan: Scan, left_out: Scan) -> Scan:
    """The rows whose item is not left out; lines are numbered as they stand in the file."""
    item = scan.file.expression(c.ITEM_ID)
    if item is None:
        return scan
    ids = left_out.rows.select(F.trim(c.ITEM_ID).alias(inner("left_out"))).distinct()
    rows = scan.rows.join(ids, F.expr(item) == F.col(inner("left_out")), "left_anti")
    return replace(scan, rows=rows, lines=scan.rows if scan.lines is None else scan.lines)


def of_source(
    spark: SparkSession,
    source: Source,
    dataset: spec.Dataset,
    taken: dict[str, Any] | None = None,
) -> Gathered:
    """What `source:` names, its mapping checked against the columns that are there. taken: what the
    last run's record says of the events' table, where only those since then are wanted.
    """
    sources = tuple(
        opened.opened(spark, entry, taken if entry is source.interactions else None)
        for entry in source.entries()
    )
    facts = {
        each.entry.fills: each.facts | {"types": mapping.require_fits(each.scan)}
        for each in sources
    }
    scans = {each.entry.fills: [each.scan] for each in sources}
    return Gathered(dataset, scans, {}, {"sources": facts}, sources=sources)
