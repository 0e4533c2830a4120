"""Example users: held-out items, items liked in training, and the list of every run with hits
marked.

With a reference list, every item of another list is marked as new or with how far it moved, and the
items that are missing from that list follow below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recsys_spark.report.content import Example, Item
from recsys_spark.report.sections import joined


def examples(
    shown: Sequence[Example],
    css: Mapping[str, str],
    *,
    opened: Example | None = None,
    reference: str = "",
) -> str:
    """css: {label of a run: colour class}. reference: label of the run whose list the others are
    compared with; empty: none.
    """
    return "".join(
        _example(example, css, is_open=example is opened, reference=reference) for example in shown
    )


def finders(example: Example) -> list[str]:
    """Labels of the runs whose list holds a held-out item."""
    held_out = {item.item_id for item in example.held_out}
    return [
        label
        for label, items in example.lists.items()
        if held_out & {item.item_id for item in items}
    ]


def _value(item: Item) -> str:
    return "" if item.value is None else f"{item.value:g}"


def _example(example: Example, css: Mapping[str, str], *, is_open: bool, reference: str) -> str:
    held_ids = {item.item_id for item in example.held_out}
    found_by = finders(example)
    liked = "".join(
        f'<li class="rated"><span>{_item(item)}</span><em>{_value(item)}</em></li>'
        for item in example.liked
    )
    held = "".join(f'<li class="hit">{_item(item)}</li>' for item in example.held_out)
    against = example.lists.get(reference)
    lists = "".join(
        f'<div><h4 class="{css.get(label, "base")}"><span class="key"></span>{escape(label)}</h4>'
        f"{_list(items, held_ids, None if label == reference else against)}</div>"
        for label, items in example.lists.items()
    )
    verdict = (
        f"held-out item found by {joined(found_by)}" if found_by else "held-out item found by none"
    )
    return (
        f'<details class="user"{" open" if is_open else ""}><summary><b>'
        f"{example.query_kind.capitalize()} "
        f"{escape(example.query_id)}</b><span>{example.events:,} training "
        f'events</span><span>{escape(verdict)}</span></summary><div class="inside">'
        "<div><h4>Held out</h4><ul "
        f'class="wanted">{held}</ul><h4>Liked '
        f"best</h4><ul>{liked}</ul></div>"
        f'<div class="lists">{lists}</div></div></details>'
    )


def _list(items: Sequence[Item], held_ids: set[str], against: Sequence[Item] | None) -> str:
    if not items:
        return "<ol><li><small>no list</small></li></ol>"
    before = (
        None if against is None else {item.item_id: place for place, item in enumerate(against)}
    )
    lines = "".join(
        f"<li{' class=hit' if item.item_id in held_ids else ''}>"
        f"{_move(item, place, before)}{_item(item)}</li>"
        for place, item in enumerate(items)
    )
    listed = {item.item_id for item in items}
    gone = [item for item in against or () if item.item_id not in listed]
    marked = [
        f"<b>{escape(item.title or item.item_id)}</b>"
        if item.item_id in held_ids
        else escape(item.title or item.item_id)
        for item in gone
    ]
    return f"<ol>{lines}</ol>" + (
        f'<p class="gone"><span>gone</span> {"; ".join(marked)}</p>' if gone else ""
    )


def _move(item: Item, place: int, before: Mapping[str, int] | None) -> str:
    """Tag of an item: `new`, or how many places it moved. before: {item_id: reference place}."""
    if before is None:
        return ""
    if item.item_id not in before:
        return '<em class="new">new</em>'
    rise = before[item.item_id] - place
    return f'<em class="move">{f"↑{rise}" if rise > 0 else f"↓{-rise}" if rise else "="}</em>'


def _item(item: Item) -> str:
    genres = f"<small>{escape(', '.join(item.genres))}</small>" if item.genres else ""
    return escape(item.title or item.item_id) + genres
