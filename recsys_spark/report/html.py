"""Renders the report of a pipeline: a `Page` of plain data -> one self-contained HTML document.
Every text that comes from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.metrics import glossary
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.report import (
    charts,
    models,
    profile,
    results,
    said,
    sections,
    shell,
    table,
    users,
)
from recsys_spark.report.content import Evaluation, Example, Page, Training
from recsys_spark.report.kinds import worded
from recsys_spark.report.results import Table
from recsys_spark.report.table import Cell, Column


def render(page: Page) -> str:
    """The whole document."""
    tables = [
        (evaluation, results.table(evaluation.values, task))
        for evaluation in page.evaluations
        for task in results.tasks(evaluation.values)
    ]
    css = sections.colours(
        (result_table for _, result_table in tables),
        {row.label for _, result_table in tables for row in result_table.rows if row.is_baseline},
    )
    for training in page.trainings:
        css.setdefault(
            training.model,
            f"m{sum(css_class != 'base' for css_class in css.values()) % sections.COLOURS}",
        )
    return shell.document(
        kind="recsys_spark report",
        title=page.title,
        lead=page.data,
        findings="".join(
            _finding(evaluation, result_table)
            for evaluation, result_table in tables
            if result_table.rows
        ),
        sections=[
            (
                "results",
                "Results",
                "".join(
                    _results(evaluation, result_table, css) for evaluation, result_table in tables
                ),
            ),
            ("models", "The models", models.section(page.fitted, css)),
            ("data", "The data", profile.section(page.profile) if page.profile else ""),
            ("activity", "By user activity", _activities(tables, css)),
            ("training", "Training", _trainings(page.trainings, css)),
            ("examples", _of_examples(page.examples), _examples(page.examples, css)),
            (
                "method",
                "How to read this",
                _method(page, [result_table for _, result_table in tables]),
            ),
        ],
        footer=(
            f"{len(page.steps)} steps, "
            f"{sum(seconds for _, _, seconds in page.steps):,.0f} s of work."
        )
        if page.steps
        else "",
    )


def _finding(evaluation: Evaluation, result_table: Table) -> str:
    """The headline of one table: the best model, how many times the baseline it is, and what it
    beats by the paired difference.
    """
    best, column = result_table.rows[0], result_table.primary
    value = best.values.get(column)
    if value is None or value.value is None:
        return ""
    says = [
        f"<b>{escape(best.label)}</b> {TASKS[result_table.task].best}"
        if len(result_table.rows) > 1
        else f"<b>{escape(best.label)}</b> alone"
    ]
    bar = result_table.baseline.values.get(column) if result_table.baseline else None
    if bar is not None and bar.value and bar.run_id != best.run_id:
        says[0] += (
            f", {bar.value - value.value:.4f} below {escape(bar.model)}"
            if column[0] in glossary.LOWER_IS_BETTER
            else f", {value.value / bar.value:.1f} times {escape(bar.model)}"
        )
    says += [escape(sentence) for sentence in said.leads(evaluation, result_table)]
    return (
        '<div class="finding"><p '
        f'class="of">{results.title(column, result_table.task)}, '
        f"{escape(evaluation.rule)}</p>"
        f'<p class="big">{results.number(column[0], value.value)}<span>95 '
        f"% interval {results.interval(value)}</span></p>"
        f'<p class="says">{". ".join(says)}.</p></div>'
    )


def _results(evaluation: Evaluation, result_table: Table, css: Mapping[str, str]) -> str:
    charts_of = [
        column
        for column in (result_table.primary, ("recall", result_table.primary[1]), ("mae", 0))
        if column in result_table.columns(column[1])
    ]
    drawn = "".join(
        f"<div><h4>{results.title(column, result_table.task)}</h4>"
        f"{sections.bars(result_table, column, css)}</div>"
        for column in charts_of
    )
    tables = shell.card(
        sections.result_tables(evaluation, result_table, css),
        sections.heading(evaluation, result_table.task),
    )
    return tables + shell.card(f'<div class="pair">{drawn}</div>')


def _activities(tables: Sequence[tuple[Evaluation, Table]], css: Mapping[str, str]) -> str:
    cards = "".join(
        sections.activity(evaluation, result_table, css) for evaluation, result_table in tables
    )
    about = "Users in quartiles by their number of training events; whiskers are 95 % intervals."
    return f'<p class="about">{about}</p><div class="halves">{cards}</div>' if cards else ""


def _trainings(trainings: Sequence[Training], css: Mapping[str, str]) -> str:
    cards = ""
    for training in trainings:
        if not training.epochs:
            continue
        own = css[training.model]
        measured = [epoch.get(training.monitor) for epoch in training.epochs]
        points = [(value, place) for place, value in enumerate(measured) if value is not None]
        measured_best = (min if training.lower_is_better else max)(points)[1] if points else None
        # Where training has several phases, `best` is chosen among epochs of the last one
        best = measured_best if training.best is None else training.best
        fact = (
            f"best at epoch {best + 1} of {len(measured)}"
            if best is not None
            else f"{len(measured)} epochs"
        )
        facts = "; ".join([fact, *training.facts])
        losses = dict.fromkeys(
            name for epoch in training.epochs for name in epoch if name.startswith("train_")
        )
        metric, _, k = training.monitor.partition("@")
        title = f"validation {results.title((metric, int(k or 0)))}"
        drawn = f"<h4>{escape(title)}</h4>{charts.curve(measured, own, best=best, label=title)}"
        for name in losses:
            values = [epoch.get(name) for epoch in training.epochs]
            curve = charts.curve(values, own, label=escape(name))
            drawn += f"<h4>training {escape(name.removeprefix('train_'))}</h4>{curve}"
        cards += (
            f'<div class="card"><h3 class="{own}"><span '
            f'class="key"></span>{escape(training.name)}</h3>'
            f'<p class="fact">{escape(facts)}</p>{drawn}</div>'
        )
    about = (
        '<p class="about">One point an epoch; the '
        "ring marks the epoch that was kept, chosen on the validation part.</p>"
    )
    return f'{about}<div class="curves">{cards}</div>' if cards else ""


def _of_examples(shown: Sequence[Example]) -> str:
    return worded("Example users", shown[0].query_kind) if shown else "Example users"


def _examples(shown: Sequence[Example], css: Mapping[str, str]) -> str:
    if not shown:
        return ""
    about = (
        "Drawn at random, not chosen for their looks. Green: the event that was held "
        "out, and every list that found it."
    )
    opened = next((example for example in shown if users.finders(example)), shown[0])
    return f'<p class="about">{about}</p>{users.examples(shown, css, opened=opened)}'


def _method(page: Page, tables: Sequence[Table]) -> str:
    steps = [
        [Cell(run, run), Cell(stage, stage), Cell(f"{seconds:,.1f}", seconds)]
        for run, stage, seconds in page.steps
    ]
    listed = (
        table.table(
            [Column("Run", text=True), Column("Stage", text=True), Column("Seconds")], steps
        )
        if steps
        else ""
    )
    return (
        shell.card(sections.meanings(tables), "Metrics")
        + shell.card(shell.facts(page.facts), "Where these numbers come from")
        + (shell.card(listed, "Runs") if listed else "")
    )
