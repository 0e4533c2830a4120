"""Ordering and formatting of measured values: which run is best, which is worse than the baseline,
how a number is written. Used by both the page and the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_spark.core.contracts import Run
from recsys_spark.metrics import glossary
from recsys_spark.metrics.glossary import JUDGED, LOWER_IS_BETTER, METRICS
from recsys_spark.metrics.slices import ALL as ALL
from recsys_spark.metrics.tasks import SAMPLED, TASKS

PRIMARY_K = 10  # main cut-off where it was measured; else the smallest cut-off
# Fields of a Value that are named as the columns of the table `metrics`
FIELDS = (
    "model",
    "task",
    "metric",
    "k",
    "slice",
    "value",
    "low",
    "high",
    "n",
)

Metric = tuple[str, int]  # name and cut-off; 0: without one


@dataclass(frozen=True)
class Value:
    """One row of the table `metrics`. A value of None: there was nothing to measure."""

    run_id: str  # of the scored run
    model: str
    task: str
    metric: str
    k: int
    value: float | None
    low: float | None
    high: float | None
    n: int
    slice: str = ALL

    @property
    def column(self) -> Metric:
        return self.metric, self.k


@dataclass(frozen=True)
class Row:
    """One scored run in a table. `loses`: worse than the baseline in the primary metric."""

    run_id: str
    label: str
    is_baseline: bool
    loses: bool
    values: dict[Metric, Value]


@dataclass(frozen=True)
class Table:
    """Runs of one task, best first."""

    task: str
    primary: Metric
    rows: tuple[Row, ...]
    ks: tuple[int, ...]  # that of the primary metric first
    best: dict[Metric, str]  # column -> run_id

    @property
    def baseline(self) -> Row | None:
        return next((row for row in self.rows if row.is_baseline), None)

    def columns(self, k: int) -> list[Metric]:
        """Metrics at cut-off k that at least one run has; at the primary cut-off also the metrics
        without a cut-off.

        Capped recall is left out where it equals recall, that is, where no user has more than k
        held-out events.
        """
        shown = (k, 0) if k == self.primary[1] else (k,)
        present = {column for row in self.rows for column in row.values if column[1] in shown}
        if all(
            _same(row.values.get(("recall_capped", k)), row.values.get(("recall", k)))
            for row in self.rows
        ):
            present.discard(("recall_capped", k))
        order = list(METRICS)  # a metric without words comes last
        return sorted(
            present,
            key=lambda column: (
                order.index(column[0]) if column[0] in METRICS else len(order),
                column[0],
            ),
        )


def written(column: Metric) -> str:
    """A metric's name in the file of replicas, such as `ndcg@10`."""
    return f"{column[0]}@{column[1]}" if column[1] else column[0]


def table(values: Sequence[Value], task: str, primary: Metric | None = None) -> Table:
    """The table of the values over all users; slices are left out. primary: the metric that
    decides the order, instead of the task's own.
    """
    chosen = [value for value in values if value.task == task and value.slice == ALL]
    names = labels(chosen)
    by_run: dict[str, dict[Metric, Value]] = {}
    for value in chosen:
        by_run.setdefault(value.run_id, {})[value.column] = value
    primary = primary or main_metric(chosen, task)
    models = {value.run_id: value.model for value in chosen}
    baseline = TASKS[task].baseline
    bars = [
        by_run[run][primary] for run in by_run if models[run] == baseline and primary in by_run[run]
    ]
    rows = [
        Row(
            run,
            names[run],
            models[run] == baseline,
            any(better(bar, columns.get(primary)) for bar in bars if bar.run_id != run),
            columns,
        )
        for run, columns in by_run.items()
    ]
    rows.sort(key=lambda row: (strength(row.values.get(primary)), row.label), reverse=True)
    best = {}
    for column in {column for row in rows for column in row.values if column[0] in JUDGED}:
        measured = [
            row for row in rows if column in row.values and row.values[column].value is not None
        ]
        if measured:
            best[column] = max(measured, key=lambda row: strength(row.values[column])).run_id
    ks = sorted(
        {primary[1], *(value.k for value in chosen if value.k)}, key=lambda k: (k != primary[1], k)
    )
    return Table(task, primary, tuple(rows), tuple(ks), best)


