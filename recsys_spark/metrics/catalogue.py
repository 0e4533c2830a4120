"""What the metrics need to know of the items: training events, order by popularity, fields. One array entry an item, 0 is padding.

Shapes: I items, S slices of items, V values of fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import slices

QUARTERS = 4
MOST_VALUES = 256  # field values that tell lists apart in `diversity`: the most frequent


@dataclass(frozen=True)
class Catalogue:
    """Items 1..I. An item is cold when it has no training event; the catalogue that coverage speaks of are the others."""

    events: NDArray[np.int64]  # (I + 1,) training events
    labels: tuple[str, ...]  # names of the slices, S
    members: NDArray[np.bool_]  # (S, I + 1): is the item in the slice?
    vectors: NDArray[np.float64] | None  # (I + 1, V) of length 1, or 0 for an item without a value; None: no fields

    @classmethod
    def of(cls, events: NDArray[np.integer], fields: Mapping[str, Sequence[str | None]], asked: NDArray[np.integer]) -> Catalogue:
        """fields: {name: the value of every item 0..I, several joined by "|"}; asked (I + 1,): evaluated events of the item.

        Slices are item_popularity:1..4, items:new and items:known where both are asked for, and item.<field>:<value>.
        """
        counts: NDArray[np.int64] = np.asarray(events, np.int64)
        assert counts[0] == 0, "index 0 is padding"
        labels: list[str] = []
        members: list[NDArray[np.bool_]] = []
        quarter = _quarters(counts)
        for level in range(1, QUARTERS + 1):
            labels.append(f"item_popularity:{level}")
            members.append(quarter == level)
        cold = counts == 0
        if asked[cold].any() and asked[~cold].any():
            labels += ["items:new", "items:known"]
            members += [cold, ~cold]
        values: Counter[str] = Counter()
        sets: list[list[str]] = [[] for _ in counts]
        for name, column in fields.items():
            split = [tuple(dict.fromkeys(filter(None, (value or "").split("|")))) for value in column]
            wanted: Counter[str] = Counter()
            for item, found in enumerate(split):
                wanted.update({value: int(asked[item]) for value in found or (slices.NONE,)})
                sets[item] += [f"{name}:{value}" for value in found]
            kept = slices.most_frequent(wanted)
            for value in kept:
                labels.append(f"item.{name}:{value}")
                members.append(np.array([value in (found or (slices.NONE,)) for found in split]))
            if len(wanted) > len(kept):
                labels.append(f"item.{name}:{slices.OTHER}")
                members.append(np.array([any(value not in kept for value in found or (slices.NONE,)) for found in split]))
        for of_item in sets:
            values.update(of_item)
        made = np.array(members)
        made[:, 0] = False
        return cls(counts, tuple(labels), made, _vectors(sets, slices.most_frequent(values, MOST_VALUES)) if fields else None)

    @cached_property
    def size(self) -> int:
        """Items with a training event."""
        return int(np.count_nonzero(self.events))

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """(I + 1,): 1 for the item with most training events, and so on; ties by number. 0 for padding."""
        made = np.zeros(len(self.events), np.int64)
        made[1 + np.argsort(-self.events[1:], kind="stable")] = np.arange(1, len(self.events))
        return made

    @cached_property
    def information(self) -> NDArray[np.float64]:
        """(I + 1,): -log2 of the item's share of the training events; an item without any counts as one with a single event."""
        return np.log2(max(1, int(self.events.sum()))) - np.log2(np.maximum(self.events, 1))


def _quarters(events: NDArray[np.int64]) -> NDArray[np.int64]:
    """(I + 1,): each of 1..4 holds a quarter of the training events, 4 the most popular items; 0 without an event."""
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    made = np.empty(len(events), np.int64)
    made[order] = QUARTERS - QUARTERS * before // max(1, int(events.sum()))
    return np.where(events > 0, made, 0)


def _vectors(sets: list[list[str]], values: Sequence[str]) -> NDArray[np.float64]:
    column = {value: number for number, value in enumerate(values)}
    made = np.zeros((len(sets), len(values)))
    for item, found in enumerate(sets):
        made[item, [column[value] for value in found if value in column]] = 1.0
    made[0] = 0.0
    return made / np.maximum(1.0, np.sqrt(made.sum(axis=1, keepdims=True)))
