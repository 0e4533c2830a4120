"""A block of evaluated users with predictions for their rows -> partial sums that merge.

Columns of both kinds: query_idx, events, user fields, items list<int>, labels list<double>,
predictions list<double>, missing int (rows without a finite prediction). A slice's sums are over
its rows; the units of the bootstrap are users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics import candidates, ctr, exposure, rating
from recsys_spark.metrics.blocks import Settings, families_of, summed
from recsys_spark.metrics.intervals import Part
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.ragged import csr
from recsys_spark.metrics.slices import ALL

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
Slice = tuple[str, NDArray[np.bool_]]


def rating_block(users: pa.Table, settings: Settings) -> Partial:
    users = users.sort_by(c.QUERY_IDX)
    labels, indptr = csr(users["labels"])
    predictions, _ = csr(users["predictions"])
    items, _ = csr(users["items"])
    row_user = np.repeat(np.arange(len(users)), np.diff(indptr))
    per_row = {
        name: value
        for name, value in rating.from_rows(labels, predictions).items()
        if name in settings.metrics
    }
    odd = {
        "rows_without_prediction": users["missing"].to_numpy().sum(),
        "predictions_outside_range": (
            (predictions < settings.low) | (predictions > settings.high)
        ).sum(),
    }
    masks = [
        (ALL, np.ones(len(items), bool)),
        *_user_slices(users, settings, row_user),
        *_row_slices(users, settings, items, row_user),
    ]
    return summed(
        users,
        [(label, _of_rows(per_row, row_user, mask)) for label, mask in masks if mask.any()],
        odd,
        settings,
    )


def click_block(users: pa.Table, settings: Settings, curve: ctr.Curve) -> Partial:
    """labels 0 and 1, predictions in [0, 1]; outside int: rows whose prediction was outside.
    `ctr.finished` computes the metrics from the sums.
    """
    users = users.sort_by(c.QUERY_IDX)
    labels, indptr = csr(users["labels"])
    p, _ = csr(users["predictions"])
    items, _ = csr(users["items"])
    row_user, place = np.repeat(np.arange(len(users)), np.diff(indptr)), curve.place(p)
    per_row = {"log_loss": ctr.log_loss(labels, p), "label": labels, "p": p}
    rows = np.diff(indptr).astype(np.float64)
    auc = candidates.auc(indptr, labels > 0, p)
    of_user = {"auc_per_user": (auc, np.ones(len(users))), "auc_per_impression": (auc * rows, rows)}
    of_all = {}
    for name in ctr.ORDERED:
        loss = np.bincount(
            row_user, weights=curve.loss[name][labels.astype(int), place], minlength=len(users)
        ).astype(np.float64)
        of_all[name] = (
            exposure.spread(curve.value[name], loss, 0.0, settings.num_users),
            np.ones(len(users)),
        )
    every = np.ones(len(items), bool)
    parts = [(ALL, _with_users(_of_rows(per_row, row_user, every), {**of_user, **of_all}))]
    parts += [
        (label, _with_users(_of_rows(per_row, row_user, mask), of_user))
        for label, mask in _user_slices(users, settings, row_user)
        if mask.any()
    ]
    tenths = [
        (f"{ctr.TENTH}:{number}", curve.tenth[place] == number)
        for number in range(1, ctr.TENTHS + 1)
    ]
    parts += [
        (label, _of_rows(per_row, row_user, mask))
        for label, mask in [*_row_slices(users, settings, items, row_user), *tenths]
        if mask.any()
    ]
    odd = {
        "rows_without_prediction": users["missing"].to_numpy().sum(),
        "predictions_outside_range": users["outside"].to_numpy().sum(),
        "users_with_one_label": np.isnan(auc).sum(),
    }
    return summed(users, parts, odd, settings)


def _of_rows(per_row: Mapping[str, Floats], row_user: Ints, mask: NDArray[np.bool_]) -> Part:
    """Sums over each user's rows in the mask."""
    users, size = row_user[mask], int(row_user.max(initial=-1)) + 1
    rows = np.unique(users)
    sums = [
        np.bincount(users, weights=value[mask], minlength=size)[rows] for value in per_row.values()
    ]
    counts = np.bincount(users, minlength=size)[rows].astype(np.float64)
    return Part(
        tuple(per_row), np.stack(sums, axis=1), np.stack([counts] * len(sums), axis=1), rows
    )


def _with_users(part: Part, of_user: Mapping[str, tuple[Floats, Floats]]) -> Part:
    """The part with further metrics. of_user: {metric: (numerator, denominator)} by user, NaN for a
    user without a value.
    """
    sums, counts = (
        np.stack([pair[side][part.rows] for pair in of_user.values()], axis=1) for side in (0, 1)
    )
    none = np.isnan(sums)
    return Part(
        (*part.names, *of_user),
        np.hstack([part.sums, np.where(none, 0.0, sums)]),
        np.hstack([part.counts, np.where(none, 0.0, counts)]),
        part.rows,
    )


def _user_slices(users: pa.Table, settings: Settings, row_user: Ints) -> Iterator[Slice]:
    for family in families_of(users, settings):
        yield from (
            (label, family.codes[row_user] == code) for code, label in enumerate(family.labels)
        )


def _row_slices(
    users: pa.Table, settings: Settings, items: Ints, row_user: Ints
) -> Iterator[Slice]:
    """Slices of rows: by whether user and item have training events (four combinations), and by
    slices of items.
    """
    warm_user, warm_item = (
        users["events"].to_numpy()[row_user] > 0,
        settings.catalogue.events[items] > 0,
    )
    yield "pairs:warm", warm_user & warm_item
    yield "pairs:cold_user", ~warm_user & warm_item
    yield "pairs:cold_item", warm_user & ~warm_item
    yield "pairs:cold_both", ~warm_user & ~warm_item
    yield from (
        (label, member[items])
        for label, member in zip(settings.catalogue.labels, settings.catalogue.members, strict=True)
    )