def _same(value: Value | None, other: Value | None) -> bool:
    return (
        value is not None
        and other is not None
        and (value.value, value.low, value.high) == (other.value, other.low, other.high)
    )


def main_metric(values: Sequence[Value], task: str) -> Metric:
    """The task's own metric, else the first that was measured; at cut-off 10 where it was measured
    there, else at its smallest cut-off.
    """
    metrics = {value.metric for value in values if value.task == task}
    main = TASKS[task].main
    metric = next((name for name in (main, *METRICS) if name in metrics), main)
    ks = sorted({value.k for value in values if value.task == task and value.metric == metric}) or [
        0
    ]
    return metric, PRIMARY_K if PRIMARY_K in ks else ks[0]


def tasks(values: Iterable[Value]) -> list[str]:
    """The tasks of these values, in the order of a page."""
    return sorted({value.task for value in values}, key=list(TASKS).index)


def labels(values: Iterable[Value]) -> dict[str, str]:
    """{run id: name}: the model, followed by the run id where two runs share a model."""
    models = {value.run_id: value.model for value in values}
    shared = [model for model in set(models.values()) if list(models.values()).count(model) > 1]
    return {run: f"{model} ({run})" if model in shared else model for run, model in models.items()}


def better(value: Value, other: Value | None) -> bool:
    return strength(value) > strength(other)


def strength(value: Value | None) -> float:
    if value is None or value.value is None:
        return float("-inf")
    return -value.value if value.metric in LOWER_IS_BETTER else value.value


def title(column: Metric, task: str = "") -> str:
    """`NDCG@10`; `NDCG@10, sampled` for the task that samples its candidates."""
    metric, k = column
    sampled = ", sampled" if task == SAMPLED.name else ""
    return glossary.title(metric) + (f"@{k}" if k else "") + sampled


def number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    unit = glossary.unit(metric)
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "count":
        return f"{value:,.0f}"
    return f"{value:.4f}"


def interval(value: Value) -> str:
    """`0.0451–0.0541`; the unit is written once."""
    if value.low is None:
        return ""
    return (
        f"{number(value.metric, value.low).removesuffix(' %')}–{number(value.metric, value.high)}"
    )


def from_summary(summary: dict[str, Any]) -> list[Value]:
    """The values over all users that an evaluate step leaves in its run's summary."""
    return [
        Value(run_id=row["of_run_id"], **{name: row[name] for name in FIELDS if name in row})
        for row in summary.get("results", [])
    ]


def full_rankings(runs: Iterable[Run], run_ids: Iterable[str]) -> dict[str, dict[Metric, Value]]:
    """{run that ranked sampled candidates: metrics of the full ranking of the same trained model,
    on the same part of the same split}.

    runs: all recorded runs; run_ids: ids of scored runs. A run without a full ranking is left out;
    of several full rankings the last one counts.
    """
    by_id = {run.run_id: run for run in runs}
    full: dict[tuple[str, ...], dict[Metric, Value]] = {}
    for evaluated in sorted(by_id.values(), key=lambda run: run.ended_at):
        if evaluated.stage == "evaluate":
            for value in from_summary(evaluated.summary):
                if value.task == "ranking" and value.run_id in by_id:
                    full.setdefault(_ranked(by_id[value.run_id]), {})[value.column] = value
    return {
        run_id: full[_ranked(by_id[run_id])]
        for run_id in run_ids
        if run_id in by_id and _ranked(by_id[run_id]) in full
    }


def _ranked(scored: Run) -> tuple[str, ...]:
    """Identifies the ranking of a score step: the runs of its model and its split, and the part."""
    named = (str(scored.config.get(field)) for field in ("model", "source"))
    return (*(scored.upstream.get(step, "") for step in named), str(scored.config.get("part")))
