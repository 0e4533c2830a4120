"""What an evaluation reads, and the two engines that measure it: `columnar` in one process, `spark` on a cluster.

Both turn the same rows into the same blocks of users, measured by the same code (`metrics.blocks`) and added in the same order, so
their results are identical. Rules of both: every evaluated user is a unit, also one whom a run left out; a list is in order of (rank,
item); of several predictions for one user and item the least counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pyspark.sql import DataFrame

from recsys_spark.metrics import ctr, slices
from recsys_spark.metrics.blocks import Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.partials import Partial, merge


@dataclass(frozen=True)
class Source:
    """The evaluated part of a split and what stands beside it. Field tables have one string column a field and may lack rows."""

    rows: DataFrame  # user_idx, item_idx, user_id, item_id, ts, value: events to be found or predicted
    known: DataFrame  # user_idx, item_idx, value, trained boolean, counted boolean (in `Facts.events`): events of the parts before
    items: DataFrame  # item_id, item_idx: every item that the data hold
    user_fields: DataFrame | None  # user_id, fields
    item_fields: DataFrame | None  # item_id, fields


@dataclass(frozen=True)
class Facts:
    """Of the evaluated part; the same from both engines."""

    num_users: int
    num_rows: int
    unseen_rows: int  # whose item has no training event
    users: slices.Users
    catalogue: Catalogue
    mean: float  # of the training values, to six digits, so that the order of adding does not show; and their range
    low: float
    high: float
    binary: bool  # every evaluated value is 0 or 1


class Engine(Protocol):
    """Measures one scored run at a time. `Settings` are those of the task; Partial has the sums of all users."""

    facts: Facts

    def ranking(self, entries: DataFrame, settings: Settings) -> Partial:
        """entries: query_id, item_id, score, rank of `recommendations`, ranks up to the largest k. Odd: also `lists_without_target`."""

    def candidates(self, entries: DataFrame, settings: Settings) -> Partial:
        """entries: query_id, item_id, score: scored candidates."""

    def rating(self, predictions: DataFrame, settings: Settings) -> Partial:
        """predictions: user_id, item_id, value. Odd: also `repeated_predictions`."""

    def click(self, predictions: DataFrame, settings: Settings) -> Partial:
        """predictions: row_key (user_id|item_id|ts), value. The evaluated values must be 0 or 1. Odd: also `repeated_predictions` and,
        where they were rounded for their number, `bits_of_predictions`."""

    def close(self) -> None:
        """Let go of what is kept."""


def top_values(counts: Mapping[str, Mapping[str | None, int]]) -> dict[str, tuple[str, ...]]:
    """{field: values with a slice of their own} from how many users have each value."""
    kept = {}
    for name, found in counts.items():
        merged: dict[str, int] = {}
        for value, count in found.items():
            merged[value or slices.NONE] = merged.get(value or slices.NONE, 0) + count
        kept[name] = slices.most_frequent(merged)
    return kept


def clicks(partials: Iterable[Partial], settings: Settings, curve: ctr.Curve, repeated: int) -> Partial:
    """The metrics of blocks of clicks."""
    whole = merge(partials)
    made = {label: ctr.finished(one, settings.metrics, label) for label, one in whole.slices.items()}
    odd = whole.odd | {"repeated_predictions": repeated} | ({"bits_of_predictions": curve.bits} if curve.bits < ctr.BITS[0] else {})
    return Partial({label: one for label, one in made.items() if one.names}, odd)
