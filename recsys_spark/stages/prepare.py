"""interactions -> `splits`, `user_index`, `item_index`: filtered, numbered, and every event in its
part.

Several prepare steps share the index tables, which only grow. Rules, their arguments and the fixed
order of ties: `etl.split`; what each is for: docs/protocols.md. The arguments of a rule stand
beside it: `{stage: prepare, rule: strong, test_users: 750}`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import config, log
from recsys_spark.core.errors import DataError, TableError, nearest
from recsys_spark.etl import filters, index, repeats
from recsys_spark.etl.filters import Filters
from recsys_spark.etl.split import RULES, Rule
from recsys_spark.etl.split.rule import EVENT
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, StepOf

logger = log.get(__name__)
_ALWAYS = (c.TRAIN, c.VALID, c.TEST)  # parts that a summary counts, also where they are empty
ATTEMPTS = 5  # to number new ids, each lost to another job that was quicker


class Job(context.Job):
    stage: Literal["prepare"] = "prepare"
    source: Annotated[str, StepOf("ingest")]
    # Name in the table `splits`; empty: that of the rule
    split: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    rule: str = "leave_last_out"
    # Of the rule; its defaults are written out
    arguments: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    filters: Filters = Filters()

    @model_validator(mode="before")
    @classmethod
    def _arguments_beside_the_rule(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A rule's arguments may stand beside its name: they go into `arguments`."""
        rule_fields = {name for rule in RULES.values() for name in rule.model_fields}
        own: dict[str, Any] = {}
        arguments = dict(values.get("arguments", {}))
        for key, value in values.items():
            # A misspelt key is the job's where it is near one of its names, else the rule's: that
            # one then says which keys there are.
            of_job = key in cls.model_fields
            if of_job or (key not in rule_fields and nearest(key, cls.model_fields)):
                own[key] = value
            else:
                arguments[key] = value
        return own | {"arguments": arguments}

    @field_validator("rule")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in RULES:
            raise config.KeyProblem(
                "split",
                "",
                "rule",
                found=repr(value),
                expected=f"one of {', '.join(RULES)}{nearest(value, RULES)}",
            )
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
    """Raises DataError when the filters leave no event, or the rule cannot be kept; nothing is
    written then.
    """
    rule = job.assigns
    events = ctx.read(c.INTERACTIONS, job.source).select(*EVENT, *rule.needs)
    events = repeats.apply(rule.cut(events), repeats.said(ctx.inputs[job.source].config))
    kept, dropped = filters.apply(events, job.filters, rule.until)
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
        raise DataError(
            f"table {ctx.lake.where(c.INTERACTIONS)}, version {ctx.read_versions[c.INTERACTIONS]}",
            found="no event" + (f" after {', '.join(dropped)}" if dropped else ""),
            expected="at least one",
            remedy="loosen the filters of the step"
            if dropped
            else "run ingest on a data set with events",
        )
    parted = rule.assign(kept, ctx.seed)
    kind = rule.query_kind
    of_queries = c.USER_INDEX if kind == c.USER else c.QUERY_INDEX
    version, num_users = (
        _extend_index(ctx, c.USER_INDEX, kept, c.USER_ID, c.USER_IDX)
        if kind == c.USER
        else _extend_index(ctx, c.QUERY_INDEX, parted, c.QUERY_ID, c.QUERY_IDX, kind)
    )
    versions = {of_queries: version}
    items = kept.select(c.ITEM_ID)
    if c.IMPRESSIONS in ctx.inputs[job.source].output_versions:
        # What was shown can be ranked, also where nobody took it
        shown = ctx.read(c.IMPRESSIONS, job.source).where(F.col(c.QUERY_KIND) == kind)
        items = items.union(shown.select(c.ITEM_ID))
    versions[c.ITEM_INDEX], num_items = _extend_index(
        ctx, c.ITEM_INDEX, items, c.ITEM_ID, c.ITEM_IDX
    )
    numbers = _query_numbers(ctx, kind, version)
    rows = _numbered(ctx, parted, numbers, versions).withColumns(
        {c.SPLIT: F.lit(job.name), c.RUN_ID: F.lit(ctx.run_id), c.QUERY_KIND: F.lit(kind)}
    )
    versions[c.SPLITS] = ctx.lake.replace(c.SPLITS, rows, {c.SPLIT: job.name})

    written = ctx.lake.read(c.SPLITS, versions[c.SPLITS]).where(F.col(c.SPLIT) == job.name)
    repeated = _repeats(written) if repeats.may_be(ctx.inputs[job.source].config) else {}
    split = {"split": job.name, "rule": job.rule, "arguments": job.arguments, "seed": ctx.seed}
    summary = _facts(written) | repeated | split | {"dropped": dropped}
    summary["held_out"] = rule.held_out or bool({c.VALID_FOLD_IN, c.TEST_FOLD_IN} & set(summary))
    summary |= {
        "query_kind": kind,
        "num_users": num_users if kind == c.USER else index.last(numbers, c.QUERY_IDX),
        "num_items": num_items,
        "source_version": ctx.read_versions[c.INTERACTIONS],
    }
    logger.info(log.fields(stage="prepare", **log.plain(summary)))
    # What later steps read through this one: its source's tables, at the versions that it saw.
    source = ctx.inputs[job.source].output_versions
    users = (c.USERS,) if _has_users(kept, kind) else ()
    tables = (c.INTERACTIONS, c.IMPRESSIONS, c.ITEMS, *users)
    return Outcome(
        tables={name: source[name] for name in tables if name in source} | versions,
        summary=summary,
    )


