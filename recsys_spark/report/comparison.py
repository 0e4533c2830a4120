"""Renders the comparison of scored runs: a `Comparison` of plain data -> one self-contained HTML
document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.metrics import glossary
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.report import charts, lines, results, said, sections, shell, table
from recsys_spark.report.charts import Mark
from recsys_spark.report.content import Compared, Comparison, Paired
from recsys_spark.report.kinds import worded
from recsys_spark.report.lists import section as lists_section
from recsys_spark.report.results import Metric, Table
from recsys_spark.report.slices import section as slices_section
from recsys_spark.report.table import Cell, Column

# Metrics drawn as curves over k, in this order
CURVES = (
    "ndcg",
    "recall",
    "mrr",
    "coverage",
    "precision",
    "map",
    "hit_rate",
    "novelty",
)
DRAWN = 4  # curves shown at once; the others are folded away


def render(page: Comparison) -> str:
    """The whole document."""
    tables = [
        (compared, results.table(compared.evaluation.values, compared.task, compared.primary))
        for compared in page.compared
    ]
    references = {
        row.label
        for compared, result_table in tables
        for row in result_table.rows
        if row.run_id == compared.reference
    }
    css = sections.colours((result_table for _, result_table in tables), references)
    return shell.document(
        kind="recsys_spark comparison",
        title=page.title,
        lead=page.data,
        findings="".join(_finding(compared, result_table) for compared, result_table in tables),
        sections=[
            (
                "results",
                "Results",
                "".join(_results(compared, result_table, css) for compared, result_table in tables),
            ),
            (
                "differences",
                "Differences",
                "".join(
                    _differences(compared, result_table, css) for compared, result_table in tables
                ),
            ),
            ("cut-offs", "At every cut-off", _cut_offs(tables, css)),
            (
                "slices",
                "By slice",
                "".join(
                    slices_section(compared, result_table, css) for compared, result_table in tables
                ),
            ),
            *(lists_section(page.lists, css) if page.lists else ()),
            (
                "method",
                "How to read this",
                _method(page, [result_table for _, result_table in tables]),
            ),
        ],
    )


def _finding(compared: Compared, result_table: Table) -> str:
    labels = {row.run_id: row.label for row in result_table.rows}
    verdicts = "".join(
        f"<li><b>{escape(claim)}</b>{escape(detail)}.</li>"
        for claim, detail in (
            said.verdict(compared, difference, labels)
            for difference in said.main_differences(compared)
        )
    )
    return (
        '<div class="finding"><p '
        f'class="of">{escape(results.title(compared.primary, compared.task))}, '
        f"{escape(compared.evaluation.rule)}, {escape(compared.evaluation.part)} part, "
        f"{worded(f'{compared.evaluation.users:,} users', compared.evaluation.query_kind)}</p><ul "
        f'class="verdicts">{verdicts}</ul></div>'
    )


def _results(compared: Compared, result_table: Table, css: Mapping[str, str]) -> str:
    body = sections.result_tables(
        compared.evaluation, result_table, css, {compared.reference: "reference"}
    )
    drawn = [
        column
        for column in (result_table.primary, ("recall", result_table.primary[1]), ("mae", 0))
        if column in result_table.columns(column[1])
    ]
    bars = "".join(
        f"<div><h4>{results.title(column, compared.task)}</h4>"
        f"{sections.bars(result_table, column, css)}</div>"
        for column in dict.fromkeys(drawn)
    )
    return shell.card(body, sections.heading(compared.evaluation, compared.task)) + shell.card(
        f'<div class="pair">{bars}</div>'
    )


def _differences(compared: Compared, result_table: Table, css: Mapping[str, str]) -> str:
    """Differences from the reference: a chart of the main metric, tables of all paired metrics."""
    labels = {row.run_id: row.label for row in result_table.rows}
    differences = {
        (difference.run_id, difference.column): difference
        for difference in compared.differences
        if difference.slice == results.ALL
    }
    others = [difference.run_id for difference in said.main_differences(compared)]
    marks = []
    for run in others:
        difference = differences[run, compared.primary]
        if difference.value is not None:
            note = (
                f"{said.number(difference.column[0], difference.low)} to "
                f"{said.number(difference.column[0], difference.high)}"
            )
            marks.append(
                Mark(
                    labels[run],
                    css[labels[run]],
                    difference.value,
                    difference.low,
                    difference.high,
                    said.plus(difference.column[0], difference.value),
                    note,
                )
            )
    title = (
        f"{results.title(compared.primary, compared.task)}: "
        f"difference from {labels[compared.reference]}"
    )
    tables = {
        k: _difference_tables(compared, result_table.columns(k), others, differences, labels, css)
        for k in result_table.ks
    }
    body = sections.by_cut_off({k: markup for k, markup in tables.items() if markup})
    about = (
        f"Each run against {labels[compared.reference]} ({compared.why}), "
        f"{worded('on the same users', compared.evaluation.query_kind)}. "
        f"Intervals and p-values are of the paired bootstrap, {compared.replicas:,} replicas; "
        "p-values are two-sided"
        + (
            f" and corrected by Holm for {len(others)} comparisons, metric by metric."
            if len(others) > 1
            else "."
        )
    )
    return (
        f'<p class="about">{escape(about)}</p>'
        + shell.card(charts.bars(marks, around_zero=True, label=title), escape(title))
        + shell.card(
            body,
            f"{TASKS[compared.task].title}: differences from {escape(labels[compared.reference])}",
        )
    )


def _difference_tables(
    compared: Compared,
    shown: Sequence[Metric],
    others: Sequence[str],
    differences: Mapping[tuple[str, Metric], Paired],
    labels: Mapping[str, str],
    css: Mapping[str, str],
) -> str:
    """Two tables: metrics that judge a run, then metrics that only describe its lists."""
    judging = _difference_table(
        compared,
        [column for column in shown if column[0] in glossary.JUDGED],
        others,
        differences,
        labels,
        css,
    )
    telling = _difference_table(
        compared,
        [column for column in shown if column[0] not in glossary.JUDGED],
        others,
        differences,
        labels,
        css,
    )
    return judging + (f"<h4>What the lists are like</h4>{telling}" if telling else "")


def _difference_table(
    compared: Compared,
    shown: Sequence[Metric],
    others: Sequence[str],
    differences: Mapping[tuple[str, Metric], Paired],
    labels: Mapping[str, str],
    css: Mapping[str, str],
) -> str:
    shown_paired = [
        column for column in shown if any((run, column) in differences for run in others)
    ]
    if not shown_paired:
        return ""
    columns = [Column("Run", text=True)]
    columns += [
        Column(
            results.title(column, compared.task),
            glossary.meaning(column[0]),
            parts=("low", "high", "p"),
        )
        for column in shown_paired
    ]
    rows = []
    for run in others:
        cells = [Cell(labels[run], labels[run], css=css[labels[run]])]
        cells += [
            difference_cell(differences.get((run, column)), compared.replicas)
            for column in shown_paired
        ]
        rows.append(cells)
    return table.table(columns, rows)


def difference_cell(difference: Paired | None, replicas: int) -> Cell:
    """The difference; below it its interval and, if there is one, its p-value. Bold where the
    p-value is below `said.SURE`.
    """
    if difference is None or difference.value is None:
        return Cell("–", None)
    metric = difference.column[0]
    notes = (
        f"{said.number(metric, difference.low)} to {said.number(metric, difference.high)}",
        said.probability(difference, replicas) if difference.corrected is not None else "",
    )
    sure = difference.corrected is not None and difference.corrected < said.SURE
    return Cell(
        said.plus(metric, difference.value),
        difference.value,
        notes,
        (difference.low, difference.high, difference.corrected),
        "best" if sure else "",
    )


def _cut_offs(tables: Sequence[tuple[Compared, Table]], css: Mapping[str, str]) -> str:
    markup = ""
    for compared, result_table in tables:
        cards: list[str] = []
        legend = ""
        ks = sorted(k for k in result_table.ks if k)
        if len(ks) < 2:
            continue
        names = [
            metric
            for metric in CURVES
            if sum((metric, k) in result_table.columns(k) for k in ks) > 1
        ]
        values = {
            (value.run_id, value.column): value
            for value in compared.evaluation.values
            if value.task == compared.task and value.slice == results.ALL
        }
        for metric in names:
            drawn = []
            for row in result_table.rows:
                points = []
                for place, k in enumerate(ks):
                    value = values.get((row.run_id, (metric, k)))
                    points.append(
                        (float(place), value.value, value.low, value.high)
                        if value
                        else (float(place), None, None, None)
                    )
                drawn.append(charts.Series(row.label, css[row.label], tuple(points)))
            title = results.title((metric, 0), compared.task)
            body = lines.lines(
                drawn,
                [str(k) for k in ks],
                label=f"{title} over k",
                percent=glossary.unit(metric) == "share",
            )
            legend = sections.legend(drawn)
            cards.append(shell.card(body, f"{escape(title)} at k"))
        shown, more = "".join(cards[:DRAWN]), "".join(cards[DRAWN:])
        markup += f'{legend}<div class="halves">{shown}</div>' + (
            (
                '<details class="more"><summary>More '
                "metrics</summary><div "
                f'class="halves">{more}</div></details>'
            )
            if more
            else ""
        )
    about = "The first k places of every list; bands are 95 % intervals."
    return f'<p class="about">{about}</p>{markup}' if markup else ""


def _method(page: Comparison, tables: Sequence[Table]) -> str:
    columns = [
        Column(name, text=True)
        for name in ("Name", "Task", "Scored run", "Trained run", "Evaluated by")
    ]
    runs = table.table(columns, [[Cell(text, text) for text in row] for row in page.runs])
    return (
        shell.card(sections.meanings(tables), "Metrics")
        + shell.card(shell.facts(page.facts), "Where these numbers come from")
        + shell.card(runs, "Runs")
    )
