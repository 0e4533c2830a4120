"""The comparison by slice: the main metric of every run, and its paired difference from the reference, in parts of the users or items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.report import charts, results, said, sections, shell, table
from recsys_spark.report.content import Compared, Paired
from recsys_spark.report.results import Table, Value
from recsys_spark.report.table import Cell, Column

MOST_DRAWN = 8  # slices; more are a table alone, to be opened
MOST_BESIDE = 3  # runs; the table of more is too wide to stand beside its chart
PARTS = ("low", "high", "difference", "difference-low", "difference-high")
KINDS = {
    "activity": "users by activity", "users": "new and known users", "item_popularity": "items by popularity",
    "items": "new and known items",
}


def section(made: Compared, found: Table, css: Mapping[str, str]) -> str:
    """One card for each way to slice; empty where nothing was measured by slice."""
    kinds = sections.slices(made.evaluation.values, found)
    if not kinds:
        return ""
    about = (f"{results.title(made.primary, made.task)}, {made.evaluation.rule}, in parts of the users and items; whiskers are 95 % "
             "intervals. Bold: the paired difference from the reference, printed below, has an interval without zero. Among so many "
             "slices some are expected to by chance, so no p-values stand here.")
    first, *rest = (_card(made, found, kind, levels, css) for kind, levels in sorted(kinds.items(), key=lambda pair: _order(pair[0])))
    return f'<p class="about">{escape(about)}</p>{first}{"".join(rest)}'


def _card(made: Compared, found: Table, kind: str, levels: Sequence[str], css: Mapping[str, str]) -> str:
    title = f"{results.title(made.primary, made.task)}: {kind_title(kind)}"
    listed = _table(made, found, levels)
    if len(levels) > MOST_DRAWN:
        return shell.card(f'<details class="more"><summary>{len(levels)} slices</summary>{listed}</details>', escape(title))
    names = [sections.slice_name(level, made.evaluation.activity_bounds) for level in levels]
    dots = sections.by_slice(made.evaluation.values, found, made.primary, levels, css)
    drawn = f"<div>{sections.legend(dots)}{charts.dodged(dots, names, label=title)}</div>"
    css_class = "beside" if len(found.rows) <= MOST_BESIDE else "below"
    return shell.card(f'<div class="{css_class}">{drawn}{listed}</div>', escape(title))


def _table(made: Compared, found: Table, levels: Sequence[str]) -> str:
    """A column a run: its value, below it the paired difference from the reference. A copy as TSV has every interval too."""
    values = {(value.run_id, value.slice): value for value in made.evaluation.values
              if value.task == made.task and value.column == made.primary}
    paired = {(one.run_id, one.slice): one for one in made.differences if one.column == made.primary}
    runs = sorted(found.rows, key=lambda row: row.run_id != made.reference)
    columns = [Column("Slice", text=True), Column("n", "users or events that were measured")]
    columns += [Column(row.label, "the reference", parts=("low", "high")) if row.run_id == made.reference else
                Column(row.label, "below: paired difference from the reference", parts=PARTS) for row in runs]
    rows = []
    for level in levels:
        name, bar = sections.slice_name(level, made.evaluation.activity_bounds), values.get((made.reference, level))
        cells = [Cell(name, name), Cell(f"{bar.n:,}", bar.n) if bar else Cell("–", None)]
        cells += [sections.measured(bar) if row.run_id == made.reference else
                  _cell(values.get((row.run_id, level)), paired.get((row.run_id, level))) for row in runs]
        rows.append(cells)
    return table.table(columns, rows)


def _cell(value: Value | None, one: Paired | None) -> Cell:
    """Bold where the interval of the difference leaves zero out."""
    if value is None or value.value is None:
        return Cell("–", None)
    shown = results.number(value.metric, value.value)
    if one is None or one.value is None or one.low is None or one.high is None:
        return Cell(shown, value.value, parts=(value.low, value.high))
    apart = "best" if one.low > 0 or one.high < 0 else ""
    notes = (said.plus(value.metric, one.value), f"{said.number(value.metric, one.low)} to {said.number(value.metric, one.high)}")
    return Cell(shown, value.value, notes, (value.low, value.high, one.value, one.low, one.high), apart)


def kind_title(kind: str) -> str:
    """`users by gender` of `user.gender`."""
    entity, _, name = kind.partition(".")
    return KINDS.get(kind) or (f"{entity}s by {name}" if name else kind)


def _order(kind: str) -> tuple[int, str]:
    """Users before items, what is always there before the fields."""
    known = ["activity", "users", "user", "item_popularity", "items", "item"]
    entity = kind.partition(".")[0]
    return known.index(entity) if entity in known else len(known), kind
