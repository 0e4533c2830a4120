"""Measured values, put in order: which is best, which loses to its baseline, how a number is written. For page and terminal alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_spark.core.contracts import Run
from recsys_spark.metrics.names import LOWER_IS_BETTER as LOWER_IS_BETTER
from recsys_spark.metrics.names import NEW_ITEMS as NEW_ITEMS
from recsys_spark.metrics.names import SAMPLED as SAMPLED
from recsys_spark.metrics.slices import ALL as ALL

TASKS = {  # in the order of a page
    "ranking": "Ranking", NEW_ITEMS: "Ranking of new items", SAMPLED: "Sampled ranking", "rating": "Ratings", "click": "Clicks"}
SAYS = {"ranking": "ranks best", NEW_ITEMS: "ranks new items best", SAMPLED: "ranks the candidates best",
        "rating": "predicts ratings best", "click": "predicts clicks best"}
PRIMARY = {"ranking": "ndcg", NEW_ITEMS: "ndcg", SAMPLED: "ndcg", "rating": "rmse", "click": "rce"}  # decides the order of a table
PRIMARY_K = 10  # where it was measured; else the smallest
BASELINE = {"ranking": "popularity", NEW_ITEMS: "popularity", SAMPLED: "popularity", "rating": "global_bias"}
ORDER = (  # of columns; a metric that is not here comes last
    "ndcg", "recall", "recall_capped", "hit_rate", "mrr", "map", "precision", "serendipity",
    "rce", "log_loss", "auc", "pr_auc", "auc_per_user", "auc_per_impression", "rmse", "mae",
    "coverage", "novelty", "diversity", "mean_popularity", "gini", "cold_share", "calibration",
)
TITLES = {
    "ndcg": "NDCG", "recall": "Recall", "recall_capped": "Capped recall", "hit_rate": "Hit rate", "mrr": "MRR", "map": "MAP",
    "precision": "Precision", "auc": "AUC", "serendipity": "Serendipity", "coverage": "Coverage", "novelty": "Novelty",
    "diversity": "Diversity", "mean_popularity": "Mean popularity", "gini": "Gini", "cold_share": "Cold items", "rmse": "RMSE",
    "mae": "MAE", "log_loss": "Log loss", "rce": "RCE", "pr_auc": "PR-AUC", "auc_per_user": "AUC per user",
    "auc_per_impression": "AUC per user, by impressions", "calibration": "Calibration",
}
MEANINGS = {
    "ndcg": "hits in the first k places, the higher the better placed, relative to a perfect list",
    "recall": "share of a user's held-out events found in the first k places",
    "recall_capped": "hits in the first k places, relative to the most that k places can hold",
    "hit_rate": "share of users with at least one hit in the first k places",
    "mrr": "one divided by the place of the first hit",
    "map": "mean of the precision at each hit, relative to a perfect list",
    "precision": "share of the first k places that hit",
    "auc": "share of pairs, one wanted and one not, in the right order; 0.5 is chance",
    "serendipity": "share of the first k places with a hit that is not among the k most popular items new to the user",
    "coverage": "share of the training catalogue that appears in anybody's first k places",
    "mean_popularity": "training events of the items recommended, on average: low means less known items",
    "novelty": "bits of surprise of a recommended item: -log2 of its share of the training events, on average",
    "diversity": "how different the items of a list are from each other, by their fields: 1 minus the mean cosine",
    "gini": "how unevenly items are recommended: 0 all alike, 1 everybody gets the same",
    "cold_share": "share of the recommended items that have no training event",
    "rmse": "root of the mean squared error of predicted ratings, over all rows; lower is better",
    "mae": "mean absolute error of predicted ratings; lower is better",
    "log_loss": "mean of minus the logarithm of the probability given to what happened; lower is better",
    "rce": "per cent by which the log loss is below that of the rows' own click rate",
    "pr_auc": "mean precision over the thresholds, weighted by recall gained; a constant earns the click rate",
    "auc_per_user": "AUC within each user's rows, averaged over users",
    "auc_per_impression": "AUC within each user's rows, averaged over users weighted by their rows",
    "calibration": "mean prediction divided by the click rate: 1 is right",
}
HIGHER_IS_BETTER = ("ndcg", "recall", "recall_capped", "hit_rate", "mrr", "map", "precision", "serendipity", "rce", "auc", "pr_auc",
                    "auc_per_user", "auc_per_impression")
JUDGED = HIGHER_IS_BETTER + LOWER_IS_BETTER  # any other metric describes: neither better nor worse by itself
SHARES = ("coverage", "cold_share")

FIELDS = ("model", "task", "metric", "k", "slice", "value", "low", "high", "n")  # of a Value, named as in the table `metrics`

Metric = tuple[str, int]  # name and cut-off; 0: without one


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
        """Those at cut-off k that some run has; beside the primary metric also those without a cut-off.

        Capped recall is left out where it is recall, that is, where no user has more than k events to find.
        """
        shown = (k, 0) if k == self.primary[1] else (k,)
        there = {column for row in self.rows for column in row.values if column[1] in shown}
        if all(_same(row.values.get(("recall_capped", k)), row.values.get(("recall", k))) for row in self.rows):
            there.discard(("recall_capped", k))
        return sorted(there, key=lambda column: (ORDER.index(column[0]) if column[0] in ORDER else len(ORDER), column[0]))


def table(values: Sequence[Value], task: str, primary: Metric | None = None) -> Table:
    """Of the values over all users; slices are left out. primary: what decides the order, instead of the task's own metric."""
    chosen = [value for value in values if value.task == task and value.slice == ALL]
    names = labels(chosen)
    by_run: dict[str, dict[Metric, Value]] = {}
    for value in chosen:
        by_run.setdefault(value.run_id, {})[value.column] = value
    primary = primary or main_metric(chosen, task)
    models = {value.run_id: value.model for value in chosen}
    baseline = BASELINE.get(task)
    bars = [by_run[run][primary] for run in by_run if models[run] == baseline and primary in by_run[run]]
    rows = [
        Row(run, names[run], models[run] == baseline,
            any(better(bar, columns.get(primary)) for bar in bars if bar.run_id != run), columns)
        for run, columns in by_run.items()
    ]
    rows.sort(key=lambda row: (strength(row.values.get(primary)), row.label), reverse=True)
    best = {}
    for column in {column for row in rows for column in row.values if column[0] in JUDGED}:
        there = [row for row in rows if column in row.values and row.values[column].value is not None]
        if there:
            best[column] = max(there, key=lambda row: strength(row.values[column])).run_id
    ks = sorted({primary[1], *(value.k for value in chosen if value.k)}, key=lambda k: (k != primary[1], k))
    return Table(task, primary, tuple(rows), tuple(ks), best)


