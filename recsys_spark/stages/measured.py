"""A completed evaluate run as the pages show it, and the runs behind it: shared by `report` and `compare`."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError
from recsys_spark.report import results
from recsys_spark.report.content import Evaluation
from recsys_spark.report.results import Value

RULES = {"leave_last_out": "leave last out", "global_time": "split by time", "random": "random rows"}


def evaluation(run: Run, values: Iterable[Value], recorded: Iterable[Run]) -> Evaluation:
    """The run's values, with what its summary says of split, users and odd input.

    recorded: all runs; among them are the full rankings that stand beside sampled ones.
    """
    values = sorted(values, key=lambda value: (value.run_id, value.task, value.slice, value.k, value.metric))
    facts, notes = run.summary, []
    if any(value.task == "ranking" for value in values):
        notes.append("Every list is drawn from the whole catalogue without the items that the user had before; no sampled candidates.")
    if facts.get("rows") == facts["users"] and any(value.task in ("ranking", results.SAMPLED) for value in values):
        notes.append("Every user has one event to find: recall equals hit rate, and MAP equals MRR.")
    if facts.get("rows_with_unseen_item"):
        notes.append(f"{facts['rows_with_unseen_item']:,} of {facts['rows']:,} events are of items without a training event.")
    rule = str(facts.get("data", {}).get("rule", facts["split"]))
    sampled = {value.run_id for value in values if value.task == results.SAMPLED}
    return Evaluation(
        name=run.step, split=facts["split"], rule=RULES.get(rule, rule), part=facts["part"], users=facts["users"], values=tuple(values),
        activity_bounds=tuple(facts.get("activity_bounds", ())), found=facts.get("found", {}), notes=tuple(notes),
        full=results.full_rankings(recorded, sampled) if sampled else {},
    )


def values(metrics: DataFrame, run: Run) -> list[Value]:
    """Of the table `metrics`, those that the evaluate run measured. Raises DataError when there is none."""
    rows = metrics.where(F.col(c.RUN_ID) == run.run_id).collect()
    if not rows:
        raise DataError(f"run {run.run_id} in table {c.METRICS}", found="no rows", expected="measured values",
                        remedy=f"rerun step {run.step}")
    return [Value(run_id=row["of_run_id"], **{name: row[name] for name in results.FIELDS}) for row in rows]


def behind(recorded: Iterable[Run], last: Iterable[Run]) -> list[Run]:
    """The runs `last` and every recorded one that they build on, in the order in which they ran."""
    known = {run.run_id: run for run in recorded} | {run.run_id: run for run in last}
    found: dict[str, Run] = {}
    queue = [run.run_id for run in last]
    while queue:
        run = known.get(queue.pop())
        if run is not None and run.run_id not in found:
            found[run.run_id] = run
            queue.extend(run.upstream.values())
    return sorted(found.values(), key=lambda run: (run.started_at, run.run_id))


def dataset(runs: Iterable[Run]) -> str:
    """Name of the data set that the runs go back to; empty where no ingest run says so."""
    return next((str(run.config["dataset"]) for run in runs if run.stage == "ingest" and run.config.get("dataset")), "")


def size(evaluated: Run, runs: Iterable[Run]) -> str:
    """`1,000,209 events of 6,040 users and 3,706 items. `, and a warning where they were generated. runs: those behind it."""
    data = evaluated.summary.get("data", {})
    told = f"{data['rows']:,} events of {data['users']:,} users and {data['items']:,} items. " if "rows" in data else ""
    if any(run.stage == "ingest" and run.summary.get("generated") for run in runs):
        told = f"Generated data, not the real set: {told}"
    return told
