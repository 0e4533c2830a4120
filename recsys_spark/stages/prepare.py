"""interactions -> `splits`, `user_index`, `item_index`: filtered, numbered, and every event in its part.

Several prepare steps share the index tables, which only grow. Rules and the fixed order of ties: `etl.split`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.errors import DataError
from recsys_spark.etl import filters, index, split
from recsys_spark.etl.filters import Filters
from recsys_spark.etl.split import Fractions, Rule
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref

logger = log.get(__name__)
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


class Job(context.Job):
    stage: Literal["prepare"] = "prepare"
    source: Ref  # an ingest step
    split: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")  # name in the table `splits`; empty: that of the rule
    rule: Rule = "leave_last_out"
    fractions: Fractions | None = None  # train, valid, test: 0.8, 0.1, 0.1; none with leave_last_out
    filters: Filters = Filters()

    @model_validator(mode="after")
    def _fractions_fit(self) -> Job:
        if self.fractions is None:
            return self
        if self.rule == "leave_last_out":
            raise ValueError("no fractions: leave_last_out takes two events of each user")
        train, valid, test = self.fractions
        if train <= 0 or valid < 0 or test <= 0 or abs(train + valid + test - 1) > 1e-9:
            raise ValueError("train and test above 0, valid at least 0, the three adding up to 1")
        return self

    @property
    def name(self) -> str:
        return self.split or self.rule


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when the filters leave no event; nothing is written then."""
    events = ctx.read(c.INTERACTIONS, job.source).select(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE)
    kept, dropped = filters.apply(events, job.filters)
    if dropped:  # they cost shuffles, and three jobs read the result
        kept = kept.persist(StorageLevel.DISK_ONLY)
    try:
        return _write(ctx, job, kept, dropped)
    finally:
        kept.unpersist()


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Rows that come in; Delta knows the count without reading them."""
    rows = ctx.read(c.INTERACTIONS, job.source).count()
    return {"split": job.name, "rule": job.rule, "events": rows, "shuffle_bytes": rows * 60}


def _write(ctx: Context, job: Job, kept: DataFrame, dropped: dict[str, int]) -> Outcome:
    if kept.isEmpty():
        raise DataError(f"table {ctx.lake.where(c.INTERACTIONS)}, version {ctx.read_versions[c.INTERACTIONS]}",
                        found="no event" + (f" after {job.filters.model_dump(exclude_defaults=True)}" if dropped else ""),
                        expected="at least one",
                        remedy="loosen the filters of the step" if dropped else "run ingest on a data set with events")
    versions = {
        c.USER_INDEX: _extend_index(ctx, c.USER_INDEX, kept, c.USER_ID, c.USER_IDX),
        c.ITEM_INDEX: _extend_index(ctx, c.ITEM_INDEX, kept, c.ITEM_ID, c.ITEM_IDX),
    }
    parted = split.assign(kept, job.rule, fractions=job.fractions or DEFAULT_FRACTIONS, seed=ctx.seed)
    rows = _numbered(ctx, parted, versions).withColumns({c.SPLIT: F.lit(job.name), c.RUN_ID: F.lit(ctx.run_id)})
    rows = rows.select(c.SPLIT, c.RUN_ID, c.USER_IDX, c.ITEM_IDX, c.USER_ID, c.ITEM_ID, c.TS, c.VALUE, c.PART)
    versions[c.SPLITS] = ctx.lake.replace(c.SPLITS, rows, {c.SPLIT: job.name})

    written = ctx.lake.read(c.SPLITS, versions[c.SPLITS]).where(F.col(c.SPLIT) == job.name)
    summary = _facts(written) | {"split": job.name, "rule": job.rule, "seed": ctx.seed, "dropped": dropped}
    summary |= {"num_users": _highest(ctx, c.USER_INDEX, versions, c.USER_IDX),
                "num_items": _highest(ctx, c.ITEM_INDEX, versions, c.ITEM_IDX),
                "source_version": ctx.read_versions[c.INTERACTIONS]}
    logger.info(log.fields(stage="prepare", **{key: value for key, value in summary.items() if not isinstance(value, dict)}))
    # What later steps read through this one: its source's tables, at the versions that it saw.
    source = ctx.inputs[job.source].output_versions
    return Outcome(tables={name: source[name] for name in (c.INTERACTIONS, c.USERS, c.ITEMS) if name in source} | versions, summary=summary)


def _extend_index(ctx: Context, table: str, events: DataFrame, id_column: str, idx_column: str) -> int:
    """Append the ids that have no number yet; the table's version."""
    ctx.lake.create(table)
    ids = events.select(id_column).distinct().persist()
    new = index.extend(ctx.lake.read(table), ids, id_column, idx_column).persist()
    try:
        return ctx.lake.merge_new(table, new)
    finally:
        new.unpersist()
        ids.unpersist()


def _numbered(ctx: Context, events: DataFrame, versions: dict[str, int]) -> DataFrame:
    # No broadcast hint: Spark broadcasts an index that is small and merges by sorting when it is not.
    users, items = ctx.lake.read(c.USER_INDEX, versions[c.USER_INDEX]), ctx.lake.read(c.ITEM_INDEX, versions[c.ITEM_INDEX])
    return events.join(users, on=c.USER_ID, how="inner").join(items, on=c.ITEM_ID, how="inner")


def _facts(rows: DataFrame) -> dict[str, Any]:
    """Counts, and a fingerprint of ids, times, values and parts that no order or numbering of the rows changes."""
    row_hash = F.xxhash64(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE, c.PART).cast("decimal(20,0)")
    parts = rows.groupBy(c.PART).agg(F.count("*").alias("events"), F.sum(row_hash).alias("hash")).collect()
    counts = dict.fromkeys((c.TRAIN, c.VALID, c.TEST), 0) | {row[c.PART]: row["events"] for row in parts}
    users = rows.groupBy(c.USER_IDX).agg(F.max((F.col(c.PART) != c.TRAIN).cast("int")).alias("held"))
    user_counts = users.agg(F.count("*"), F.sum(1 - F.col("held"))).collect()[0]
    return {
        **counts, "rows": sum(counts.values()), "users": int(user_counts[0]), "users_all_train": int(user_counts[1]),
        "items": rows.select(c.ITEM_IDX).distinct().count(), "fingerprint": f"{sum(int(row['hash']) for row in parts) % 2**64:016x}",
    }


def _highest(ctx: Context, table: str, versions: dict[str, int], column: str) -> int:
    return int(ctx.lake.read(table, versions[table]).agg(F.max(column)).collect()[0][0])
