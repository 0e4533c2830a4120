"""Sections shared by the report of a pipeline and the comparison of runs: tables of results, bars,
slices, notes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

from recsys_spark.metrics import glossary
from recsys_spark.metrics.tasks import SAMPLED, TASKS
from recsys_spark.report import charts, results, shell, table
from recsys_spark.report.charts import Mark, Series
from recsys_spark.report.content import Evaluation
from recsys_spark.report.kinds import worded
from recsys_spark.report.results import Metric, Table, Value
from recsys_spark.report.table import Cell, Column

COLOURS = 8  # classes m0 .. m7 of the page, and `base`
ODD = {
    "users_without_list": "users without a list (they count as nothing found)",
    "lists_shorter_than_k": "lists shorter than the largest cut-off",
    "repeated_items": "places taken by an item that stood higher in the same list",
    "unknown_items": "places taken by an item that the data do not hold",
    "nan_scores": "places with a score that is not a number",
    "lists_without_target": "lists of users with nothing to find (left out)",
    "rows_without_prediction": "rows without a finite prediction "
    "(charged as the mean of the training part)",
    "repeated_predictions": "repeated predictions (the least one counts)",
    "users_without_candidates": "users without candidates (they count as nothing found)",
    "targets_not_among_candidates": "events to find that are no candidates (nothing can find them)",
    "predictions_outside_range": "predictions outside the range of the "
    "training values (measured as they are)",
}
SAMPLED_NOTE = (
    "Sampled: every held-out event was ranked among a few drawn items, not in the whole "
    "catalogue. Such figures are far higher and may put models in another order; the full ranking "
    "of the same model stands beside them where it was measured."
)
INTERVAL = (
    "95 %, by bootstrap over users. Intervals that overlap show neither that two models are equal "
    "nor that they differ: the differences named above are paired, over the same users"
)
BOLD = (
    "the best of a column, and those that cannot be told apart from it: the paired difference has "
    "a p-value of .05 or more, corrected by Holm for the number of models"
)


def colours(tables: Iterable[Table], grey: Iterable[str]) -> dict[str, str]:
    """{label of a run: colour class}, the same in every table and chart. Labels in `grey` (the
    baseline or reference) get the class `base`.
    """
    classes: dict[str, str] = {}
    plain = set(grey)
    for label in (row.label for result_table in tables for row in result_table.rows):
        own = sum(css != "base" for css in classes.values())
        classes.setdefault(label, "base" if label in plain else f"m{own % COLOURS}")
    return classes


def heading(evaluation: Evaluation, task: str) -> str:
    """Heading such as `Ranking: leave last out, test part, 6,040 users`, with a tag where
    candidates were sampled.
    """
    tag = '<span class="tag bad">sampled</span>' if task == SAMPLED.name else ""
    return (
        escape(
            f"{TASKS[task].title}: {evaluation.rule}, {evaluation.part} part, "
            + worded(f"{evaluation.users:,} users", evaluation.query_kind)
        )
        + tag
    )


def result_tables(
    evaluation: Evaluation,
    result_table: Table,
    css: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
) -> str:
    """The tables at the main cut-off, those of other cut-offs folded away, and the notes on the
    evaluation. tags: {run: text of its tag}.
    """
    return by_cut_off(
        {k: _results(evaluation, result_table, k, css, tags) for k in result_table.ks}
    ) + notes(evaluation, result_table.task)


def by_cut_off(bodies: Mapping[int, str]) -> str:
    """The first body shown, the others folded away. bodies: {cut-off: markup}."""
    first, *others = bodies.items()
    if not others:
        return first[1]
    inside = "".join(f'<h4 class="cut-off">At {k}</h4>{body}' for k, body in others)
    return (
        f'{first[1]}<details class="more"><summary>The '
        f"same at {joined([str(k) for k, _ in others])}</summary>{inside}</details>"
    )


def _results(
    evaluation: Evaluation,
    result_table: Table,
    k: int,
    css: Mapping[str, str],
    tags: Mapping[str, str] | None,
) -> str:
    """Two tables: metrics that judge a model, then metrics that only describe its lists."""
    shown = result_table.columns(k)
    judging = [column for column in shown if column[0] in glossary.JUDGED]
    telling = [column for column in shown if column[0] not in glossary.JUDGED]
    first = _result_table(evaluation, result_table, judging, css, tags) if judging else ""
    second = (
        "<h4>What the lists are like</h4>"
        f"{_result_table(evaluation, result_table, telling, css, {})}"
        if telling
        else ""
    )
    return first + second


def _result_table(
    evaluation: Evaluation,
    result_table: Table,
    shown: Sequence[Metric],
    css: Mapping[str, str],
    tags: Mapping[str, str] | None,
) -> str:
    """One row a model. For sampled candidates, the column right of the main metric holds the full
    ranking of the same model.
    """
    sampled = result_table.task == SAMPLED.name
    columns = [Column("Model", text=True)]
    body = [
        [Cell(row.label, row.label, css=css[row.label], mark=_tags(result_table, row, tags))]
        for row in result_table.rows
    ]
    level = evaluation.level.get(result_table.task, {})
    for column in shown:
        columns.append(_column(column, result_table.task))
        best = level.get(column) or {result_table.best.get(column, "")}
        for cells, row in zip(body, result_table.rows, strict=True):
            cells.append(measured(row.values.get(column), best=best))
        if sampled and column[0] == result_table.primary[0]:
            title = f"{results.title(column)}, full ranking"
            columns.append(
                Column(title, "the same model over the whole catalogue", parts=("low", "high"))
            )
            for cells, row in zip(body, result_table.rows, strict=True):
                cells.append(measured(evaluation.full.get(row.run_id, {}).get(column)))
    return table.table(columns, body)


def _column(column: Metric, task: str) -> Column:
    return Column(
        results.title(column, task),
        glossary.meaning(column[0]),
        low_first=column[0] in glossary.LOWER_IS_BETTER,
        parts=("low", "high"),
    )


def _tags(result_table: Table, row: results.Row, tags: Mapping[str, str] | None) -> str:
    if tags is not None:
        return f'<span class="tag">{escape(tags[row.run_id])}</span>' if row.run_id in tags else ""
    marks = '<span class="tag">baseline</span>' if row.is_baseline else ""
    return marks + (
        f'<span class="tag bad">loses to {escape(TASKS[result_table.task].baseline)}</span>'
        if row.loses
        else ""
    )


def measured(value: Value | None, *, best: Collection[str] = ()) -> Cell:
    """A number with its interval below it; bold where its run is in `best`: the best of the column,
    and those that cannot be told apart from it.
    """
    if value is None:
        return Cell("–", None)
    css = "best" if value.run_id in best else ""
    return Cell(
        results.number(value.metric, value.value),
        value.value,
        (results.interval(value),),
        (value.low, value.high),
        css,
    )


def bars(result_table: Table, column: Metric, css: Mapping[str, str]) -> str:
    marks = []
    for row in result_table.rows:
        value = row.values.get(column)
        if value is not None and value.value is not None:
            marks.append(
                Mark(
                    row.label,
                    css[row.label],
                    value.value,
                    value.low,
                    value.high,
                    results.number(column[0], value.value),
                    results.interval(value),
                )
            )
    return charts.bars(
        marks,
        from_zero=column[0] not in glossary.LOWER_IS_BETTER,
        label=results.title(column, result_table.task),
    )


def notes(evaluation: Evaluation, task: str) -> str:
    """Notes on the whole evaluation, then counts of irregular rows in each run's input."""
    lines = [escape(note) for note in evaluation.notes] + (
        [SAMPLED_NOTE] if task == SAMPLED.name else []
    )
    for step, counts in evaluation.found.items():
        odd = [
            f"{count:,} {worded(ODD.get(name, name), evaluation.query_kind)}"
            for name, count in counts.items()
            if count
        ]
        lines += [f"{escape(step)}: {escape('; '.join(odd))}."] if odd else []
    return (
        f'<ul class="notes">{"".join(f"<li>{note}</li>" for note in lines)}</ul>' if lines else ""
    )