def _same(one: Value | None, other: Value | None) -> bool:
    return one is not None and other is not None and (one.value, one.low, one.high) == (other.value, other.low, other.high)


def main_metric(values: Sequence[Value], task: str) -> Metric:
    """The task's own metric, else the first that was measured; at 10 where it was measured there, else at its smallest cut-off."""
    there = {value.metric for value in values if value.task == task}
    metric = next((name for name in (PRIMARY[task], *ORDER) if name in there), PRIMARY[task])
    ks = sorted({value.k for value in values if value.task == task and value.metric == metric}) or [0]
    return metric, PRIMARY_K if PRIMARY_K in ks else ks[0]


def tasks(values: Iterable[Value]) -> list[str]:
    """In the order of a page."""
    return sorted({value.task for value in values}, key=list(TASKS).index)


def labels(values: Iterable[Value]) -> dict[str, str]:
    """A name for each run: its model, with the run beside it where two runs share a model."""
    models = {value.run_id: value.model for value in values}
    shared = [model for model in set(models.values()) if list(models.values()).count(model) > 1]
    return {run: f"{model} ({run})" if model in shared else model for run, model in models.items()}


def better(one: Value, other: Value | None) -> bool:
    return strength(one) > strength(other)


def strength(value: Value | None) -> float:
    if value is None or value.value is None:
        return float("-inf")
    return -value.value if value.metric in LOWER_IS_BETTER else value.value


def title(column: Metric, task: str = "") -> str:
    """`NDCG@10`; of the task that samples its candidates `NDCG@10, sampled`."""
    metric, k = column
    return TITLES.get(metric, metric.replace("_", " ").capitalize()) + (f"@{k}" if k else "") + (", sampled" if task == SAMPLED else "")


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


def full_rankings(runs: Iterable[Run], of: Iterable[str]) -> dict[str, dict[Metric, Value]]:
    """{run that ranked sampled candidates: metrics of the full ranking of the same trained model, on the same part of the same split}.

    runs: all that are recorded; of: ids of scored runs. A run without a full ranking is left out; of several the last one counts.
    """
    by_id = {run.run_id: run for run in runs}
    full: dict[tuple[str, ...], dict[Metric, Value]] = {}
    for evaluated in sorted(by_id.values(), key=lambda run: run.ended_at):
        if evaluated.stage == "evaluate":
            for value in from_summary(evaluated.summary):
                if value.task == "ranking" and value.run_id in by_id:
                    full.setdefault(_ranked(by_id[value.run_id]), {})[value.column] = value
    return {run_id: full[_ranked(by_id[run_id])] for run_id in of if run_id in by_id and _ranked(by_id[run_id]) in full}


def _ranked(scored: Run) -> tuple[str, ...]:
    """What a score step ranked for whom: the runs of its model and of its split, and the part."""
    named = (str(scored.config.get(field)) for field in ("model", "source"))
    return (*(scored.upstream.get(step, "") for step in named), str(scored.config.get("part")))
