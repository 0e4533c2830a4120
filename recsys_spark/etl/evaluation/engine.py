"""Input of an evaluation, and the interface of its two engines: `columnar` in one process, `spark`
on a cluster.

Both turn the same rows into the same blocks of users, measure them with the same code
(`metrics.blocks`) and add them in the same order, so their results are identical. Rules of both:
every evaluated user is a unit, even without rows in a run; a list is in order of (rank, item); of
several predictions for one user and item the least counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.core import columns as c
from recsys_spark.metrics import ctr, slices
from recsys_spark.metrics.blocks import Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.partials import Partial, merge

CREDIT = "credit"


@dataclass(frozen=True)
class Source:
    """The evaluated part of a split, with earlier events, items and fields. Field tables have one
    string column per field and may lack rows.
    """

    # query_idx, item_idx, query_id, item_id, ts, value: held-out events
    rows: DataFrame
    # query_idx, item_idx, value, trained boolean, counted boolean (in `Facts.events`): events of
    # earlier parts
    known: DataFrame
    # item_id, item_idx: every item of the data set; perhaps `credit`, see Catalogue.crediting
    items: DataFrame
    user_fields: DataFrame | None  # query_id, fields
    item_fields: DataFrame | None  # item_id, fields


@dataclass(frozen=True)
class Facts:
    """Facts on the evaluated part; equal for both engines."""

    num_users: int
    num_rows: int
    unseen_rows: int  # rows whose item has no training event
    users: slices.Users
    catalogue: Catalogue
    # mean of the training values, rounded to six digits so that it does not depend on the order of
    # summation; then their range
    mean: float
    low: float
    high: float
    binary: bool  # every evaluated value is 0 or 1


class Engine(Protocol):
    """Measures one scored run at a time. settings: those of the task. The Partial returned has the
    sums over all users.
    """

    facts: Facts

    def ranking(self, entries: DataFrame, settings: Settings) -> Partial:
        """entries: query_id, item_id, score, rank of `recommendations`, ranks up to the largest k.
        `odd` also has `lists_without_target`.
        """

    def candidates(self, entries: DataFrame, settings: Settings) -> Partial:
        """entries: query_id, item_id, score: scored candidates."""

    def rating(self, predictions: DataFrame, settings: Settings) -> Partial:
        """predictions: query_id, item_id, value. `odd` also has `repeated_predictions`."""

    def click(self, predictions: DataFrame, settings: Settings) -> Partial:
        """predictions: row_key (etl.row_key), value. The evaluated values must be 0 or 1.

        `odd` also has `repeated_predictions` and, where predictions were rounded because there are
        too many different ones, `bits_of_predictions`.
        """

    def close(self) -> None:
        """Releases caches and threads."""


def top_values(counts: Mapping[str, Mapping[str | None, int]]) -> dict[str, tuple[str, ...]]:
    """{field: values that get a slice of their own}. counts: {field: {value: number of users}}."""
    kept = {}
    for name, counts_of_field in counts.items():
        merged: dict[str, int] = {}
        for value, count in counts_of_field.items():
            merged[value or slices.NONE] = merged.get(value or slices.NONE, 0) + count
        kept[name] = slices.most_frequent(merged)
    return kept


def credited(catalogue: Catalogue, items: pa.Table) -> Catalogue:
    """With the codes that earn credit, where the items have any."""
    if CREDIT not in items.column_names:
        return catalogue
    codes = np.zeros(len(catalogue.events), np.int64)
    codes[items[c.ITEM_IDX].to_numpy()] = items[CREDIT].fill_null(0).to_numpy()
    return catalogue.crediting(codes)


def clicks(
    partials: Iterable[Partial], settings: Settings, curve: ctr.Curve, repeated: int
) -> Partial:
    """Merges blocks of clicks and computes their metrics."""
    whole = merge(partials)
    finished = {
        label: ctr.finished(replicates, settings.metrics, label)
        for label, replicates in whole.slices.items()
    }
    odd = (
        whole.odd
        | {"repeated_predictions": repeated}
        | ({"bits_of_predictions": curve.bits} if curve.bits < ctr.BITS[0] else {})
    )
    return Partial(
        {label: replicates for label, replicates in finished.items() if replicates.names}, odd
    )
