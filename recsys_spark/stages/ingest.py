"""Raw files, tables or queries -> the tables interactions, impressions, users, items; unusable rows
-> quarantine.

Everything is checked before anything is published. Each table is then one commit, merged by its
natural key or replaced as a whole, so a run that is killed and restarted, or run twice, has the
same result as one run. Of several rows with the same key the stored one stays, else the first by
file name and line.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.artifacts import fingerprint
from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.files import folder as folders
from recsys_spark.datasets.files import obtain, spec
from recsys_spark.datasets.forms import opened
from recsys_spark.datasets.forms.delimited import Delimited
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.source import Source
from recsys_spark.etl.raw import check, gathered, mapping, quarantine
from recsys_spark.etl.raw.check import Checked
from recsys_spark.etl.raw.gathered import Gathered
from recsys_spark.etl.repeats import Repeats
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.session import session
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, SparkSettings
from recsys_spark.pipeline.steps import Step

logger = log.get(__name__)

OUTLIVED = (
    "stored rows that the source does not have: of files or rows that went, of an earlier mapping, "
    "or of another ingest step; `stored: follow` takes them away"
)


class Job(context.Job):
    stage: Literal["ingest"] = "ingest"
    # A known data set, or any name for one described by `delimited`
    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: str | None = None  # its folder; null: $RECSYS_DATA/<dataset>, else ./data/<dataset>
    # Sources tried in this order when there is no folder
    on_missing: tuple[Literal["download", "generate"], ...] = ("download",)
    max_quarantine_share: float = Field(0.001, ge=0, le=1)  # of the rows of one table
    expected: Literal["check", "ignore"] = "check"  # whether published row counts are checked
    delimited: Delimited | None = None
    source: Source | None = None
    # A stored row that contradicts the source, or that the source no longer has, stays (and is
    # counted), or the table becomes what the source says
    stored: Literal["keep", "follow"] = "keep"
    # What a second event of one user and item means, from the split to the lists: another event, or
    # one event with the latest, the first or the summed value
    repeats: Repeats = "events"

    @model_validator(mode="after")
    def _is_known(self) -> Job:
        if self.delimited is not None and self.source is not None:
            raise ValueError("delimited or source, not both")
        if self.source is not None:
            if self.data is not None:
                raise ValueError("no `data`: each part of `source` says where it lies")
            if self.stored == "follow" and self.source.interactions.incremental:
                raise ValueError("stored: follow reads the whole table: leave out incremental")
        elif self.delimited is None:
            spec.find(self.dataset)
        elif self.data is None:
            raise ValueError("`delimited` needs `data`, the folder with your files")
        return self

    def described(self) -> spec.Dataset:
        described = self.source or self.delimited
        return described.dataset(self.dataset) if described else spec.find(self.dataset)


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """Raises ConfigError where a step would take away what another ingest step brought."""
    assert isinstance(step.job, Job)
    for other in steps.values():
        if isinstance(other.job, Job) and "follow" in (step.job.stored, other.job.stored):
            raise ConfigError(
                f"{where}.stored",
                found=f"follow, beside another ingest step ({other.name})",
                expected="keep in both: the tables would lose the rows of one of them",
                remedy="set `stored: keep`, or let one step read all files",
            )


def source_fingerprint(job: Job, runs: Path) -> str:
    """Fingerprint of what the sources hold: of files their names, sizes and bytes, of Delta tables
    their ids and versions, of other tables and queries all rows. What changes it makes a new run.
    Fetches a data set that is missing.
    """
    if job.source is not None:
        return fingerprint(opened.identity(_session(), job.source, runs))
    return folders.identity(folders.files(job.described(), _folder(job)), runs)


def missing(job: Job) -> str:
    """The reason why this step cannot be planned yet; empty when its raw files exist."""
    return "" if job.source else obtain.missing(job.described(), job.data, job.on_missing)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Files, bytes and rows as far as they are known without reading these: of text an estimate
    from the length of each file's first lines. Raises what `run` would for a mapping that does not
    fit.
    """
    if job.source is not None:
        facts = {}
        for entry in job.source.entries():
            mapping.require_fits(opened.opened(ctx.spark, entry).scan)
            for name, value in opened.estimate(ctx.spark, entry).items():
                facts[f"{entry.fills}_{name}"] = value
        return facts
    folder = _folder(job)
    raws = folders.files(job.described(), folder)
    paths = {raw.path for raw in raws}
    rows: dict[str, int] = {}
    for raw in raws:
        rows[raw.file.table] = rows.get(raw.file.table, 0) + folders.estimated_rows(raw)
    return {
        "folder": str(folder),
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "rows": rows,
    }


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError, TableError or ConfigError for a source that cannot be read, does not fit
    its mapping, or has too many unusable rows; nothing is published then.
    """
    _require_same_set(ctx, job)
    started = time.monotonic()
    with spelled_out(f"data of step {ctx.step}"):
        raw = _gathered(ctx, job)
        followed = _followed(job)
        tables = raw.checked(
            {table: None if follows else _stored(ctx, table) for table, follows in followed.items()}
        )
        try:
            versions = _publish_all(ctx, job, raw, tables)
        finally:
            for checked in tables:
                checked.release()
    seconds = time.monotonic() - started
    rows = {checked.table: sum(checked.read.values()) for checked in tables}
    rejected = {checked.table: checked.reasons for checked in tables if checked.reasons}
    outlived = {
        checked.table: checked.outlived
        for checked in tables
        if checked.outlived and (raw.is_whole or checked.table != c.INTERACTIONS)
    }
    if outlived:
        logger.warning(log.fields(event="outlived", **outlived, meaning=OUTLIVED))
    _say_times(ctx, tables)
    logger.info(
        log.fields(
            event="ingested",
            dataset=job.dataset,
            **rows,
            quarantined=sum(sum(reasons.values()) for reasons in rejected.values()),
            **_said(rejected),
            seconds=seconds,
        )
    )
    counts = {"rows": rows, "quarantined": rejected, "outlived": outlived}
    return Outcome(tables=versions, summary=raw.facts | {"seconds": round(seconds, 1)} | counts)


def _said(rejected: dict[str, dict[str, int]]) -> dict[str, str]:
    """Why rows went to quarantine."""
    reasons = ", ".join(
        f"{count:,} {reason} of {table}"
        for table, counts in rejected.items()
        for reason, count in counts.items()
    )
    return {"reasons": reasons} if reasons else {}


def _say_times(ctx: Context, tables: list[Checked]) -> None:
    """Warns of events that are all of one second, or that have not happened yet."""
    for first, last in (checked.times for checked in tables if checked.times is not None):
        if first == last:
            said = "all events have one time: no rule that goes by time can divide them"
        elif last > ctx.now:
            said = "events that have not happened yet: is their unit or zone another?"
        else:
            continue
        logger.warning(log.fields(event="times", first=_day(first), last=_day(last), meaning=said))


def _day(ts: int) -> str:
    """As text; of years beyond 9999 the number of seconds."""
    try:
        return datetime.fromtimestamp(ts, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{ts} s"


def _publish_all(ctx: Context, job: Job, raw: Gathered, tables: list[Checked]) -> dict[str, int]:
    """{table: version} after everything was checked once more and published."""
    followed = _followed(job)
    new = {
        checked.table: checked.good
        if followed[checked.table]
        else check.not_stored(checked, _stored(ctx, checked.table))
        for checked in tables
    }
    rejects = quarantine.rejects(tables, run_id=ctx.run_id, now=ctx.now)
    for checked in tables:
        quarantine.require_expected(checked, raw.expected, raw.place)
        quarantine.require_budget(checked, rejects, job.max_quarantine_share)
    for source in raw.sources:
        source.require_unchanged(ctx.spark)
    versions = {c.QUARANTINE: _publish(ctx, c.QUARANTINE, rejects)}
    # Events come last, so that a reader of events also finds their users and items.
    shown = () if c.IMPRESSIONS not in new else (c.IMPRESSIONS,)
    for table in (c.USERS, c.ITEMS, *shown, c.INTERACTIONS):
        publish = _follow if followed[table] else _publish
        versions[table] = publish(ctx, table, new.get(table))
    return versions


def _gathered(ctx: Context, job: Job) -> Gathered:
    if job.source is None:
        counts = job.expected == "check"
        return gathered.of_folder(
            ctx.spark, job.described(), _folder(job), Path(ctx.env.runs), counts=counts
        )
    before = _last(ctx, job.source)
    taken = before.get(c.INTERACTIONS) if job.source.interactions.incremental else None
    raw = gathered.of_source(ctx.spark, job.source, job.described(), taken)
    for table, facts in raw.facts["sources"].items():
        _say_changed_types(table, before.get(table, facts)["types"], facts["types"])
    return raw


def _last(ctx: Context, source: Source) -> dict[str, dict[str, Any]]:
    """{table: what the last completed run with the same source of events says of its source}."""
    events = source.interactions.model_dump(mode="json")
    for run in sorted(ctx.lake.runs(), key=lambda run: run.ended_at, reverse=True):
        before = run.config.get("source") if run.stage == "ingest" else None
        if before and before[c.INTERACTIONS] == events:
            return dict(run.summary["sources"])
    return {}


def _say_changed_types(table: str, before: dict[str, str], now: dict[str, str]) -> None:
    changed = [
        f"{name} {before[name]} -> {kind}"
        for name, kind in now.items()
        if before.get(name, kind) != kind
    ]
    if changed:
        logger.warning(
            log.fields(
                event="types_changed",
                table=table,
                types=", ".join(changed),
                meaning="the source has other types than at the last run: are ids still the same?",
            )
        )


def _followed(job: Job) -> dict[str, bool]:
    """{table: whether it becomes what the source says}."""
    entities = job.stored == "follow" or job.described().follows
    return {
        c.USERS: entities,
        c.ITEMS: entities,
        c.IMPRESSIONS: job.stored == "follow",
        c.INTERACTIONS: job.stored == "follow",
    }


def _require_same_set(ctx: Context, job: Job) -> None:
    """Raises ConfigError where the lake holds another data set: ids of its users and items could
    coincide with those of this one, and its events would be split and trained on together.
    """
    others = {
        run.config["dataset"]
        for run in ctx.lake.runs()
        if run.stage == "ingest" and run.config["dataset"] != job.dataset
    }
    if others:
        raise ConfigError(
            f"lake {ctx.lake.root}",
            found=f"data set {', '.join(sorted(others))}, of an earlier ingest",
            expected=f"no other than {job.dataset}: their ids would mix",
            remedy="set env.lake to a lake of its own, or, for more files of one set, give both "
            "ingest steps the same `dataset`",
        )


def _folder(job: Job) -> Path:
    return obtain.obtain(
        job.described(),
        job.data,
        job.on_missing,
        lambda: session(SparkSettings(), "recsys_spark generate"),
    )


def _stored(ctx: Context, table: str) -> DataFrame | None:
    return ctx.lake.read(table) if ctx.lake.exists(table) else None


def _session() -> SparkSession:
    return SparkSession.getActiveSession() or session(SparkSettings(), "recsys_spark ingest")


def _publish(ctx: Context, table: str, rows: DataFrame | None) -> int:
    """Publishes rows in one commit, or none when there is nothing new. Returns the version."""
    if rows is None:
        ctx.lake.create(table)
        return ctx.lake.version(table)
    txn, some_new = (f"{ctx.run_id}/{table}", 1), table != c.QUARANTINE  # else compared before
    return ctx.lake.merge_new(table, _fitted(table, rows), txn, some_new=some_new)


def _follow(ctx: Context, table: str, rows: DataFrame | None) -> int:
    """Makes the table what `rows` are, in one commit, or none when it is so already."""
    stored = _stored(ctx, table)
    if rows is None or stored is None:
        return _publish(ctx, table, rows)
    new = _fitted(table, rows)
    if check.content_of(new) == check.content_of(stored):
        return ctx.lake.version(table)
    return ctx.lake.overwrite(table, new)


def _fitted(table: str, rows: DataFrame) -> DataFrame:
    """The columns of the table; null where rows do not have them."""
    given, fields = set(rows.columns), SCHEMAS[table]
    missing = {f.name: F.lit(None).cast(f.dataType) for f in fields if f.name not in given}
    return rows.withColumns(missing).select(*fields.fieldNames())
