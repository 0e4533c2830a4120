"""Sections on the lists of the compared runs: popularity of their items, changes for users, example
users.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from recsys_spark.report import charts, deciles, lines, sections, shell, table, users
from recsys_spark.report.content import Lists
from recsys_spark.report.deciles import HELD_OUT, TRAINING, Group
from recsys_spark.report.kinds import worded
from recsys_spark.report.shell import Section
from recsys_spark.report.table import Cell, Column


def section(lists: Lists, css: Mapping[str, str]) -> list[Section]:
    """Popularity, changes and example users."""
    return [
        ("popularity", "Popularity", _popularity(lists, css)),
        ("changes", "What changes", _changes(lists, css)),
        ("examples", worded("Example users", lists.query_kind), _examples(lists, css)),
    ]


def _popularity(lists: Lists, css: Mapping[str, str]) -> str:
    by_events = deciles.groups(lists.popularity, "events")
    by_items = deciles.groups(lists.popularity, "items")
    if not by_events:
        return ""
    about = (
        "Items from the most popular to the least, by their training events, against the "
        f"share of all places (the first {lists.k} of "
        "every list) that falls on them. Where a line is above that of the training events, "
        "a run shows these items more than they were chosen."
    )
    cards = "".join(
        (
            _shares(
                lists,
                css,
                by_events,
                "Ten groups of equally many training events",
                "a tenth of the training events each, so few items "
                "in the first group and many in the last",
            ),
            _shares(
                lists,
                css,
                by_items,
                "Ten groups of equally many items",
                "a tenth of the items each",
            ),
        )
    )
    unseen_notes = [
        (
            f"{lists.labels[run]}: {100 * share:.1f} % of its places hold items without a "
            "training event, which are in no group."
        )
        for run, share in deciles.unseen(lists.popularity).items()
    ]
    notes = (
        f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in unseen_notes)}</ul>'
        if unseen_notes
        else ""
    )
    return f'<p class="about">{escape(about)}</p><div class="halves">{cards}</div>{notes}'


def _shares(
    lists: Lists, css: Mapping[str, str], groups: list[Group], title: str, about: str
) -> str:
    named = {TRAINING: TRAINING, HELD_OUT: HELD_OUT, **lists.labels}
    colour = {
        TRAINING: "of-training",
        HELD_OUT: "of-held-out",
        **{run: css[label] for run, label in lists.labels.items()},
    }
    drawn = [
        charts.Series(
            label,
            colour[name],
            tuple(
                (float(place), group.shares.get(name, 0.0), None, None)
                for place, group in enumerate(groups)
            ),
        )
        for name, label in named.items()
    ]
    columns = [
        Column("Group", "1: the most popular items", low_first=True),
        Column("Items"),
        Column(
            "Events an item", "training events of the least and the most popular item of the group"
        ),
        *(Column(f"{label}, %") for label in named.values()),
    ]
    rows = [
        [
            Cell(str(place), place),
            Cell(_round(group.items), group.items),
            Cell(
                f"{group.low:,}–{group.high:,}" if group.low < group.high else f"{group.high:,}",
                group.high,
            ),
            *(
                Cell(f"{100 * group.shares.get(name, 0.0):.1f}", 100 * group.shares.get(name, 0.0))
                for name in named
            ),
        ]
        for place, group in enumerate(groups, 1)
    ]
    chart = lines.lines(
        drawn, [str(place) for place in range(1, len(groups) + 1)], label=title, percent=True
    )
    ends = '<p class="ends wide"><span>most popular</span><span>least popular</span></p>'
    return shell.card(
        f'<p class="fact">{escape(about)}</p>{sections.legend(drawn)}{chart}{ends}<details '
        'class="more"><summary>As '
        f"a table</summary>{table.table(columns, rows)}</details>",
        escape(title),
    )


def _round(items: float) -> str:
    return f"{items:,.0f}" if items >= 10 or items == round(items) else f"{items:.1f}"


def _changes(lists: Lists, css: Mapping[str, str]) -> str:
    if not lists.changes:
        return ""
    reference, kind = lists.labels[lists.reference], lists.query_kind
    columns = [
        Column("Run", text=True),
        Column("Gained", worded("users with a hit here and none in the reference's list", kind)),
        Column("Lost", worded("users with a hit in the reference's list and none here", kind)),
        Column("Hit by both"),
        Column("Hit by neither"),
        Column("Items in common", "items of a list that are also in the reference's, on average"),
    ]
    rows = []
    for change in lists.changes:
        label = lists.labels[change.run_id]
        counts = [change.gained, change.lost, change.both, change.neither]
        rows.append(
            [
                Cell(label, label, css=css[label]),
                *(Cell(f"{count:,}", count) for count in counts),
                Cell(f"{change.shared:.1f} of {lists.k}", change.shared),
            ]
        )
    about = (
        worded("Users with a held-out event", kind)
        + f" among the first {lists.k} places, and how much of their list stays, against "
        f"{reference}."
    )
    return f'<p class="about">{escape(about)}</p>' + shell.card(
        table.table(columns, rows), f"Against {escape(reference)}"
    )


def _examples(lists: Lists, css: Mapping[str, str]) -> str:
    if not lists.drawn and not lists.differing:
        return ""
    reference = lists.labels[lists.reference]
    about = (
        "Green: the event that was held out, and every list that found it. Against the list "
        f"of {reference}: new items, how many places the others moved, and what is gone."
    )
    body = f'<p class="about">{escape(about)}</p>'
    opened = (*lists.differing, *lists.drawn)[0]
    for title, shown in (
        ("Drawn at random among users for whom one run hits and another does not", lists.differing),
        ("Drawn at random among all users", lists.drawn),
    ):
        if shown:
            examples = users.examples(shown, css, opened=opened, reference=reference)
            title = worded(title, lists.query_kind)
            body += f'<h3 class="apart">{title}</h3>{examples}'
    return body
