"""A block of evaluated users -> partial sums with bootstrap replicas, as Arrow tables: what runs on the workers of a cluster.

A block's rows are put in order of their user first, so that the sums do not depend, to the last digit, on how rows arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics import ranking, rating
from recsys_spark.metrics.intervals import Replicates

ALL, COUNTED = "all", "counted"  # slices: every user; and counts of what was odd in the input, which are no metrics
PARTIAL = pa.schema([(c.SLICE, pa.string()), (c.METRIC, pa.string()), ("sums", pa.binary()), ("counts", pa.binary())])
NO_ITEM, UNKNOWN, NAN = 0, -1, -2  # codes in `items`: end of the list, an item that the data do not hold, a score that is NaN


@dataclass(frozen=True)
class Settings:
    ks: tuple[int, ...]
    seed: int
    replicas: int


def ranking_block(users: pa.Table, settings: Settings) -> pa.Table:
    """Columns user_idx int, activity int, targets list<int>, items list<int> (best first; codes above), events list<long> beside items."""
    users = users.sort_by(c.USER_IDX)
    width = max(settings.ks)
    targets, indptr = _csr(users["targets"])
    items, events = (_dense(users[name], width) for name in ("items", "events"))
    usable = np.maximum(items, NO_ITEM)  # an entry with a code keeps its place and cannot hit
    values = ranking.from_lists(usable, indptr, targets, settings.ks) | ranking.mean_popularity(usable, events, settings.ks)
    length = (items != NO_ITEM).sum(axis=1)
    ordered = np.sort(usable, axis=1)
    odd = {
        "users_without_list": (length == 0).sum(),
        "lists_shorter_than_k": ((length > 0) & (length < width)).sum(),
        "repeated_items": ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] != NO_ITEM)).sum(),
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": (items == NAN).sum(),
    }
    return _partial(users, values, {name: (~np.isnan(value)).astype(np.float64) for name, value in values.items()}, odd, settings)


def rating_block(users: pa.Table, settings: Settings) -> pa.Table:
    """Columns user_idx int, activity int, labels list<double>, predictions list<double>, missing int (rows that the model left out)."""
    users = users.sort_by(c.USER_IDX)
    labels, indptr = _csr(users["labels"])
    predictions, _ = _csr(users["predictions"])
    rows = np.diff(indptr).astype(np.float64)
    per_row = rating.from_rows(labels, predictions)
    values = {name: np.add.reduceat(value, indptr[:-1]) for name, value in per_row.items()}  # every user has a row
    odd = {"rows_without_prediction": users["missing"].to_numpy().sum()}
    return _partial(users, values, dict.fromkeys(values, rows), odd, settings)


def merge(partials: pa.Table, replicas: int) -> tuple[dict[str, Replicates], dict[str, int]]:
    """({slice: replicates}, {what was odd: how often}) of the partial sums of any number of blocks, added in the order of the rows."""
    sums: dict[str, dict[str, NDArray[np.float64]]] = {}
    odd: dict[str, int] = {}
    for row in partials.to_pylist():
        if row[c.SLICE] == COUNTED:
            odd[row[c.METRIC]] = odd.get(row[c.METRIC], 0) + int(np.frombuffer(row["sums"])[0])
            continue
        both = np.stack([np.frombuffer(row["sums"]), np.frombuffer(row["counts"])])  # (2, R + 1)
        assert both.shape == (2, replicas + 1), f"partial sums of {both.shape[1] - 1} replicas, not {replicas}"
        slot = sums.setdefault(row[c.SLICE], {})
        slot[row[c.METRIC]] = slot[row[c.METRIC]] + both if row[c.METRIC] in slot else both
    merged = {}
    for name, slot in sums.items():
        both = np.stack(list(slot.values()), axis=2)  # (2, R + 1, M)
        merged[name] = Replicates(tuple(slot), both[0], both[1])
    return merged, odd


def _partial(
    users: pa.Table, values: dict[str, NDArray], counts: dict[str, NDArray], odd: dict[str, NDArray], settings: Settings,
) -> pa.Table:
    names = tuple(values)
    numerator = np.nan_to_num(np.stack(list(values.values()), axis=1))  # NaN: the user has no such value, its count is 0
    denominator = np.stack([counts[name] for name in names], axis=1)
    units, activity = users[c.USER_IDX].to_numpy(), users["activity"].to_numpy()
    rows: list[dict[str, object]] = []
    slices = {}
    for level in np.unique(activity):
        mask = activity == level
        slices[f"activity:{level}"] = Replicates.of(names, numerator[mask], denominator[mask], units[mask],
                                                    seed=settings.seed, replicas=settings.replicas)
    slices[ALL] = reduce(Replicates.merge, list(slices.values()))  # every user is in one of them
    for name, made in slices.items():
        for column, metric in enumerate(names):
            row = {"sums": made.sums[:, column].tobytes(), "counts": made.counts[:, column].tobytes()}
            rows.append({c.SLICE: name, c.METRIC: metric, **row})
    rows += [{c.SLICE: COUNTED, c.METRIC: name, "sums": np.float64(count).tobytes(), "counts": b""} for name, count in odd.items()]
    return pa.Table.from_pylist(rows, PARTIAL)


def _csr(column: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
    """(values, indptr) of a list column."""
    lists = column.combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lists.flatten().to_numpy(zero_copy_only=False), np.concatenate([[0], np.cumsum(lengths)])


def _dense(column: pa.ChunkedArray, width: int) -> NDArray:
    """(B, width), cut or filled with 0."""
    values, indptr = _csr(column)
    lengths = np.diff(indptr)
    made = np.zeros((len(lengths), width), values.dtype)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(values)) - np.repeat(indptr[:-1], lengths)
    inside = places < width
    made[rows[inside], places[inside]] = values[inside]
    return made
