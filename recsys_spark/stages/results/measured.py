"""A completed evaluate run in the form that the pages show, and the runs upstream of it: shared by
`report` and `compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError
from recsys_spark.metrics import paired
from recsys_spark.metrics.challenge import playlists
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.metrics.tasks import PLAYLISTS, RANKING, SAMPLED
from recsys_spark.report import results, said
from recsys_spark.report.content import Evaluation, Paired
from recsys_spark.report.kinds import worded
from recsys_spark.report.results import Metric, Table, Value

RULES = {
    "leave_last_out": "leave last out",
    "global_time": "split by time",
    "random": "random rows",
}


def evaluation(run: Run, values: Iterable[Value], recorded: Iterable[Run]) -> Evaluation:
    """The run's values, with the facts of its summary on split, users and irregular input.

    recorded: all runs; they include the full rankings to show beside sampled ones.
    """
    values = sorted(
        values, key=lambda value: (value.run_id, value.task, value.slice, value.k, value.metric)
    )
    facts, notes = run.summary, []
    kind = str(facts.get("query_kind", c.USER))
    if any(value.task == RANKING.name for value in values):
        notes.append(
            "Every list is drawn from the whole catalogue without the items that the user "
            "had before; no sampled candidates."
        )
    if facts.get("rows") == facts["users"] and any(
        value.task in (RANKING.name, SAMPLED.name) for value in values
    ):
        notes.append(
            "Every user has one event to find: recall equals hit rate, and MAP equals MRR."
        )
    if facts.get("seen_kept"):
        notes.append(f"Those of {', '.join(facts['seen_kept'])} may have what was met before.")
    if facts.get("repeated"):
        notes.append(
            f"{facts['repeated']:,} of {facts['rows']:,} events are of items that the user had "
            "before: a list that leaves these out cannot hit them."
        )
    if facts.get("rows_with_unseen_item"):
        notes.append(
            f"{facts['rows_with_unseen_item']:,} of {facts['rows']:,} events are of items "
            "without a training event."
        )
    if points := _borda(values):
        notes.append(f"Borda count of the three official metrics: {points}.")
    rule = str(facts.get("data", {}).get("rule", facts["split"]))
    sampled = {value.run_id for value in values if value.task == SAMPLED.name}
    tables = {task: results.table(values, task) for task in results.tasks(values)}
    kept = {task: _kept(run, task) for task in tables}
    return Evaluation(
        name=run.step,
        split=facts["split"],
        rule=RULES.get(rule, rule),
        part=facts["part"],
        users=facts["users"],
        values=tuple(values),
        activity_bounds=tuple(facts.get("activity_bounds", ())),
        found=facts.get("found", {}),
        notes=tuple(worded(note, kind) for note in notes),
        query_kind=kind,
        full=results.full_rankings(recorded, sampled) if sampled else {},
        leads={task: leads(table, kept[task]) for task, table in tables.items()},
        level={task: _level(table, kept[task]) for task, table in tables.items()},
        replicas=int(facts.get("replicas", 0)),
    )


def _borda(values: Iterable[Value]) -> str:
    """Points of each model, most first; empty where it is not measured as in that challenge."""
    rows: dict[str, dict[str, float]] = {}
    labels: dict[str, str] = {}
    for value in values:
        if value.task == PLAYLISTS.name and value.slice == results.ALL and value.value is not None:
            rows.setdefault(value.run_id, {})[value.metric] = value.value
            labels[value.run_id] = value.model
    if not rows or any(set(playlists.OFFICIAL) - set(row) for row in rows.values()):
        return ""
    points = sorted(playlists.borda(rows).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{labels[run_id]} {count:g}" for run_id, count in points)


def leads(table: Table, kept: Mapping[str, Replicates]) -> tuple[Paired, ...]:
    """The first run of a table minus each other one, in its main metric over all users; `run_id` is
    that of the other one. kept: {run: its replicas}.
    """
    if not table.rows:
        return ()
    best, *others = (row.run_id for row in table.rows)
    return _apart(table.primary, best, others, kept)


def level(run: Run, values: Sequence[Value], task: str) -> dict[Metric, frozenset[str]]:
    """{metric that judges: its best run, and those that cannot be told apart from it}, over all
    users, by paired differences; p-values are corrected for the number of runs, metric by metric.
    """
    return _level(results.table(values, task), _kept(run, task))


def _level(table: Table, kept: Mapping[str, Replicates]) -> dict[Metric, frozenset[str]]:
    runs = [row.run_id for row in table.rows]
    return {
        column: frozenset(
            [
                best,
                *(
                    difference.run_id
                    for difference in _apart(
                        column, best, [run_id for run_id in runs if run_id != best], kept
                    )
                    if not said.is_sure(difference)
                ),
            ]
        )
        for column, best in table.best.items()
    }


def _kept(run: Run, task: str) -> dict[str, Replicates]:
    """{run: its replicas over all users}, of all metrics; empty where they were not kept."""
    path = Path(run.run_dir) / paired.FILE
    if not path.is_file():
        return {}
    return {
        key.of_run_id: drawn
        for key, drawn in paired.read(path, task=task, slice=results.ALL).items()
    }


def _apart(
    column: Metric, best: str, others: Sequence[str], kept: Mapping[str, Replicates]
) -> tuple[Paired, ...]:
    """`best` minus each of the others for which both are kept."""
    metric = results.written(column)
    differences = {
        other: paired.difference(kept[best], kept[other])[metric]
        for other in others
        if all(run in kept and metric in kept[run].names for run in (best, other))
    }
    corrected = paired.holm([difference.p for difference in differences.values()])
    return tuple(
        Paired.of(other, column, results.ALL, difference, p)
        for (other, difference), p in zip(differences.items(), corrected, strict=True)
    )


def values(rows: Sequence[Mapping[str, Any]], run: Run) -> list[Value]:
    """The values that the evaluate run measured, of its rows in the table `metrics`. Raises
    DataError when there is none.
    """
    if not rows:
        raise DataError(
            f"run {run.run_id} in table {c.METRICS}",
            found="no rows",
            expected="measured values",
            remedy=f"rerun step {run.step}",
        )
    return [
        Value(run_id=row["of_run_id"], **{name: row[name] for name in results.FIELDS})
        for row in rows
    ]


def behind(recorded: Iterable[Run], last: Iterable[Run]) -> list[Run]:
    """The runs `last` and all recorded runs upstream of them, in the order in which they ran."""
    by_id = {run.run_id: run for run in recorded} | {run.run_id: run for run in last}
    visited: dict[str, Run] = {}
    queue = [run.run_id for run in last]
    while queue:
        run = by_id.get(queue.pop())
        if run is not None and run.run_id not in visited:
            visited[run.run_id] = run
            queue.extend(run.upstream.values())
    return sorted(visited.values(), key=lambda run: (run.started_at, run.run_id))


def dataset(runs: Iterable[Run]) -> str:
    """Name of the data set behind the runs; empty where no ingest run names one."""
    return next(
        (
            str(run.config["dataset"])
            for run in runs
            if run.stage == "ingest" and run.config.get("dataset")
        ),
        "",
    )


def size(evaluated: Run, runs: Iterable[Run]) -> str:
    """`1,000,209 events of 6,040 users and 3,706 items. `, preceded by a warning where the data
    were generated. runs: the runs upstream of `evaluated`.
    """
    data = evaluated.summary.get("data", {})
    text = ""
    if "rows" in data:
        text = f"{data['rows']:,} events of {data['users']:,} users and {data['items']:,} items. "
    text = worded(text, str(evaluated.summary.get("query_kind", c.USER)))
    if any(run.stage == "ingest" and run.summary.get("generated") for run in runs):
        text = f"Generated data, not the real set: {text}"
    return text
