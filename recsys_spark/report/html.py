"""The report of a pipeline: a `Page` of plain data -> one self-contained HTML document. Everything from the data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.report import charts, results, sections, shell, table, users
from recsys_spark.report.content import Evaluation, Example, Page, Training
from recsys_spark.report.results import Table, Value
from recsys_spark.report.sections import joined
from recsys_spark.report.table import Cell, Column


def render(page: Page) -> str:
    """The whole document."""
    tables = [(evaluation, results.table(evaluation.values, task))
              for evaluation in page.evaluations for task in results.tasks(evaluation.values)]
    css = sections.colours((made for _, made in tables), {row.label for _, made in tables for row in made.rows if row.is_baseline})
    for training in page.trainings:
        css.setdefault(training.model, f"m{sum(one != 'base' for one in css.values()) % sections.COLOURS}")
    return shell.document(
        kind="recsys_spark report", title=page.title, lead=page.data,
        findings="".join(_finding(evaluation, made) for evaluation, made in tables if made.rows),
        sections=[
            ("results", "Results", "".join(_results(evaluation, made, css) for evaluation, made in tables)),
            ("activity", "By user activity", _activities(tables, css)),
            ("training", "Training", _trainings(page.trainings, css)),
            ("examples", "Example users", _examples(page.examples, css)),
            ("method", "How to read this", _method(page, [made for _, made in tables])),
        ],
        footer=f"{len(page.steps)} steps, {sum(seconds for _, _, seconds in page.steps):,.0f} s of work." if page.steps else "",
    )


def _finding(evaluation: Evaluation, made: Table) -> str:
    """The headline of one table: who is best, by how much, and whether that is certain."""
    best, column = made.rows[0], made.primary
    value = best.values.get(column)
    if value is None or value.value is None:
        return ""
    says = [f"<b>{escape(best.label)}</b> {results.SAYS[made.task]}"
            if len(made.rows) > 1 else f"<b>{escape(best.label)}</b> alone"]
    bar = made.baseline.values.get(column) if made.baseline else None
    if bar is not None and bar.value and bar.run_id != best.run_id:
        says[0] += (f", {bar.value - value.value:.4f} below {escape(bar.model)}" if column[0] in results.LOWER_IS_BETTER
                    else f", {value.value / bar.value:.1f} times {escape(bar.model)}")
    rivals = [row.label for row in made.rows[1:] if _overlap(value, row.values.get(column))]
    if rivals:
        says.append(f"Its interval overlaps with that of {escape(joined(rivals))}.")
    return (f'<div class="finding"><p class="of">{results.title(column, made.task)}, {escape(evaluation.rule)}</p>'
            f'<p class="big">{results.number(column[0], value.value)}<span>95 % interval {results.interval(value)}</span></p>'
            f'<p class="says">{says[0]}. {" ".join(says[1:])}</p></div>')


def _overlap(one: Value, other: Value | None) -> bool:
    if other is None or None in (one.low, one.high, other.low, other.high):
        return False
    return one.low <= other.high and other.low <= one.high  # type: ignore[operator]


def _results(evaluation: Evaluation, made: Table, css: Mapping[str, str]) -> str:
    charts_of = [column for column in (made.primary, ("recall", made.primary[1]), ("mae", 0)) if column in made.columns(column[1])]
    drawn = "".join(f"<div><h4>{results.title(column, made.task)}</h4>{sections.bars(made, column, css)}</div>" for column in charts_of)
    told = shell.card(sections.result_tables(evaluation, made, css), sections.heading(evaluation, made.task))
    return told + shell.card(f'<div class="pair">{drawn}</div>')


def _activities(tables: Sequence[tuple[Evaluation, Table]], css: Mapping[str, str]) -> str:
    cards = "".join(sections.activity(evaluation, made, css) for evaluation, made in tables)
    about = "Users in quartiles by their number of training events; whiskers are 95 % intervals."
    return f'<p class="about">{about}</p><div class="halves">{cards}</div>' if cards else ""


def _trainings(trainings: Sequence[Training], css: Mapping[str, str]) -> str:
    cards = ""
    for training in trainings:
        if not training.epochs:
            continue
        own = css[training.model]
        measured = [epoch.get(training.monitor) for epoch in training.epochs]
        there = [(value, place) for place, value in enumerate(measured) if value is not None]
        measured_best = (min if training.lower_is_better else max)(there)[1] if there else None
        best = measured_best if training.best is None else training.best  # of several phases only the last one's epochs compete
        fact = f"best at epoch {best + 1} of {len(measured)}" if best is not None else f"{len(measured)} epochs"
        facts = "; ".join([fact, *training.facts])
        losses = dict.fromkeys(name for epoch in training.epochs for name in epoch if name.startswith("train_"))
        metric, _, k = training.monitor.partition("@")
        title = f"validation {results.title((metric, int(k or 0)))}"
        drawn = f"<h4>{escape(title)}</h4>{charts.curve(measured, own, best=best, label=title)}"
        for name in losses:
            values = [epoch.get(name) for epoch in training.epochs]
            drawn += f"<h4>training {escape(name.removeprefix('train_'))}</h4>{charts.curve(values, own, label=escape(name))}"
        cards += (f'<div class="card"><h3 class="{own}"><span class="key"></span>{escape(training.name)}</h3>'
                  f'<p class="fact">{escape(facts)}</p>{drawn}</div>')
    about = '<p class="about">One point an epoch; the ring marks the epoch that was kept, chosen on the validation part.</p>'
    return f'{about}<div class="curves">{cards}</div>' if cards else ""


def _examples(shown: Sequence[Example], css: Mapping[str, str]) -> str:
    if not shown:
        return ""
    about = "Drawn at random, not chosen for their looks. Green: the event that was held out, and every list that found it."
    opened = next((example for example in shown if users.finders(example)), shown[0])
    return f'<p class="about">{about}</p>{users.examples(shown, css, opened=opened)}'


def _method(page: Page, tables: Sequence[Table]) -> str:
    steps = [[Cell(run, run), Cell(stage, stage), Cell(f"{seconds:,.1f}", seconds)] for run, stage, seconds in page.steps]
    listed = table.table([Column("Run", text=True), Column("Stage", text=True), Column("Seconds")], steps) if steps else ""
    return (shell.card(sections.meanings(tables), "Metrics") + shell.card(shell.facts(page.facts), "Where these numbers come from")
            + (shell.card(listed, "Runs") if listed else ""))