def meanings(tables: Iterable[Table]) -> str:
    """The meaning of each metric of the tables."""
    metrics = dict.fromkeys(
        column[0]
        for result_table in tables
        for k in result_table.ks
        for column in result_table.columns(k)
    )
    pairs = [(glossary.title(metric), glossary.meaning(metric)) for metric in metrics]
    return shell.facts([*pairs, ("Interval", INTERVAL), ("Bold", BOLD)])


def legend(lines: Sequence[Series]) -> str:
    return (
        '<ul class="legend">'
        + "".join(
            f'<li class="{line.css}"><span class="key"></span>{escape(line.label)}</li>'
            for line in lines
        )
        + "</ul>"
    )


def activity(evaluation: Evaluation, result_table: Table, css: Mapping[str, str]) -> str:
    """A card with the main metric by number of training events of a user. Empty where that was not
    measured.
    """
    levels = slices(evaluation.values, result_table).get("activity", [])
    if len(levels) < 2:
        return ""
    lines = by_slice(evaluation.values, result_table, result_table.primary, levels, css)
    names = [slice_name(level, evaluation.activity_bounds) for level in levels]
    title = results.title(result_table.primary, result_table.task)
    drawn = charts.dodged(lines, names, label=f"{title} by user activity")
    return shell.card(legend(lines) + drawn, f"{escape(title)}, {escape(evaluation.rule)}")


