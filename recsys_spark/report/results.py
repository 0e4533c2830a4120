"""Measured values, put in order: which is best, which loses to its baseline, how a number is written. For page and terminal alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PRIMARY = {"ranking": "ndcg", "rating": "rmse"}  # decides the order of a table
BASELINE = {"ranking": "popularity", "rating": "global_bias"}
COLUMNS = {
    "ranking": ("ndcg", "recall", "hit_rate", "mrr", "map", "precision", "coverage", "mean_popularity"),
    "rating": ("rmse", "mae"),
}
TITLES = {
    "ndcg": "NDCG", "recall": "Recall", "hit_rate": "Hit rate", "mrr": "MRR", "map": "MAP", "precision": "Precision",
    "coverage": "Coverage", "mean_popularity": "Mean popularity", "rmse": "RMSE", "mae": "MAE",
}
MEANINGS = {
    "ndcg": "hits in the first k places, the higher the better placed, relative to a perfect list",
    "recall": "share of a user's held-out events found in the first k places",
    "hit_rate": "share of users with at least one hit in the first k places",
    "mrr": "one divided by the place of the first hit",
    "map": "mean of the precision at each hit, relative to a perfect list",
    "precision": "share of the first k places that hit",
    "coverage": "share of the training catalogue that appears in anybody's first k places",
    "mean_popularity": "training events of the items recommended, on average: low means less known items",
    "rmse": "root of the mean squared error of predicted ratings, over all rows; lower is better",
    "mae": "mean absolute error of predicted ratings; lower is better",
}
LOWER_IS_BETTER = ("rmse", "mae")
DESCRIPTIVE = ("coverage", "mean_popularity")  # neither better nor worse by itself
SHARES = ("coverage",)


FIELDS = ("model", "task", "metric", "k", "slice", "value", "low", "high", "n")  # of a Value, named as in the table `metrics`


@dataclass(frozen=True)
class Value:
    """One row of the table `metrics`. None: nothing was there to be measured."""

    run_id: str  # of the scored run
    model: str
    task: str
    metric: str
    k: int
    value: float | None
    low: float | None
    high: float | None
    n: int
    slice: str = "all"

    @property
    def column(self) -> tuple[str, int]:
        return self.metric, self.k


@dataclass(frozen=True)
class Row:
    """One scored run in a table. `loses`: worse than the baseline in the primary metric."""

    run_id: str
    label: str
    is_baseline: bool
    loses: bool
    values: dict[tuple[str, int], Value]


@dataclass(frozen=True)
class Table:
    """Runs of one task, best first."""

    task: str
    rows: tuple[Row, ...]
    ks: tuple[int, ...]
    best: dict[tuple[str, int], str]  # column -> run_id

    @property
    def primary(self) -> tuple[str, int]:
        return PRIMARY[self.task], self.ks[0]

    @property
    def baseline(self) -> Row | None:
        return next((row for row in self.rows if row.is_baseline), None)

    def columns(self, k: int) -> list[tuple[str, int]]:
        """Those at cut-off k (0: without one) that some run has."""
        there = {column for row in self.rows for column in row.values}
        return [(metric, k) for metric in COLUMNS[self.task] if (metric, k) in there]


def table(values: Sequence[Value], task: str) -> Table:
    """Of the values over all users; slices are left out."""
    chosen = [value for value in values if value.task == task and value.slice == "all"]
    names = labels(chosen)
    by_run: dict[str, dict[tuple[str, int], Value]] = {}
    for value in chosen:
        by_run.setdefault(value.run_id, {})[value.column] = value
    ks = tuple(sorted({value.k for value in chosen if value.metric == PRIMARY[task]})) or (0,)
    primary = (PRIMARY[task], ks[0])
    models = {value.run_id: value.model for value in chosen}
    bars = [by_run[run][primary] for run in by_run if models[run] == BASELINE[task] and primary in by_run[run]]
    rows = [
        Row(run, names[run], models[run] == BASELINE[task],
            any(better(bar, columns.get(primary)) for bar in bars if bar.run_id != run), columns)
        for run, columns in by_run.items()
    ]
    rows.sort(key=lambda row: (_strength(row.values.get(primary)), row.label), reverse=True)
    best = {}
    for column in {column for row in rows for column in row.values if column[0] not in DESCRIPTIVE}:
        there = [row for row in rows if column in row.values and row.values[column].value is not None]
        if there:
            best[column] = max(there, key=lambda row: _strength(row.values[column])).run_id
    return Table(task, tuple(rows), ks, best)


def labels(values: Iterable[Value]) -> dict[str, str]:
    """A name for each run: its model, with the run beside it where two runs share a model."""
    models = {value.run_id: value.model for value in values}
    shared = [model for model in set(models.values()) if list(models.values()).count(model) > 1]
    return {run: f"{model} ({run})" if model in shared else model for run, model in models.items()}


def better(one: Value, other: Value | None) -> bool:
    return _strength(one) > _strength(other)


def _strength(value: Value | None) -> float:
    if value is None or value.value is None:
        return float("-inf")
    return -value.value if value.metric in LOWER_IS_BETTER else value.value


def title(column: tuple[str, int]) -> str:
    metric, k = column
    return TITLES.get(metric, metric) + (f"@{k}" if k else "")


def number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    if metric in SHARES:
        return f"{100 * value:.1f} %"
    if metric == "mean_popularity":
        return f"{value:,.0f}"
    return f"{value:.4f}"


def interval(value: Value) -> str:
    """`0.0451–0.0541`; a unit stands once."""
    if value.low is None:
        return ""
    return f"{number(value.metric, value.low).removesuffix(' %')}–{number(value.metric, value.high)}"


def from_summary(summary: dict[str, Any]) -> list[Value]:
    """The values over all users that an evaluate step leaves in its run's summary."""
    return [Value(run_id=row["of_run_id"], **{name: row[name] for name in FIELDS if name in row})
            for row in summary.get("results", [])]
