"""Runs and results on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from recsys_spark.core.contracts import Run
from recsys_spark.metrics.glossary import LOWER_IS_BETTER
from recsys_spark.metrics.tasks import SAMPLED, TASKS
from recsys_spark.report import results as shown
from recsys_spark.report import said
from recsys_spark.report.content import Comparison
from recsys_spark.report.kinds import worded
from recsys_spark.report.results import Metric, Row, Value

PAGE = "report.html"
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "waits": "dim"}


# (evaluate run, its values, task) -> {metric: the best run, and those not told apart from it}
Level = Callable[[Run, Sequence[Value], str], Mapping[Metric, Collection[str]]]


def results(console: Console, runs: Sequence[Run], level: Level | None = None) -> None:
    """Prints a table for each evaluation of a pipeline's runs and the path of the report; facts of
    each step when nothing was evaluated. level: what is bold in a column; the best alone without.
    """
    evaluated = [run for run in runs if run.stage == "evaluate"]
    for run in evaluated:
        values = shown.from_summary(run.summary)
        for task in shown.tasks(values):
            full = shown.full_rankings(runs, {value.run_id for value in values})
            table = shown.table(values, task)
            alone = {column: (best,) for column, best in table.best.items()}
            bold = level(run, values, task) if level else alone
            console.print(_results(console, run, table, full, bold))
    if not evaluated:
        console.print(_facts(runs))
    for run in runs:
        if run.stage == "report":
            latest = latest_page(Path(run.run_dir).parent, run.step)
            path = latest if latest.exists() else Path(run.run_dir) / PAGE
            link = Style(bold=True, link=path.absolute().as_uri())
            console.print(Text.assemble("report: ", (str(path), link)), soft_wrap=True)


def latest_page(runs_dir: Path, step: str) -> Path:
    """Where the newest page of a report step lies whatever its run: beside the folder of the run
    folders, such as out/ml-1m/report.html.
    """
    return runs_dir.parent / f"{step}.html"


def runs(console: Console, recorded: Sequence[Run]) -> None:
    """Prints one line per run, newest last; a failed one with its reason."""
    done = sum(run.state == "done" for run in recorded)
    failed = f", {len(recorded) - done} failed" if done < len(recorded) else ""
    table = Table(title=f"{done} completed runs{failed}")
    widest = max((len(run.run_id) for run in recorded), default=3)
    table.add_column("run", no_wrap=True, min_width=widest)  # an id is there to be copied
    for name in ("stage", "ended", "seconds", "seed", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("problem", overflow="fold")
    for run in sorted(recorded, key=lambda run: run.ended_at):
        ended = _when(run.ended_at)
        seconds = f"{run.ended_at - run.started_at:.1f}"
        facts = (run.run_id, run.stage, ended, seconds, str(run.seed), run.state, run.problem)
        table.add_row(*map(Text, facts))
    console.print(table)


def statuses(console: Console, steps: Sequence[Any], summary: str) -> None:
    """Prints one line per step (of commands/status.py), in their order."""
    table = Table(title=summary, title_justify="left")
    widest = max((len(status.step) for status in steps), default=4)
    table.add_column("step", no_wrap=True, min_width=widest)
    for name in ("stage", "state", "ended", "seconds"):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="fold")
    for status in steps:
        ended = "" if status.ended_at is None else _when(status.ended_at)
        seconds = "" if status.seconds is None else f"{status.seconds:.1f}"
        state = Text(status.state, COLOURS.get(status.state, ""))
        table.add_row(status.step, status.stage, state, ended, seconds, Text(status.why))
    console.print(table)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def model(console: Console, card: Any) -> None:
    """Prints all that is known of a model (of commands/catalogue.py)."""
    entry = card.entry
    console.print(Text(f"{entry.name}: {entry.kind}, {entry.task}", "bold"))
    console.print(Text(entry.about))
    console.print(Text(f"Paper: {entry.paper}", "dim"))
    about = Table(show_header=False, box=None)
    for name, text in (
        ("for", entry.use),
        ("needs", entry.needs),
        ("new users, items", entry.cold),
        ("memory", card.memory),
        ("not for", entry.unfit),
    ):
        about.add_row(Text(name, "dim"), Text(text))
    console.print(about)
    table = Table(title="settings, under `config:` of a step", title_justify="left")
    for name in ("setting", "type", "default"):
        table.add_column(name, overflow="fold")
    table.add_column("meaning", overflow="fold")
    for setting in card.settings:
        default = setting.default or "must be given"
        table.add_row(*map(Text, (setting.name, setting.kind, default, setting.meaning)))
    console.print(table)
    if card.figures:
        table = Table(title="measured on a test part", title_justify="left")
        for name in ("metric", "value", "95 % interval", "protocol", "search and fit, s", "page"):
            table.add_column(name, overflow="fold")
        for figure in card.figures:
            facts = (figure.metric, figure.value, figure.interval, figure.where, figure.seconds)
            table.add_row(*map(Text, (*facts, figure.page)))
        console.print(table)


def query(console: Console, shown: Any) -> None:
    """Prints a query's latest events and every model's list (of commands/show.py)."""
    heading = f"{shown.query_kind} {shown.query_id}: the last {len(shown.history)} events"
    table = Table("title", "value", "part", title=Text(heading))
    for event in shown.history:
        table.add_row(Text(event.title), f"{event.value:g}", event.part)
    console.print(table)
    for listed in shown.lists:
        table = Table("#", "title", "score", title=f"{listed.model}  ({listed.run_id})")
        for place in listed.places:
            table.add_row(str(place.rank), Text(place.title), f"{place.score:.4g}")
        console.print(table)


def trials(console: Console, run: Run, records: Sequence[dict[str, Any]]) -> None:
    """Prints every trial of a step's search, best first, and names the settings whose best value
    lies at an edge of the search space.
    """
    if not records:
        return
    metric = str(records[0]["metric"])
    lower = metric.partition("@")[0] in LOWER_IS_BETTER
    names = list(records[0]["values"])
    table = Table(
        title=Text(
            f"{run.step}: {len(records)} trials on validation; best at the edge of: "
            f"{run.summary.get('edges', 'none')}"
        ),
        title_justify="left",
    )
    for name in (metric, *names, "trial", "seconds"):
        table.add_column(name, justify="right")
    for trial in sorted(records, key=lambda trial: trial["value"] if lower else -trial["value"]):
        values = (
            f"{trial['value']:.5f}",
            *(f"{trial['values'][name]}" for name in names),
            str(trial["trial"]),
            f"{trial['seconds']:.1f}",
        )
        table.add_row(*values)
    console.print(table)


def comparison(console: Console, page: Comparison, path: Path) -> None:
    """Prints the verdict on each run against the reference, and the path of the page."""
    for compared in page.compared:
        labels = shown.labels(compared.evaluation.values)
        facts = compared.evaluation
        console.print(
            Text(
                f"{shown.title(compared.primary, compared.task)}, {facts.rule}, {facts.part} part, "
                f"{worded(f'{facts.users:,} users', facts.query_kind)}; "
                f"against {labels[compared.reference]} ({compared.why})",
                "dim",
            ),
            soft_wrap=True,
        )
        for difference in said.main_differences(compared):
            claim, detail = said.verdict(compared, difference, labels)
            console.print(Text.assemble((claim, "bold"), detail), soft_wrap=True)
    console.print(Text.assemble("comparison: ", (str(path), "bold")), soft_wrap=True)


def _results(
    console: Console,
    run: Run,
    result_table: shown.Table,
    full: dict[str, dict[Metric, Value]],
    bold: Mapping[Metric, Collection[str]],
) -> Table:
    """The table with as many columns as fit the console, at least one. full: {run that ranked
    sampled candidates: metrics of the same model over the whole catalogue}.
    """
    columns = [
        column
        for column in result_table.columns(result_table.primary[1])
        if column[0] in TASKS[result_table.task].columns
    ]
    endless = console.options.update(width=1000)
    while True:
        table = _table(run, result_table, full, columns, bold)
        if len(columns) <= 1 or console.measure(table, options=endless).maximum <= console.width:
            return table
        columns.pop()


def _table(
    run: Run,
    result_table: shown.Table,
    full: dict[str, dict[Metric, Value]],
    columns: Sequence[Metric],
    bold: Mapping[Metric, Collection[str]],
) -> Table:
    facts = run.summary
    table = Table(
        title=Text(
            f"{run.step}: split {facts.get('split')}, {facts.get('part')} part, "
            + worded(f"{facts.get('users', 0):,} users", facts.get("query_kind", "user"))
        ),
        caption="below: 95 % intervals; bold: the best, and what cannot be told apart from it",
        title_justify="left",
        caption_justify="left",
    )
    sampled = result_table.task == SAMPLED.name
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(
            shown.title(column, result_table.task).replace(", ", "\n"),
            justify="right",
            no_wrap=True,
        )
    if sampled:
        table.add_column(
            f"{shown.title(result_table.primary)}\nfull ranking", justify="right", no_wrap=True
        )
    for row in result_table.rows:
        cells = [_cell(row.values.get(column), bold.get(column, ())) for column in columns]
        cells += [_cell(full.get(row.run_id, {}).get(result_table.primary), ())] if sampled else []
        table.add_row(_name(row, TASKS[result_table.task].baseline), *cells)
    return table


def _name(row: Row, baseline: str) -> Text:
    if row.loses:
        return Text.assemble(row.label, ("\nloses to " + baseline, "red"))
    return Text.assemble(row.label, ("\nbaseline" if row.is_baseline else "", "dim"))


def _cell(value: Value | None, best: Collection[str]) -> Text:
    if value is None:
        return Text("–")
    style = "bold" if value.run_id in best else ""
    return Text.assemble(
        (shown.number(value.metric, value.value), style), ("\n" + shown.interval(value), "dim")
    )


def _facts(runs: Sequence[Run]) -> Table:
    table = Table("step", "run", "seconds", "found", title_justify="left")
    for run in runs:
        facts = ", ".join(
            f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in run.summary.items()
            if isinstance(value, (int, float, str))
        )
        table.add_row(
            *map(Text, (run.step, run.run_id, f"{run.ended_at - run.started_at:.1f}", facts))
        )
    return table