def slices(values: Iterable[Value], result_table: Table) -> dict[str, list[str]]:
    """{kind of slice: names of its slices, in order}, of the runs of a table."""
    runs = {row.run_id for row in result_table.rows}
    names = {
        value.slice
        for value in values
        if value.run_id in runs and value.task == result_table.task and ":" in value.slice
    }
    kinds: dict[str, list[str]] = {}
    for name in sorted(names, key=_natural):
        kinds.setdefault(name.partition(":")[0], []).append(name)
    return kinds


def by_slice(
    values: Iterable[Value],
    result_table: Table,
    column: Metric,
    levels: Sequence[str],
    css: Mapping[str, str],
) -> list[Series]:
    """One line per run, one point per slice."""
    values_at = {
        (value.run_id, value.slice): value
        for value in values
        if value.task == result_table.task and value.column == column
    }
    lines = []
    for row in result_table.rows:
        row_values = [values_at.get((row.run_id, level)) for level in levels]
        points = [
            (float(place), value.value, value.low, value.high)
            if value
            else (float(place), None, None, None)
            for place, value in enumerate(row_values)
        ]
        lines.append(Series(row.label, css[row.label], tuple(points)))
    return lines


def slice_name(name: str, bounds: Sequence[float] = ()) -> str:
    """For a quartile of activity, its range of training events, such as `31 – 90`; for any other
    slice, the text after the kind of slice.
    """
    kind, _, level = name.partition(":")
    if kind == "item_popularity":
        return {"1": "1, least popular", "4": "4, most popular"}.get(level, level)
    if kind != "activity":
        return level
    if len(bounds) != 3 or not level.isdigit():
        return f"quartile {level}"
    place = int(level)
    low = int(bounds[place - 2]) + 1 if place > 1 else None
    high = int(bounds[place - 1]) if place < 4 else None
    if low is None:
        return f"up to {high:,} events"
    return f"more than {low - 1:,}" if high is None else f"{low:,} – {high:,}"


def _natural(name: str) -> tuple[str, float, str]:
    kind, _, level = name.partition(":")
    return kind, float(level) if level.replace(".", "", 1).isdigit() else float("inf"), level


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"
