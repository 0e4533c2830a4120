"""Pieces that the report of a pipeline and the comparison of runs share: tables of results, bars, slices, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from recsys_spark.report import charts, results, shell, table
from recsys_spark.report.charts import Mark, Series
from recsys_spark.report.content import Evaluation
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
    "rows_without_prediction": "rows without a finite prediction (charged as the mean of the training part)",
    "repeated_predictions": "repeated predictions (the least one counts)",
    "users_without_candidates": "users without candidates (they count as nothing found)",
    "targets_not_among_candidates": "events to find that are no candidates (nothing can find them)",
    "predictions_outside_range": "predictions outside the range of the training values (measured as they are)",
}
SAMPLED_NOTE = ("Sampled: every held-out event was ranked among a few drawn items, not in the whole catalogue. Such figures are far "
                "higher and may put models in another order; the full ranking of the same model stands beside them where it was measured.")
INTERVAL = ("95 %, by bootstrap over users (of coverage: jackknife). Intervals that overlap show neither that two models are equal nor "
            "that they differ")


def colours(tables: Iterable[Table], grey: Iterable[str]) -> dict[str, str]:
    """Label of a run -> colour class, the same in every table and chart. Labels in `grey` are the ones that others are held against."""
    found: dict[str, str] = {}
    plain = set(grey)
    for label in (row.label for made in tables for row in made.rows):
        own = sum(css != "base" for css in found.values())
        found.setdefault(label, "base" if label in plain else f"m{own % COLOURS}")
    return found


def heading(evaluation: Evaluation, task: str) -> str:
    """`Ranking: leave last out, test part, 6,040 users`, with a tag where candidates were sampled."""
    tag = '<span class="tag bad">sampled</span>' if task == results.SAMPLED else ""
    return escape(f"{results.TASKS[task]}: {evaluation.rule}, {evaluation.part} part, {evaluation.users:,} users") + tag


def result_tables(evaluation: Evaluation, made: Table, css: Mapping[str, str], tags: Mapping[str, str] | None = None) -> str:
    """The tables at the main cut-off, the others to be opened, and what must be known to read them. tags: run -> what it is here."""
    return by_cut_off({k: _results(evaluation, made, k, css, tags) for k in made.ks}) + notes(evaluation, made.task)


def by_cut_off(bodies: Mapping[int, str]) -> str:
    """The first one open, the others behind one line."""
    first, *others = bodies.items()
    if not others:
        return first[1]
    inside = "".join(f'<h4 class="cut-off">At {k}</h4>{body}' for k, body in others)
    return f'{first[1]}<details class="more"><summary>The same at {joined([str(k) for k, _ in others])}</summary>{inside}</details>'


def _results(evaluation: Evaluation, made: Table, k: int, css: Mapping[str, str], tags: Mapping[str, str] | None) -> str:
    """What judges, and apart from it what only describes."""
    shown = made.columns(k)
    judging = [column for column in shown if column[0] in results.JUDGED]
    telling = [column for column in shown if column[0] not in results.JUDGED]
    first = _result_table(evaluation, made, judging, css, tags) if judging else ""
    second = f"<h4>What the lists are like</h4>{_result_table(evaluation, made, telling, css, {})}" if telling else ""
    return first + second


def _result_table(evaluation: Evaluation, made: Table, shown: Sequence[Metric], css: Mapping[str, str],
                  tags: Mapping[str, str] | None) -> str:
    """Of sampled figures the main one has the full ranking of the same model to its right."""
    sampled = made.task == results.SAMPLED
    columns = [Column("Model", text=True)]
    body = [[Cell(row.label, row.label, css=css[row.label], mark=_tags(made, row, tags))] for row in made.rows]
    for column in shown:
        columns.append(_column(column, made.task))
        for cells, row in zip(body, made.rows, strict=True):
            cells.append(measured(row.values.get(column), best=made.best.get(column)))
        if sampled and column[0] == made.primary[0]:
            title = f"{results.title(column)}, full ranking"
            columns.append(Column(title, "the same model over the whole catalogue", parts=("low", "high")))
            for cells, row in zip(body, made.rows, strict=True):
                cells.append(measured(evaluation.full.get(row.run_id, {}).get(column)))
    return table.table(columns, body)


def _column(column: Metric, task: str) -> Column:
    return Column(results.title(column, task), results.MEANINGS.get(column[0], ""), low_first=column[0] in results.LOWER_IS_BETTER,
                  parts=("low", "high"))


def _tags(made: Table, row: results.Row, tags: Mapping[str, str] | None) -> str:
    if tags is not None:
        return f'<span class="tag">{escape(tags[row.run_id])}</span>' if row.run_id in tags else ""
    marks = '<span class="tag">baseline</span>' if row.is_baseline else ""
    return marks + (f'<span class="tag bad">loses to {escape(results.BASELINE.get(made.task, ""))}</span>' if row.loses else "")


def measured(value: Value | None, *, best: str | None = None) -> Cell:
    """A number with its interval below; bold where its run is the best of the column."""
    if value is None:
        return Cell("–", None)
    css = "best" if value.run_id == best else ""
    return Cell(results.number(value.metric, value.value), value.value, (results.interval(value),), (value.low, value.high), css)


def bars(made: Table, column: Metric, css: Mapping[str, str]) -> str:
    marks = []
    for row in made.rows:
        value = row.values.get(column)
        if value is not None and value.value is not None:
            marks.append(Mark(row.label, css[row.label], value.value, value.low, value.high, results.number(column[0], value.value),
                              results.interval(value)))
    return charts.bars(marks, from_zero=column[0] not in results.LOWER_IS_BETTER, label=results.title(column, made.task))


def notes(evaluation: Evaluation, task: str) -> str:
    """What is true of the whole evaluation, and what was odd in the runs' input."""
    told = [escape(note) for note in evaluation.notes] + ([SAMPLED_NOTE] if task == results.SAMPLED else [])
    for step, counts in evaluation.found.items():
        odd = [f"{count:,} {ODD.get(name, name)}" for name, count in counts.items() if count]
        told += [f"{escape(step)}: {escape('; '.join(odd))}."] if odd else []
    return f'<ul class="notes">{"".join(f"<li>{note}</li>" for note in told)}</ul>' if told else ""


