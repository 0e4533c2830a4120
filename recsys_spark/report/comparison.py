"""The comparison of scored runs: a `Comparison` of plain data -> one self-contained HTML document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.report import charts, lines, results, said, sections, shell, table
from recsys_spark.report.charts import Mark
from recsys_spark.report.content import Compared, Comparison, Paired
from recsys_spark.report.lists import section as lists_section
from recsys_spark.report.results import Metric, Table
from recsys_spark.report.slices import section as slices_section
from recsys_spark.report.table import Cell, Column

CURVES = ("ndcg", "recall", "mrr", "coverage", "precision", "map", "hit_rate", "novelty")  # drawn over k, in this order
DRAWN = 4  # of them; the others are behind one line


def render(page: Comparison) -> str:
    """The whole document."""
    tables = [(made, results.table(made.evaluation.values, made.task, made.primary)) for made in page.compared]
    references = {row.label for made, found in tables for row in found.rows if row.run_id == made.reference}
    css = sections.colours((found for _, found in tables), references)
    return shell.document(
        kind="recsys_spark comparison", title=page.title, lead=page.data,
        findings="".join(_finding(made, found) for made, found in tables),
        sections=[
            ("results", "Results", "".join(_results(made, found, css) for made, found in tables)),
            ("differences", "Differences", "".join(_differences(made, found, css) for made, found in tables)),
            ("cut-offs", "At every cut-off", _cut_offs(tables, css)),
            ("slices", "By slice", "".join(slices_section(made, found, css) for made, found in tables)),
            *(lists_section(page.lists, css) if page.lists else ()),
            ("method", "How to read this", _method(page, [found for _, found in tables])),
        ],
    )


def _finding(made: Compared, found: Table) -> str:
    labels = {row.run_id: row.label for row in found.rows}
    told = "".join(f"<li><b>{escape(who)}</b>{escape(what)}.</li>"
                   for who, what in (said.verdict(made, difference, labels) for difference in said.main_differences(made)))
    return (f'<div class="finding"><p class="of">{escape(results.title(made.primary, made.task))}, {escape(made.evaluation.rule)}, '
            f'{escape(made.evaluation.part)} part, {made.evaluation.users:,} users</p><ul class="verdicts">{told}</ul></div>')


def _results(made: Compared, found: Table, css: Mapping[str, str]) -> str:
    body = sections.result_tables(made.evaluation, found, css, {made.reference: "reference"})
    drawn = [column for column in (found.primary, ("recall", found.primary[1]), ("mae", 0)) if column in found.columns(column[1])]
    bars = "".join(f"<div><h4>{results.title(column, made.task)}</h4>{sections.bars(found, column, css)}</div>"
                   for column in dict.fromkeys(drawn))
    return shell.card(body, sections.heading(made.evaluation, made.task)) + shell.card(f'<div class="pair">{bars}</div>')


def _differences(made: Compared, found: Table, css: Mapping[str, str]) -> str:
    """Against the reference: a chart of the main metric, and every metric that is paired."""
    labels = {row.run_id: row.label for row in found.rows}
    there = {(one.run_id, one.column): one for one in made.differences if one.slice == results.ALL}
    others = [one.run_id for one in said.main_differences(made)]
    marks = []
    for run in others:
        one = there[run, made.primary]
        if one.value is not None:
            note = f"{said.number(one.column[0], one.low)} to {said.number(one.column[0], one.high)}"
            marks.append(Mark(labels[run], css[labels[run]], one.value, one.low, one.high, said.plus(one.column[0], one.value), note))
    title = f"{results.title(made.primary, made.task)}: difference from {labels[made.reference]}"
    tables = {k: _difference_tables(made, found.columns(k), others, there, labels, css) for k in found.ks}
    body = sections.by_cut_off({k: one for k, one in tables.items() if one})
    about = (f"Each run against {labels[made.reference]} ({made.why}), on the same users. Intervals and p-values are of the paired "
             f"bootstrap, {made.replicas:,} replicas; p-values are two-sided" + (
                 f" and corrected by Holm for {len(others)} comparisons, metric by metric." if len(others) > 1 else "."))
    return (f'<p class="about">{escape(about)}</p>' + shell.card(charts.bars(marks, around_zero=True, label=title), escape(title))
            + shell.card(body, f"{results.TASKS[made.task]}: differences from {escape(labels[made.reference])}"))


def _difference_tables(made: Compared, shown: Sequence[Metric], others: Sequence[str], there: Mapping[tuple[str, Metric], Paired],
                       labels: Mapping[str, str], css: Mapping[str, str]) -> str:
    """What judges, and apart from it what only describes."""
    judging = _difference_table(made, [column for column in shown if column[0] in results.JUDGED], others, there, labels, css)
    telling = _difference_table(made, [column for column in shown if column[0] not in results.JUDGED], others, there, labels, css)
    return judging + (f"<h4>What the lists are like</h4>{telling}" if telling else "")


def _difference_table(made: Compared, shown: Sequence[Metric], others: Sequence[str], there: Mapping[tuple[str, Metric], Paired],
                      labels: Mapping[str, str], css: Mapping[str, str]) -> str:
    paired = [column for column in shown if any((run, column) in there for run in others)]
    if not paired:
        return ""
    columns = [Column("Run", text=True)]
    columns += [Column(results.title(column, made.task), results.MEANINGS.get(column[0], ""), parts=("low", "high", "p"))
                for column in paired]
    rows = []
    for run in others:
        cells = [Cell(labels[run], labels[run], css=css[labels[run]])]
        cells += [difference_cell(there.get((run, column)), made.replicas) for column in paired]
        rows.append(cells)
    return table.table(columns, rows)


def difference_cell(one: Paired | None, replicas: int) -> Cell:
    """The difference, below it its interval and, where there is one, its p-value; bold where that is small."""
    if one is None or one.value is None:
        return Cell("–", None)
    metric = one.column[0]
    notes = (f"{said.number(metric, one.low)} to {said.number(metric, one.high)}",
             said.probability(one, replicas) if one.corrected is not None else "")
    sure = one.corrected is not None and one.corrected < said.SURE
    return Cell(said.plus(metric, one.value), one.value, notes, (one.low, one.high, one.corrected), "best" if sure else "")


def _cut_offs(tables: Sequence[tuple[Compared, Table]], css: Mapping[str, str]) -> str:
    told = ""
    for made, found in tables:
        cards: list[str] = []
        legend = ""
        ks = sorted(k for k in found.ks if k)
        if len(ks) < 2:
            continue
        names = [metric for metric in CURVES if sum((metric, k) in found.columns(k) for k in ks) > 1]
        values = {(value.run_id, value.column): value for value in made.evaluation.values
                  if value.task == made.task and value.slice == results.ALL}
        for metric in names:
            drawn = []
            for row in found.rows:
                points = []
                for place, k in enumerate(ks):
                    value = values.get((row.run_id, (metric, k)))
                    points.append((float(place), value.value, value.low, value.high) if value else (float(place), None, None, None))
                drawn.append(charts.Series(row.label, css[row.label], tuple(points)))
            title = results.title((metric, 0), made.task)
            body = lines.lines(drawn, [str(k) for k in ks], label=f"{title} over k", percent=metric in results.SHARES)
            legend = sections.legend(drawn)
            cards.append(shell.card(body, f"{escape(title)} at k"))
        shown, more = "".join(cards[:DRAWN]), "".join(cards[DRAWN:])
        told += f'{legend}<div class="halves">{shown}</div>' + (
            f'<details class="more"><summary>More metrics</summary><div class="halves">{more}</div></details>' if more else "")
    about = "The first k places of every list; bands are 95 % intervals."
    return f'<p class="about">{about}</p>{told}' if told else ""


def _method(page: Comparison, tables: Sequence[Table]) -> str:
    columns = [Column(name, text=True) for name in ("Name", "Task", "Scored run", "Trained run", "Evaluated by")]
    runs = table.table(columns, [[Cell(text, text) for text in row] for row in page.runs])
    return (shell.card(sections.meanings(tables), "Metrics") + shell.card(shell.facts(page.facts), "Where these numbers come from")
            + shell.card(runs, "Runs"))
