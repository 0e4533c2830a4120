"""The comparison by slice: the main metric of every run, and its paired difference from the
reference, over subsets of the users or items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.report import charts, results, said, sections, shell, table
from recsys_spark.report.content import Compared, Paired
from recsys_spark.report.kinds import worded
from recsys_spark.report.results import Table, Value
from recsys_spark.report.table import Cell, Column

MOST_DRAWN = 8  # slices in a chart; with more, only a folded table is written
MOST_BESIDE = 3  # runs in a table beside its chart; a table of more is too wide for that
PARTS = ("low", "high", "difference", "difference-low", "difference-high")
KINDS = {
    "activity": "users by activity",
    "users": "new and known users",
    "item_popularity": "items by popularity",
    "items": "new and known items",
}


def section(compared: Compared, result_table: Table, css: Mapping[str, str]) -> str:
    """One card per kind of slice; empty where nothing was measured by slice."""
    kinds = sections.slices(compared.evaluation.values, result_table)
    if not kinds:
        return ""
    about = (
        f"{results.title(compared.primary, compared.task)}, {compared.evaluation.rule}, "
        "in parts of the users and items; whiskers are 95 % intervals. Bold: the paired "
        "difference from the reference, printed below, has an interval without zero. Among so many "
        "slices some are expected to by chance, so no p-values stand here."
    )
    first, *rest = (
        _card(compared, result_table, kind, levels, css)
        for kind, levels in sorted(kinds.items(), key=lambda pair: _order(pair[0]))
    )
    return f'<p class="about">{escape(about)}</p>{first}{"".join(rest)}'


def _card(
    compared: Compared,
    result_table: Table,
    kind: str,
    levels: Sequence[str],
    css: Mapping[str, str],
) -> str:
    of_kind = kind_title(kind, compared.evaluation.query_kind)
    title = f"{results.title(compared.primary, compared.task)}: {of_kind}"
    listed = _table(compared, result_table, levels)
    if len(levels) > MOST_DRAWN:
        return shell.card(
            f'<details class="more"><summary>{len(levels)} slices</summary>{listed}</details>',
            escape(title),
        )
    names = [sections.slice_name(level, compared.evaluation.activity_bounds) for level in levels]
    dots = sections.by_slice(
        compared.evaluation.values, result_table, compared.primary, levels, css
    )
    drawn = f"<div>{sections.legend(dots)}{charts.dodged(dots, names, label=title)}</div>"
    css_class = "beside" if len(result_table.rows) <= MOST_BESIDE else "below"
    return shell.card(f'<div class="{css_class}">{drawn}{listed}</div>', escape(title))


def _table(compared: Compared, result_table: Table, levels: Sequence[str]) -> str:
    """One column per run: its value, below it the paired difference from the reference. The copy
    as TSV also has every interval.
    """
    values = {
        (value.run_id, value.slice): value
        for value in compared.evaluation.values
        if value.task == compared.task and value.column == compared.primary
    }
    paired = {
        (difference.run_id, difference.slice): difference
        for difference in compared.differences
        if difference.column == compared.primary
    }
    runs = sorted(result_table.rows, key=lambda row: row.run_id != compared.reference)
    columns = [Column("Slice", text=True), Column("n", "users or events that were measured")]
    columns += [
        Column(row.label, "the reference", parts=("low", "high"))
        if row.run_id == compared.reference
        else Column(row.label, "below: paired difference from the reference", parts=PARTS)
        for row in runs
    ]
    rows = []
    for level in levels:
        name = sections.slice_name(level, compared.evaluation.activity_bounds)
        bar = values.get((compared.reference, level))
        cells = [Cell(name, name), Cell(f"{bar.n:,}", bar.n) if bar else Cell("–", None)]
        cells += [
            sections.measured(bar)
            if row.run_id == compared.reference
            else _cell(values.get((row.run_id, level)), paired.get((row.run_id, level)))
            for row in runs
        ]
        rows.append(cells)
    return table.table(columns, rows)


def _cell(value: Value | None, difference: Paired | None) -> Cell:
    """A value with its paired difference; bold where the interval of the difference excludes 0."""
    if value is None or value.value is None:
        return Cell("–", None)
    shown = results.number(value.metric, value.value)
    if (
        difference is None
        or difference.value is None
        or difference.low is None
        or difference.high is None
    ):
        return Cell(shown, value.value, parts=(value.low, value.high))
    css = "best" if difference.low > 0 or difference.high < 0 else ""
    notes = (
        said.plus(value.metric, difference.value),
        f"{said.number(value.metric, difference.low)} to "
        f"{said.number(value.metric, difference.high)}",
    )
    return Cell(
        shown,
        value.value,
        notes,
        (value.low, value.high, difference.value, difference.low, difference.high),
        css,
    )


def kind_title(kind: str, query_kind: str = "user") -> str:
    """The title of a kind of slice: `users by gender` for `user.gender`."""
    entity, _, name = kind.partition(".")
    title = KINDS.get(kind) or (f"{entity}s by {name}" if name else kind)
    return worded(title, query_kind)


def _order(kind: str) -> tuple[int, str]:
    """Sort key: users before items, built-in kinds before those of fields."""
    order = ["activity", "users", "user", "item_popularity", "items", "item"]
    entity = kind.partition(".")[0]
    return order.index(entity) if entity in order else len(order), kind
