"""Subsets of users and items that are measured separately. A slice is named `<family>:<value>`.

Users: activity:1..4 (quartiles of their training events), users:new and users:known,
    user.<field>:<value>.
Items: see `metrics.catalogue`. A field has at most 20 slices, its most frequent values; the others
    are together in `other`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALL, OTHER, NONE = "all", "other", "none"
TOP = 20


@dataclass(frozen=True)
class Users:
    """Slices of users. bounds: quartiles of their events; fields: {name: values with a slice of
    their own}.
    """

    bounds: tuple[float, ...]
    tell_new: bool  # whether there are both users without and users with training events
    fields: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Family:
    """Disjoint slices that cover all users. codes (B,): the slice of each user."""

    labels: tuple[str, ...]
    codes: NDArray[np.int64]


def most_frequent(counts: Mapping[str, int], most: int = TOP) -> tuple[str, ...]:
    """Values that occur, the most frequent first, ties by name."""
    present = [value for value, count in counts.items() if count > 0]
    return tuple(sorted(present, key=lambda value: (-counts[value], value))[:most])


def families(
    users: Users, events: NDArray[np.integer], fields: Mapping[str, Sequence[str | None]]
) -> list[Family]:
    """Families of slices. events (B,): training events of users; fields: {field: values (B,)}."""
    # Number of bounds exceeded
    levels = np.searchsorted(np.asarray(users.bounds), events, side="left").astype(np.int64)
    result = [
        Family(tuple(f"activity:{level + 1}" for level in range(len(users.bounds) + 1)), levels)
    ]
    if users.tell_new:
        result.append(
            Family(("users:new", "users:known"), (np.asarray(events) > 0).astype(np.int64))
        )
    for name, kept in users.fields.items():
        code = {value: number for number, value in enumerate(kept)}
        codes = np.array([code.get(value or NONE, len(kept)) for value in fields[name]], np.int64)
        result.append(
            Family((*(f"user.{name}:{value}" for value in kept), f"user.{name}:{OTHER}"), codes)
        )
    return result