def _has_users(events: DataFrame, kind: str) -> bool:
    """Whether the table of users says something of the queries: not of sessions, and of playlists
    only where user_id names the playlist.
    """
    other = ~F.col(c.USER_ID).eqNullSafe(F.col(c.SESSION_ID))
    return kind == c.USER or (kind == c.PLAYLIST and events.where(other).isEmpty())


def _extend_index(
    ctx: Context, table: str, events: DataFrame, id_column: str, idx_column: str, kind: str = ""
) -> tuple[int, int]:
    """Append the ids that have no number yet. Returns (the version of the table that has them all,
    its highest number). kind: of queries that are no users; the kinds share one row of numbers.

    Numbers are given as a commit that names the first of them: when another job has given that
    number meanwhile, Delta skips ours, and they are drawn again from the table as it is then.
    """
    ctx.lake.create(table)
    for _ in range(ATTEMPTS):
        version = ctx.lake.version(table)
        known = ctx.lake.read(table, version)
        taken = index.last(known, idx_column)
        if kind:
            known = known.where(F.col(c.QUERY_KIND) == kind)
        lacking = index.lacking(known, events, id_column).persist()
        try:
            new, count = index.number(lacking, id_column, idx_column, taken)
            if not count:
                return version, taken
            new = new.withColumn(c.QUERY_KIND, F.lit(kind)) if kind else new
            appended = ctx.lake.append(table, new, txn=(f"numbers of {table}", taken + 1))
        finally:
            lacking.unpersist()
        if appended is not None:
            return appended, taken + count
    raise TableError(
        f"table {ctx.lake.where(table)}",
        found=f"{ATTEMPTS} times another job that numbered new ids first",
        expected="a moment in which no other prepare step writes to it",
        remedy="run the same command again when other pipelines on this lake have ended",
    )


def _query_numbers(ctx: Context, kind: str, version: int) -> DataFrame:
    """(query_id, query_idx) of the split's queries, whatever they are."""
    if kind == c.USER:
        return ctx.lake.read(c.USER_INDEX, version).toDF(c.QUERY_ID, c.QUERY_IDX)
    queries = ctx.lake.read(c.QUERY_INDEX, version).where(F.col(c.QUERY_KIND) == kind)
    return queries.select(c.QUERY_ID, c.QUERY_IDX)


def _numbered(
    ctx: Context, events: DataFrame, numbers: DataFrame, versions: dict[str, int]
) -> DataFrame:
    # No broadcast hint: Spark broadcasts an index that is small and merges by sorting when it is
    # not.
    items = ctx.lake.read(c.ITEM_INDEX, versions[c.ITEM_INDEX])
    return events.join(numbers, on=c.QUERY_ID, how="inner").join(items, on=c.ITEM_ID, how="inner")


def _facts(rows: DataFrame) -> dict[str, Any]:
    """Counts (of fold-in parts only where there are any), and a fingerprint of ids, times, values
    and parts that no order or numbering of the rows changes.
    """
    row_hash = F.xxhash64(c.QUERY_ID, c.ITEM_ID, c.TS, c.VALUE, c.PART).cast("decimal(20,0)")
    of_part = {part: F.count_if(F.col(c.PART) == part).alias(part) for part in c.PARTS}
    # One pass for all but the users: items are counted by grouping the rows by them
    events = rows.agg(
        *of_part.values(),
        F.count_distinct(c.ITEM_IDX).alias("items"),
        F.sum(row_hash).alias("hash"),
        F.min(c.VALUE).alias("low"),
        F.max(c.VALUE).alias("high"),
    ).collect()[0]
    held = F.max((F.col(c.PART) != c.TRAIN).cast("int")).alias("held")
    users = rows.groupBy(c.QUERY_IDX).agg(held)
    num_users, all_train = users.agg(F.count("*"), F.sum(1 - F.col("held"))).collect()[0]
    counts = {part: events[part] for part in c.PARTS}
    return {
        **{part: count for part, count in counts.items() if count or part in _ALWAYS},
        "rows": sum(counts.values()),
        "users": int(num_users),
        "users_all_train": int(all_train),
        "items": int(events["items"]),
        "values_differ": events["low"] != events["high"],
        "fingerprint": f"{int(events['hash'] or 0) % 2**64:016x}",
    }


def _repeats(rows: DataFrame) -> dict[str, int]:
    """{part: events of it whose item the user met before}, which no list can hit: the scorer leaves
    out what a user has met. Says so.
    """
    of_pair = rows.groupBy(c.QUERY_IDX, c.ITEM_IDX).agg(
        *[F.count_if(F.col(c.PART) == part).alias(part) for part in c.BEFORE],
        *[
            F.max(F.col(c.PART).isin(*before)).alias(f"before_{part}")
            for part, before in c.BEFORE.items()
        ],
    )
    counts = of_pair.agg(
        *[F.sum(F.when(F.col(f"before_{part}"), F.col(part))).alias(part) for part in c.BEFORE]
    ).collect()[0]
    repeated = {f"{part}_repeated": int(counts[part]) for part in c.BEFORE if counts[part]}
    if repeated:
        logger.warning(
            log.fields(
                event="repeated",
                **repeated,
                meaning="events of items that the user met before: lists leave these out and "
                "cannot hit them; `repeats: latest` of the ingest step makes one event of a pair",
            )
        )
    return repeated
