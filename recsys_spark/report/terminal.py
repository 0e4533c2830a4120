"""Runs and results on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.core.contracts import Run
from recsys_spark.report import results as shown
from recsys_spark.report import said
from recsys_spark.report.content import Comparison
from recsys_spark.report.results import Metric, Row, Value

PAGE = "report.html"
BRIEF = {  # the page has the rest
    "ranking": ("ndcg", "recall", "mrr", "coverage"), shown.NEW_ITEMS: ("ndcg", "recall", "mrr", "auc"),
    shown.SAMPLED: ("ndcg", "hit_rate", "mrr", "auc"), "rating": ("rmse", "mae"), "click": ("rce", "log_loss", "auc", "calibration"),
}


def results(console: Console, runs: Sequence[Run]) -> None:
    """What a pipeline's steps found: a table for each evaluation and where the report is; facts of each step when nothing was evaluated."""
    evaluated = [run for run in runs if run.stage == "evaluate"]
    for run in evaluated:
        values = shown.from_summary(run.summary)
        for task in shown.tasks(values):
            full = shown.full_rankings(runs, {value.run_id for value in values})
            console.print(_results(console, run, shown.table(values, task), full))
    if not evaluated:
        console.print(_facts(runs))
    for run in runs:
        if run.stage == "report":
            console.print(Text.assemble("report: ", (str(Path(run.run_dir) / PAGE), "bold")), soft_wrap=True)


def runs(console: Console, recorded: Sequence[Run]) -> None:
    """One line a completed run, newest last."""
    table = Table("run", "stage", "ended", "seconds", "seed", "code", "tables written", title=f"{len(recorded)} completed runs")
    for run in sorted(recorded, key=lambda run: run.ended_at):
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.ended_at))
        wrote = ", ".join(f"{name} v{version}" for name, version in sorted(run.output_versions.items()))
        seconds = f"{run.ended_at - run.started_at:.1f}"
        table.add_row(*map(Text, (run.run_id, run.stage, ended, seconds, str(run.seed), run.code_version, wrote)))
    console.print(table)


def trials(console: Console, run: Run, made: Sequence[dict[str, Any]]) -> None:
    """Every trial of a step's search, best first; the settings at an edge of their space are named."""
    if not made:
        return
    metric = str(made[0]["metric"])
    lower = metric.partition("@")[0] in shown.LOWER_IS_BETTER
    names = list(made[0]["values"])
    table = Table(title=Text(f"{run.step}: {len(made)} trials on validation; best at the edge of: {run.summary.get('edges', 'none')}"),
                  title_justify="left")
    for name in (metric, *names, "trial", "seconds"):
        table.add_column(name, justify="right")
    for trial in sorted(made, key=lambda trial: trial["value"] if lower else -trial["value"]):
        values = (f"{trial['value']:.5f}", *(f"{trial['values'][name]}" for name in names), str(trial["trial"]), f"{trial['seconds']:.1f}")
        table.add_row(*values)
    console.print(table)


def comparison(console: Console, page: Comparison, path: Path) -> None:
    """What can be said of each pair, and where the page is."""
    for made in page.compared:
        labels = shown.labels(made.evaluation.values)
        facts = made.evaluation
        console.print(Text(f"{shown.title(made.primary, made.task)}, {facts.rule}, {facts.part} part, {facts.users:,} users; "
                           f"against {labels[made.reference]} ({made.why})", "dim"), soft_wrap=True)
        for difference in said.main_differences(made):
            who, what = said.verdict(made, difference, labels)
            console.print(Text.assemble((who, "bold"), what), soft_wrap=True)
    console.print(Text.assemble("comparison: ", (str(path), "bold")), soft_wrap=True)


def _results(console: Console, run: Run, found: shown.Table, full: dict[str, dict[Metric, Value]]) -> Table:
    """As many of its columns as the console has room for, at least one. full: beside sampled figures, that of the same model over the
    whole catalogue."""
    columns = [column for column in found.columns(found.primary[1]) if column[0] in BRIEF[found.task]]
    endless = console.options.update(width=1000)
    while True:
        made = _table(run, found, full, columns)
        if len(columns) <= 1 or console.measure(made, options=endless).maximum <= console.width:
            return made
        columns.pop()


def _table(run: Run, found: shown.Table, full: dict[str, dict[Metric, Value]], columns: Sequence[Metric]) -> Table:
    facts = run.summary
    table = Table(title=Text(f"{run.step}: split {facts.get('split')}, {facts.get('part')} part, {facts.get('users', 0):,} users"),
                  caption="below: 95 % intervals", title_justify="left", caption_justify="left")
    sampled = found.task == shown.SAMPLED
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(shown.title(column, found.task).replace(", ", "\n"), justify="right", no_wrap=True)
    if sampled:
        table.add_column(f"{shown.title(found.primary)}\nfull ranking", justify="right", no_wrap=True)
    for row in found.rows:
        cells = [_cell(row.values.get(column), found.best.get(column)) for column in columns]
        cells += [_cell(full.get(row.run_id, {}).get(found.primary), None)] if sampled else []
        table.add_row(_name(row, shown.BASELINE.get(found.task, "")), *cells)
    return table


def _name(row: Row, baseline: str) -> Text:
    if row.loses:
        return Text.assemble(row.label, ("\nloses to " + baseline, "red"))
    return Text.assemble(row.label, ("\nbaseline" if row.is_baseline else "", "dim"))


def _cell(value: Value | None, best: str | None) -> Text:
    if value is None:
        return Text("–")
    style = "bold" if value.run_id == best else ""
    return Text.assemble((shown.number(value.metric, value.value), style), ("\n" + shown.interval(value), "dim"))


def _facts(runs: Sequence[Run]) -> Table:
    table = Table("step", "run", "seconds", "found", title_justify="left")
    for run in runs:
        facts = ", ".join(f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}" for name, value in run.summary.items()
                          if isinstance(value, (int, float, str)))
        table.add_row(*map(Text, (run.step, run.run_id, f"{run.ended_at - run.started_at:.1f}", facts)))
    return table
