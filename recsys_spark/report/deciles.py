"""Groups of items by popularity, and the share of a model's recommendations in each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys_spark.report.content import Counted

TRAINING, HELD_OUT = "training events", "held-out events"


@dataclass(frozen=True)
class Group:
    """A group of items. items: their number, fractional because equally popular items may be split
    between two groups in proportion; low, high: fewest and most training events of an item.
    """

    items: float
    low: int
    high: int
    # {TRAINING, HELD_OUT or a run_id: share of its events or places, 0..1}
    shares: dict[str, float]


def groups(
    counted: Sequence[Counted], by: Literal["items", "events"], count: int = 10
) -> list[Group]:
    """`count` groups, the most popular first, each with the same number of items or of training
    events. Items without a training event are in no group.

    Items with equally many events are not told apart: a group that ends among them takes a
    proportional part of all of them.
    """
    ordered = sorted(
        (entry for entry in counted if entry.events > 0), key=lambda entry: -entry.events
    )
    sizes = [entry.items if by == "items" else entry.items * entry.events for entry in ordered]
    totals = _totals(counted)
    group_size, finished = sum(sizes) / count, []
    members: list[tuple[Counted, float]] = []  # (entry, fraction of it that is in the group)
    room = group_size
    for entry, size in zip(ordered, sizes, strict=True):
        left = float(size)
        while left > 1e-9 * group_size:
            taken = min(left, room)
            members.append((entry, taken / size))
            left, room = left - taken, room - taken
            if room <= 1e-9 * group_size:
                finished.append(_group(members, totals))
                members, room = [], group_size
    if members and len(finished) < count:  # rounding left the last one a hair too small
        finished.append(_group(members, totals))
    return finished


def unseen(counted: Sequence[Counted]) -> dict[str, float]:
    """{run_id: share of its places that hold an item without a training event}; runs whose share
    is 0 are left out.
    """
    totals = _totals(counted)
    shares: dict[str, float] = {}
    for entry in counted:
        if entry.events == 0:
            for run_id, places in entry.listed.items():
                shares[run_id] = shares.get(run_id, 0.0) + places / totals[run_id]
    return {run_id: share for run_id, share in shares.items() if share > 0}


def _totals(counted: Sequence[Counted]) -> dict[str, int]:
    totals = {
        TRAINING: sum(entry.events * entry.items for entry in counted),
        HELD_OUT: sum(entry.held_out for entry in counted),
    }
    for entry in counted:
        for run_id, places in entry.listed.items():
            totals[run_id] = totals.get(run_id, 0) + places
    return totals


def _group(members: Sequence[tuple[Counted, float]], totals: dict[str, int]) -> Group:
    sums = dict.fromkeys(totals, 0.0)
    for entry, part in members:
        for name, number in {
            TRAINING: entry.events * entry.items,
            HELD_OUT: entry.held_out,
            **entry.listed,
        }.items():
            sums[name] += part * number
    shares = {name: value / totals[name] if totals[name] else 0.0 for name, value in sums.items()}
    return Group(
        sum(part * entry.items for entry, part in members),
        members[-1][0].events,
        members[0][0].events,
        shares,
    )
