"""Items in groups by popularity, and what share of a model's recommendations falls on each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys_spark.report.content import Counted

TRAINING, HELD_OUT = "training events", "held-out events"


@dataclass(frozen=True)
class Group:
    """items: how many (items that are equally popular are dealt in proportion, so this is no whole number); low..high: their events."""

    items: float
    low: int
    high: int
    shares: dict[str, float]  # TRAINING, HELD_OUT or a run_id -> share of its events or places; 0..1


def groups(counted: Sequence[Counted], by: Literal["items", "events"], count: int = 10) -> list[Group]:
    """The most popular first; each has the same number of items, or of training events. Items without a training event are in none.

    Items with equally many events are alike here: a group that ends among them takes the part that fits of all that they have.
    """
    known = sorted((one for one in counted if one.events > 0), key=lambda one: -one.events)
    sizes = [one.items if by == "items" else one.items * one.events for one in known]
    totals = _totals(counted)
    each, made = sum(sizes) / count, []
    members: list[tuple[Counted, float]] = []  # with the part of them that falls into the group
    room = each
    for one, size in zip(known, sizes, strict=True):
        left = float(size)
        while left > 1e-9 * each:
            taken = min(left, room)
            members.append((one, taken / size))
            left, room = left - taken, room - taken
            if room <= 1e-9 * each:
                made.append(_group(members, totals))
                members, room = [], each
    if members and len(made) < count:  # rounding left the last one a hair too small
        made.append(_group(members, totals))
    return made


def unseen(counted: Sequence[Counted]) -> dict[str, float]:
    """{run_id: share of its places that hold an item without a training event}, where there is one."""
    totals = _totals(counted)
    found: dict[str, float] = {}
    for one in counted:
        if one.events == 0:
            for run_id, places in one.listed.items():
                found[run_id] = found.get(run_id, 0.0) + places / totals[run_id]
    return {run_id: share for run_id, share in found.items() if share > 0}


def _totals(counted: Sequence[Counted]) -> dict[str, int]:
    totals = {TRAINING: sum(one.events * one.items for one in counted), HELD_OUT: sum(one.held_out for one in counted)}
    for one in counted:
        for run_id, places in one.listed.items():
            totals[run_id] = totals.get(run_id, 0) + places
    return totals


def _group(members: Sequence[tuple[Counted, float]], totals: dict[str, int]) -> Group:
    sums = dict.fromkeys(totals, 0.0)
    for one, part in members:
        for name, number in {TRAINING: one.events * one.items, HELD_OUT: one.held_out, **one.listed}.items():
            sums[name] += part * number
    shares = {name: value / totals[name] if totals[name] else 0.0 for name, value in sums.items()}
    return Group(sum(part * one.items for one, part in members), members[-1][0].events, members[0][0].events, shares)
