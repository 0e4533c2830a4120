"""interactions -> `splits`, `user_index`, `item_index`: filtered, numbered, and every event in its part.

Several prepare steps share the index tables, which only grow. Rules, their arguments and the fixed order of ties: `etl.split`; what
each is for: docs/protocols.md. The arguments of a rule stand beside it: `{stage: prepare, rule: strong, test_users: 750}`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import config, log
from recsys_spark.core.errors import DataError, nearest
from recsys_spark.etl import filters, index
from recsys_spark.etl.filters import Filters
from recsys_spark.etl.split import RULES, Rule
from recsys_spark.stages import context
from recsys_spark.stages.context import Context, Outcome, Ref

logger = log.get(__name__)


class Job(context.Job):
    stage: Literal["prepare"] = "prepare"
    source: Ref  # an ingest step
    split: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")  # name in the table `splits`; empty: that of the rule
    rule: str = "leave_last_out"
    arguments: dict[str, Any] = Field(default_factory=dict, validate_default=True)  # of the rule; its defaults are written out
    filters: Filters = Filters()

    @model_validator(mode="before")
    @classmethod
    def _arguments_beside_the_rule(cls, values: dict[str, Any]) -> dict[str, Any]:
        of_rules = {name for rule in RULES.values() for name in rule.model_fields}
        own = {key for key in values if key in cls.model_fields or (key not in of_rules and nearest(key, cls.model_fields))}
        given = {key: value for key, value in values.items() if key not in own}
        return {key: values[key] for key in own} | {"arguments": {**values.get("arguments", {}), **given}}

    @field_validator("rule")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in RULES:
            raise config.KeyProblem("split", "", "rule", found=repr(value), expected=f"one of {', '.join(RULES)}{nearest(value, RULES)}")
        return value

    @field_validator("arguments")
    @classmethod
    def _of_the_rule(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "rule" not in info.data:
            return value  # the wrong `rule` is reported by itself
        rule = info.data["rule"]
        return config.validate(RULES[rule], value, source=f"rule {rule}").model_dump(mode="json")

    @model_validator(mode="after")
    def _filters_fit(self) -> Job:
        if not RULES[self.rule].filters and self.filters != Filters():
            raise ValueError(f"no filters: a {self.rule} split is used as it is")
        return self

    @property
    def assigns(self) -> Rule:
        return RULES[self.rule].model_validate(self.arguments)

    @property
    def name(self) -> str:
        return self.split or self.rule


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when the filters leave no event, or the rule cannot be kept; nothing is written then."""
    rule = job.assigns
    events = ctx.read(c.INTERACTIONS, job.source).select(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE, *rule.needs)
    kept, dropped = filters.apply(events, job.filters, rule.until)
    if dropped:  # they cost shuffles, and three jobs read the result
        kept = kept.persist(StorageLevel.DISK_ONLY)
    try:
        return _write(ctx, job, rule, kept, dropped)
    finally:
        kept.unpersist()


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Rows that come in; Delta knows the count without reading them."""
    rows = ctx.read(c.INTERACTIONS, job.source).count()
    return {"split": job.name, "rule": job.rule, "events": rows, "shuffle_bytes": rows * 60}


def _write(ctx: Context, job: Job, rule: Rule, kept: DataFrame, dropped: dict[str, int]) -> Outcome:
    if kept.isEmpty():
        raise DataError(f"table {ctx.lake.where(c.INTERACTIONS)}, version {ctx.read_versions[c.INTERACTIONS]}",
                        found="no event" + (f" after {', '.join(dropped)}" if dropped else ""),
                        expected="at least one",
                        remedy="loosen the filters of the step" if dropped else "run ingest on a data set with events")
    parted = rule.assign(kept, ctx.seed)
    versions = {
        c.USER_INDEX: _extend_index(ctx, c.USER_INDEX, parted if rule.renames_users else kept, c.USER_ID, c.USER_IDX),
        c.ITEM_INDEX: _extend_index(ctx, c.ITEM_INDEX, kept, c.ITEM_ID, c.ITEM_IDX),
    }
    rows = _numbered(ctx, parted, versions).withColumns({c.SPLIT: F.lit(job.name), c.RUN_ID: F.lit(ctx.run_id)})
    rows = rows.select(c.SPLIT, c.RUN_ID, c.USER_IDX, c.ITEM_IDX, c.USER_ID, c.ITEM_ID, c.TS, c.VALUE, c.PART)
    versions[c.SPLITS] = ctx.lake.replace(c.SPLITS, rows, {c.SPLIT: job.name})

    written = ctx.lake.read(c.SPLITS, versions[c.SPLITS]).where(F.col(c.SPLIT) == job.name)
    summary = _facts(written) | {"split": job.name, "rule": job.rule, "arguments": job.arguments, "seed": ctx.seed, "dropped": dropped}
    summary["users_held_out"] = rule.users_held_out or bool({c.VALID_FOLD_IN, c.TEST_FOLD_IN} & set(summary))
    summary |= {"num_users": _highest(ctx, c.USER_INDEX, versions, c.USER_IDX),
                "num_items": _highest(ctx, c.ITEM_INDEX, versions, c.ITEM_IDX),
                "source_version": ctx.read_versions[c.INTERACTIONS]}
    logger.info(log.fields(stage="prepare", **log.plain(summary)))
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
    """Counts (of fold-in parts only where there are any), and a fingerprint of ids, times, values and parts that no order or
    numbering of the rows changes."""
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