def meanings(tables: Iterable[Table]) -> str:
    """What each metric of the tables says."""
    metrics = dict.fromkeys(column[0] for made in tables for k in made.ks for column in made.columns(k))
    told = [(results.TITLES.get(metric, metric), results.MEANINGS.get(metric, "")) for metric in metrics]
    return shell.facts([*told, ("Interval", INTERVAL)])


def legend(lines: Sequence[Series]) -> str:
    return ('<ul class="legend">'
            + "".join(f'<li class="{line.css}"><span class="key"></span>{escape(line.label)}</li>' for line in lines) + "</ul>")


def activity(evaluation: Evaluation, made: Table, css: Mapping[str, str]) -> str:
    """A card: the main metric by how many training events a user has. Empty where that was not measured."""
    levels = slices(evaluation.values, made).get("activity", [])
    if len(levels) < 2:
        return ""
    lines = by_slice(evaluation.values, made, made.primary, levels, css)
    names = [slice_name(level, evaluation.activity_bounds) for level in levels]
    title = results.title(made.primary, made.task)
    drawn = charts.dodged(lines, names, label=f"{title} by user activity")
    return shell.card(legend(lines) + drawn, f"{escape(title)}, {escape(evaluation.rule)}")


def slices(values: Iterable[Value], made: Table) -> dict[str, list[str]]:
    """{what users or items are divided by: its slices} of the runs of a table, in order."""
    runs = {row.run_id for row in made.rows}
    found = {value.slice for value in values if value.run_id in runs and value.task == made.task and ":" in value.slice}
    kinds: dict[str, list[str]] = {}
    for name in sorted(found, key=_natural):
        kinds.setdefault(name.partition(":")[0], []).append(name)
    return kinds


def by_slice(values: Iterable[Value], made: Table, column: Metric, levels: Sequence[str], css: Mapping[str, str]) -> list[Series]:
    """A line a run, a point a slice."""
    there = {(value.run_id, value.slice): value for value in values if value.task == made.task and value.column == column}
    lines = []
    for row in made.rows:
        found = [there.get((row.run_id, level)) for level in levels]
        points = [(float(place), value.value, value.low, value.high) if value else (float(place), None, None, None)
                  for place, value in enumerate(found)]
        lines.append(Series(row.label, css[row.label], tuple(points)))
    return lines


def slice_name(name: str, bounds: Sequence[float] = ()) -> str:
    """`31 – 90`: the training events that a quartile of activity spans; of others what stands after the kind of slice."""
    kind, _, level = name.partition(":")
    if kind == "item_popularity":
        return {"1": "1, least popular", "4": "4, most popular"}.get(level, level)
    if kind != "activity":
        return level
    if len(bounds) != 3 or not level.isdigit():
        return f"quartile {level}"
    place = int(level)
    low, high = (int(bounds[place - 2]) + 1 if place > 1 else None), (int(bounds[place - 1]) if place < 4 else None)
    if low is None:
        return f"up to {high:,} events"
    return f"more than {low - 1:,}" if high is None else f"{low:,} – {high:,}"


def _natural(name: str) -> tuple[str, float, str]:
    kind, _, level = name.partition(":")
    return kind, float(level) if level.replace(".", "", 1).isdigit() else float("inf"), level


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"
