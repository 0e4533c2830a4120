"""Facts on the items for the metrics: training events, order by popularity, fields. Arrays have one
entry per item; entry 0 is padding.

Shapes: I items, S slices of items, V values of fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import slices

QUARTERS = 4
MOST_VALUES = 256  # field values used in `diversity`: the most frequent


@dataclass(frozen=True)
class Catalogue:
    """Items 1..I. An item without training events is cold; the catalogue for `coverage` is the
    other items.
    """

    events: NDArray[np.int64]  # (I + 1,) training events
    labels: tuple[str, ...]  # names of the slices, S
    members: NDArray[np.bool_]  # (S, I + 1): whether the item is in the slice
    # (I + 1, V) rows of length 1, or 0 for an item without a value; None: no fields
    vectors: NDArray[np.float64] | None
    # (I + 1,) number of the item's artist (or other value that earns credit), 0: none
    credit: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        events: NDArray[np.integer],
        fields: Mapping[str, Sequence[str | None]],
        target_events: NDArray[np.integer],
    ) -> Catalogue:
        """fields: {name: the value of every item 0..I, several joined by "|"}; target_events
        (I + 1,): evaluated events of the item.

        Slices are item_popularity:1..4, items:new and items:known if both have evaluated events,
        and item.<field>:<value>.
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
        if target_events[cold].any() and target_events[~cold].any():
            labels += ["items:new", "items:known"]
            members += [cold, ~cold]
        values: Counter[str] = Counter()
        sets: list[list[str]] = [[] for _ in counts]
        for name, column in fields.items():
            split = [
                tuple(dict.fromkeys(filter(None, (value or "").split("|")))) for value in column
            ]
            counts_of_value: Counter[str] = Counter()
            for item, item_values in enumerate(split):
                counts_of_value.update(
                    {value: int(target_events[item]) for value in item_values or (slices.NONE,)}
                )
                sets[item] += [f"{name}:{value}" for value in item_values]
            kept = slices.most_frequent(counts_of_value)
            for value in kept:
                labels.append(f"item.{name}:{value}")
                members.append(
                    np.array([value in (item_values or (slices.NONE,)) for item_values in split])
                )
            if len(counts_of_value) > len(kept):
                labels.append(f"item.{name}:{slices.OTHER}")
                members.append(
                    np.array(
                        [
                            any(value not in kept for value in item_values or (slices.NONE,))
                            for item_values in split
                        ]
                    )
                )
        for of_item in sets:
            values.update(of_item)
        membership = np.array(members)
        membership[:, 0] = False
        return cls(
            counts,
            tuple(labels),
            membership,
            _vectors(sets, slices.most_frequent(values, MOST_VALUES)) if fields else None,
        )

    def crediting(self, codes: NDArray[np.int64]) -> Catalogue:
        """With `credit`. codes (I + 1,): equal for items with one value, 0 for those without."""
        numbers = np.unique(codes, return_inverse=True)[1]
        return replace(self, credit=np.where(codes == 0, 0, numbers + 1))

    @cached_property
    def size(self) -> int:
        """Items with a training event."""
        return int(np.count_nonzero(self.events))

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """(I + 1,): the rank by training events, 1 for the most popular item, ties by item number;
        0 for padding.
        """
        places = np.zeros(len(self.events), np.int64)
        places[1 + np.argsort(-self.events[1:], kind="stable")] = np.arange(1, len(self.events))
        return places

    @cached_property
    def information(self) -> NDArray[np.float64]:
        """(I + 1,): -log2 of the item's share of the training events; an item without events counts
        as one with a single event.
        """
        return np.log2(max(1, int(self.events.sum()))) - np.log2(np.maximum(self.events, 1))


def _quarters(events: NDArray[np.int64]) -> NDArray[np.int64]:
    """(I + 1,): a group 1..4 with a quarter of the training events each, 4 has the most popular
    items; 0 for items without events.
    """
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    quarters = np.empty(len(events), np.int64)
    quarters[order] = QUARTERS - QUARTERS * before // max(1, int(events.sum()))
    return np.where(events > 0, quarters, 0)


def _vectors(sets: list[list[str]], values: Sequence[str]) -> NDArray[np.float64]:
    column = {value: number for number, value in enumerate(values)}
    vectors = np.zeros((len(sets), len(values)))
    for item, item_values in enumerate(sets):
        vectors[item, [column[value] for value in item_values if value in column]] = 1.0
    vectors[0] = 0.0
    return vectors / np.maximum(1.0, np.sqrt(vectors.sum(axis=1, keepdims=True)))
