"""Raw files -> the tables interactions, users, items; what cannot be used -> quarantine.

Everything is checked before anything is published. Each table is then one commit, merged by its natural key, so a run that was
killed and started again, or run twice, leaves what one run leaves. Of several rows with the same key the stored one
stays, else the first by file name and line.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.datasets import folder as folders
from recsys_spark.datasets import obtain, spec
from recsys_spark.datasets.delimited import Delimited
from recsys_spark.etl import check, clean, quarantine
from recsys_spark.etl.check import Checked
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.session import session
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, SparkSettings

logger = log.get(__name__)


class Job(context.Job):
    stage: Literal["ingest"]
    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # a known set, or any name for one's own under `delimited`
    data: str | None = None  # its folder; null: $RECSYS_DATA/<dataset>, else ./data/<dataset>
    on_missing: tuple[Literal["download", "generate"], ...] = ("download",)  # tried in this order when there is no folder
    max_quarantine_share: float = Field(0.001, ge=0, le=1)  # of the rows of one table
    expected: Literal["check", "ignore"] = "check"  # the published numbers of rows
    delimited: Delimited | None = None

    @model_validator(mode="after")
    def _is_known(self) -> Job:
        if self.delimited is None:
            spec.find(self.dataset)
        elif self.data is None:
            raise ValueError("`delimited` needs `data`, the folder with your files")
        return self

    def described(self) -> spec.Dataset:
        return self.delimited.dataset(self.dataset) if self.delimited else spec.find(self.dataset)


def source_fingerprint(job: Job) -> str:
    """Of the raw files' names, sizes and bytes, so that a changed or added file makes a new run. Fetches a set that is missing."""
    return folders.identity(folders.files(job.described(), _folder(job)))


def missing(job: Job) -> str:
    """Why nothing can be said of this step yet: empty when its raw files are there."""
    return obtain.missing(job.described(), job.data, job.on_missing)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Files, bytes and an estimate of rows by the length of each file's first lines."""
    folder = _folder(job)
    raws = folders.files(job.described(), folder)
    rows: dict[str, int] = {}
    for raw in raws:
        rows[raw.file.table] = rows.get(raw.file.table, 0) + folders.estimated_rows(raw)
    return {"folder": str(folder), "files": len(raws), "bytes": sum(raw.path.stat().st_size for raw in raws), "rows": rows}


def run(ctx: Context, job: Job) -> Outcome:
    dataset, folder, started = job.described(), _folder(job), time.monotonic()
    tables = checked(ctx, dataset, folder)
    try:
        new = {each.table: check.not_stored(each, _stored(ctx, each.table)) for each in tables}
        expected = folders.expected_rows(dataset, folder) if job.expected == "check" else {}
        rejects = quarantine.rejects(tables, run_id=ctx.run_id, now=ctx.now)
        for each in tables:
            quarantine.require_expected(each, expected, str(folder))
            quarantine.require_budget(each, rejects, job.max_quarantine_share)
        # Events last: whoever sees them finds their users and items.
        versions = {c.QUARANTINE: _publish(ctx, c.QUARANTINE, rejects)}
        versions |= {table: _publish(ctx, table, new.get(table)) for table in (c.USERS, c.ITEMS, c.INTERACTIONS)}
    finally:
        for each in tables:
            each.release()
    seconds = time.monotonic() - started
    rows = {each.table: sum(each.read.values()) for each in tables}
    summary = {
        "folder": str(folder), "generated": folders.generated(folder) is not None, "seconds": round(seconds, 1), "rows": rows,
        "quarantined": {each.table: each.reasons for each in tables if each.reasons},
    }
    rejected = sum(sum(each.reasons.values()) for each in tables)
    logger.info(log.fields(event="ingested", dataset=dataset.name, **rows, quarantined=rejected, seconds=seconds))
    return Outcome(tables=versions, summary=summary)


def checked(ctx: Context, dataset: spec.Dataset, folder: Path) -> list[Checked]:
    """The rows of each table, judged; nothing is written."""
    raws = folders.files(dataset, folder)
    folders.require_whole(raws)

    def scans(table: str, adds_fields: bool = False) -> list[clean.Scan]:
        kinds = [[raw for raw in raws if raw.file is file] for file in dataset.of(table, adds_fields=adds_fields)]
        return [clean.scan(ctx.spark, kind) for kind in kinds if kind]

    users = check.entities(c.USERS, scans(c.USERS), scans(c.USERS, True), dataset, _stored(ctx, c.USERS))
    items = check.entities(c.ITEMS, scans(c.ITEMS), scans(c.ITEMS, True), dataset, _stored(ctx, c.ITEMS))
    events = check.events(scans(c.INTERACTIONS), users, items, dataset, _stored(ctx, c.INTERACTIONS))
    return [each for each in (users, items, events) if each is not None]


def _folder(job: Job) -> Path:
    return obtain.obtain(job.described(), job.data, job.on_missing, lambda: session(SparkSettings(), "recsys_spark generate"))


def _stored(ctx: Context, table: str) -> DataFrame | None:
    return ctx.lake.read(table) if ctx.lake.exists(table) else None


def _publish(ctx: Context, table: str, rows: DataFrame | None) -> int:
    """One commit, or none when there is nothing new. Returns the version."""
    if rows is None:
        ctx.lake.create(table)
        return ctx.lake.version(table)
    columns = [F.col(f.name) if f.name in rows.columns else F.lit(None).cast(f.dataType).alias(f.name) for f in SCHEMAS[table]]
    return ctx.lake.merge_new(table, rows.select(*columns), txn=(f"{ctx.run_id}/{table}", 1))
