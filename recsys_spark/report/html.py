"""A `Page` of plain data -> one self-contained HTML document: no network, no fonts, everything from the data escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from recsys_spark.report import charts, results
from recsys_spark.report.charts import Mark, Series
from recsys_spark.report.content import Evaluation, Example, Item, Page, Training
from recsys_spark.report.results import Table, Value

TEMPLATE = Path(__file__).with_name("page.html")
COLOURS = 8  # classes m0 .. m7 of the page
ODD = {
    "users_without_list": "users without a list (they count as nothing found)",
    "lists_shorter_than_k": "lists shorter than the largest cut-off",
    "repeated_items": "places taken by an item that stood higher in the same list",
    "unknown_items": "places taken by an item that the data do not hold",
    "nan_scores": "places with a score that is not a number",
    "lists_without_target": "lists of users with nothing to find (left out)",
    "rows_without_prediction": "rows without a finite prediction (charged as the mean of the training part)",
    "repeated_predictions": "repeated predictions (the least one counts)",
}


def render(page: Page) -> str:
    """The whole document."""
    colours = _colours(page)
    tables = [(evaluation, results.table(evaluation.values, task))
              for evaluation in page.evaluations for task in dict.fromkeys(value.task for value in evaluation.values)]
    sections = [
        ("results", "Results", "".join(_results(evaluation, table, colours) for evaluation, table in tables)),
        ("activity", "By user activity", _activities(tables, colours)),
        ("training", "Training", _trainings(page.trainings, colours)),
        ("examples", "Example users", _examples(page.examples, colours)),
        ("method", "How to read this", _method(page, [table for _, table in tables])),
    ]
    sections = [section for section in sections if section[2]]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(page.title), data=escape(page.data),
        findings="".join(_finding(evaluation, table) for evaluation, table in tables if table.rows),
        nav="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        sections="\n".join(f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, title, body in sections),
        footer=escape(f"{len(page.steps)} steps, {sum(seconds for _, _, seconds in page.steps):,.0f} s of work.") if page.steps else "",
    )


def _colours(page: Page) -> dict[str, str]:
    """Label of a run, and name of a model -> colour class: the same in every table and chart."""
    colours: dict[str, str] = {}
    for evaluation in page.evaluations:
        names = results.labels(evaluation.values)
        for value in evaluation.values:
            label = names[value.run_id]
            if label not in colours:
                own = sum(css != "base" for css in colours.values())
                colours[label] = "base" if value.model in results.BASELINE.values() else f"m{own % COLOURS}"
    for training in page.trainings:
        colours.setdefault(training.model, f"m{sum(css != 'base' for css in colours.values()) % COLOURS}")
    return colours


def _finding(evaluation: Evaluation, table: Table) -> str:
    """The headline of one table: who is best, by how much, and whether that is certain."""
    best, column = table.rows[0], table.primary
    value = best.values.get(column)
    if value is None or value.value is None:
        return ""
    says = [f"<b>{escape(best.label)}</b> {'ranks best' if table.task == 'ranking' else 'predicts ratings best'}"
            if len(table.rows) > 1 else f"<b>{escape(best.label)}</b> alone"]
    bar = table.baseline.values.get(column) if table.baseline else None
    if bar is not None and bar.value and bar.run_id != best.run_id:
        says[0] += (f", {value.value / bar.value:.1f} times {escape(bar.model)}" if table.task == "ranking"
                    else f", {bar.value - value.value:.4f} below {escape(bar.model)}")
    rivals = [row.label for row in table.rows[1:] if _overlap(value, row.values.get(column))]
    if rivals:
        says.append(f"Its interval overlaps with that of {escape(_and(rivals))}.")
    return (f'<div class="finding"><p class="of">{results.title(column)}, {escape(evaluation.rule)}</p>'
            f'<p class="big">{results.number(column[0], value.value)}<span>95 % interval {results.interval(value)}</span></p>'
            f'<p class="says">{says[0]}. {" ".join(says[1:])}</p></div>')


def _overlap(one: Value, other: Value | None) -> bool:
    if other is None or None in (one.low, one.high, other.low, other.high):
        return False
    return one.low <= other.high and other.low <= one.high  # type: ignore[operator]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _results(evaluation: Evaluation, table: Table, colours: dict[str, str]) -> str:
    what = "Ranking" if table.task == "ranking" else "Ratings"
    head = (f'<div class="card"><h3>{what}: {escape(evaluation.rule)}, {escape(evaluation.part)} part, {evaluation.users:,} users</h3>')
    charts_of = [column for column in (table.primary, ("recall", table.ks[0]), ("mae", 0)) if column in table.columns(column[1])]
    drawn = "".join(f'<div><h4>{results.title(column)}</h4>{_bars(table, column, colours)}</div>' for column in charts_of)
    tables = [_table(table, k, colours) for k in table.ks]
    rest = "".join(f'<details class="more"><summary>The same at {k}</summary>{body}</details>'
                   for k, body in zip(table.ks[1:], tables[1:], strict=True))
    notes = [escape(note) for note in evaluation.notes]
    odd = {step: {name: count for name, count in counts.items() if count} for step, counts in evaluation.found.items()}
    notes += [f"{escape(step)}: {escape('; '.join(f'{count:,} {ODD.get(name, name)}' for name, count in counts.items()))}."
              for step, counts in odd.items() if counts]
    listed = f'<ul class="notes">{"".join(f"<li>{note}</li>" for note in notes)}</ul>' if notes else ""
    return f'{head}{tables[0]}{rest}{listed}</div><div class="card"><div class="pair">{drawn}</div></div>'


def _table(table: Table, k: int, colours: dict[str, str]) -> str:
    columns = table.columns(k)
    head = '<th class="text" data-first="up"><button type="button">Model</button></th>'
    for column in columns:
        first = ' data-first="up"' if column[0] in results.LOWER_IS_BETTER else ""
        tip = escape(results.MEANINGS.get(column[0], ""))
        head += f'<th{first} title="{tip}"><button type="button">{escape(results.title(column))}</button></th>'
    body = ""
    for row in table.rows:
        tag = '<span class="tag">baseline</span>' if row.is_baseline else ""
        tag += f'<span class="tag bad">loses to {results.BASELINE[table.task]}</span>' if row.loses else ""
        cells = "".join(_cell(row.values.get(column), table.best.get(column)) for column in columns)
        body += (f'<tr><th class="text {colours[row.label]}" scope="row" data-v="{escape(row.label)}"><span class="key"></span>'
                 f"{escape(row.label)}{tag}</th>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Value | None, best: str | None) -> str:
    if value is None:
        return '<td data-v="">–</td>'
    css = ' class="best"' if value.run_id == best else ""
    plain = "" if value.value is None else repr(value.value)
    return f'<td{css} data-v="{plain}">{results.number(value.metric, value.value)}<small>{results.interval(value)}</small></td>'


def _bars(table: Table, column: tuple[str, int], colours: dict[str, str]) -> str:
    marks = []
    for row in table.rows:
        value = row.values.get(column)
        if value is not None and value.value is not None:
            marks.append(Mark(row.label, colours[row.label], value.value, value.low, value.high, results.number(column[0], value.value),
                              results.interval(value)))
    return charts.bars(marks, from_zero=column[0] not in results.LOWER_IS_BETTER, label=results.title(column))


def _activities(tables: Sequence[tuple[Evaluation, Table]], colours: dict[str, str]) -> str:
    cards = "".join(_activity(evaluation, table, colours) for evaluation, table in tables)
    about = "Users in quartiles by their number of training events; whiskers are 95 % intervals."
    return f'<p class="about">{about}</p><div class="halves">{cards}</div>' if cards else ""


def _activity(evaluation: Evaluation, table: Table, colours: dict[str, str]) -> str:
    levels = sorted({value.slice for value in evaluation.values if value.slice.startswith("activity:")})
    if len(levels) < 2:
        return ""
    metric, k = table.primary
    there = {(value.run_id, value.slice): value for value in evaluation.values if (value.metric, value.k) == (metric, k)}
    series = []
    for row in table.rows:
        points = []
        for place, level in enumerate(levels):
            value = there.get((row.run_id, level))
            points.append((float(place), value.value, value.low, value.high) if value else (float(place), None, None, None))
        series.append(Series(row.label, colours[row.label], tuple(points)))
    names = [_level(int(level.partition(":")[2]), evaluation.activity_bounds) for level in levels]
    legend = "".join(f'<li class="{line.css}"><span class="key"></span>{escape(line.label)}</li>' for line in series)
    title = results.title(table.primary)
    return (f'<div class="card"><h3>{title}, {escape(evaluation.rule)}</h3><ul class="legend">{legend}</ul>'
            f'{charts.dodged(series, names, label=f"{title} by user activity")}</div>')


def _level(level: int, bounds: Sequence[float]) -> str:
    """`1 – 30 events`: the activity that a quartile spans."""
    if len(bounds) != 3:
        return f"quartile {level}"
    low = int(bounds[level - 2]) + 1 if level > 1 else None
    high = int(bounds[level - 1]) if level < 4 else None
    if low is None:
        return f"up to {high:,} events"
    return f"more than {low - 1:,}" if high is None else f"{low:,} – {high:,}"


def _trainings(trainings: Sequence[Training], colours: dict[str, str]) -> str:
    cards = ""
    for training in trainings:
        if not training.epochs:
            continue
        css = colours[training.model]
        measured = [epoch.get(training.monitor) for epoch in training.epochs]
        there = [(value, place) for place, value in enumerate(measured) if value is not None]
        best = (min if training.lower_is_better else max)(there)[1] if there else None
        fact = f"best at epoch {best + 1} of {len(measured)}" if best is not None else f"{len(measured)} epochs"
        facts = "; ".join([fact, *training.facts])
        losses = [name for name in training.epochs[0] if name.startswith("train_")]
        metric, _, k = training.monitor.partition("@")
        title = f"validation {results.title((metric, int(k or 0)))}"
        drawn = f"<h4>{escape(title)}</h4>{charts.curve(measured, css, best=best, label=title)}"
        for name in losses:
            values = [epoch.get(name) for epoch in training.epochs]
            drawn += f"<h4>training {escape(name.removeprefix('train_'))}</h4>{charts.curve(values, css, label=escape(name))}"
        cards += (f'<div class="card"><h3 class="{css}"><span class="key"></span>{escape(training.name)}</h3>'
                  f'<p class="fact">{escape(facts)}</p>{drawn}</div>')
    about = '<p class="about">One point an epoch; the ring marks the epoch that was kept, chosen on the validation part.</p>'
    return f'{about}<div class="curves">{cards}</div>' if cards else ""


def _examples(examples: Sequence[Example], colours: dict[str, str]) -> str:
    if not examples:
        return ""
    about = "Drawn at random, not chosen for their looks. Green: the event that was held out, and every list that found it."
    opened = next((example for example in examples if _finders(example)), examples[0])
    users = [_example(example, colours, opened=example is opened) for example in examples]
    return f'<p class="about">{about}</p>{"".join(users)}'


def _finders(example: Example) -> list[str]:
    """Labels of the runs whose list holds a held-out item."""
    wanted = {item.item_id for item in example.held_out}
    return [label for label, items in example.lists.items() if wanted & {item.item_id for item in items}]


def _example(example: Example, colours: dict[str, str], *, opened: bool) -> str:
    wanted = {item.item_id for item in example.held_out}
    found = _finders(example)
    liked = "".join(f'<li class="rated"><span>{_item(item)}</span><em>{"" if item.value is None else f"{item.value:g}"}</em></li>'
                    for item in example.liked)
    held = "".join(f'<li class="hit">{_item(item)}</li>' for item in example.held_out)
    lists = "".join(
        f'<div><h4 class="{colours.get(label, "base")}"><span class="key"></span>{escape(label)}</h4><ol>'
        + "".join(f'<li{" class=hit" if item.item_id in wanted else ""}>{_item(item)}</li>' for item in items)
        + ("" if items else "<li><small>no list</small></li>") + "</ol></div>"
        for label, items in example.lists.items())
    verdict = f"held-out item found by {_and(found)}" if found else "held-out item found by none"
    return (f'<details class="user"{" open" if opened else ""}><summary><b>User {escape(example.user_id)}</b>'
            f'<span>{example.events:,} training events</span><span>{escape(verdict)}</span></summary><div class="inside">'
            f'<div><h4>Held out</h4><ul class="wanted">{held}</ul><h4>Liked best</h4><ul>{liked}</ul></div>'
            f'<div class="lists">{lists}</div></div></details>')


def _item(item: Item) -> str:
    genres = f'<small>{escape(", ".join(item.genres))}</small>' if item.genres else ""
    return escape(item.title or item.item_id) + genres


def _method(page: Page, tables: Sequence[Table]) -> str:
    metrics = dict.fromkeys(column[0] for table in tables for k in table.ks for column in table.columns(k))
    meanings = "".join(f"<dt>{escape(results.TITLES.get(metric, metric))}</dt><dd>{escape(results.MEANINGS.get(metric, ''))}</dd>"
                       for metric in metrics)
    meanings += ("<dt>Interval</dt><dd>95 %, by bootstrap over users (of coverage: jackknife). Intervals that overlap show neither that "
                 "two models are equal nor that they differ</dd>")
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts)
    rows = "".join(f'<tr><td class="text">{escape(run)}</td><td class="text">{escape(stage)}</td><td>{seconds:,.1f}</td></tr>'
                   for run, stage, seconds in page.steps)
    steps = ('<div class="card"><h3>Runs</h3><div class="scroll"><table><thead><tr><th class="text">Run</th><th class="text">Stage</th>'
             f"<th>Seconds</th></tr></thead><tbody>{rows}</tbody></table></div></div>") if rows else ""
    return (f'<div class="card"><h3>Metrics</h3><dl>{meanings}</dl></div><div class="card"><h3>Where these numbers come from</h3>'
            f"<dl>{facts}</dl></div>{steps}")
