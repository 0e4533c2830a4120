"""A block of evaluated users with their ranked items -> partial sums that merge. One worker or
thread measures a block.

A block is an Arrow table with one row per user. Its rows are first sorted by user, and users are
assigned to blocks by their number, so that the sums do not depend, even in the last bit, on the
engine or on the order of arrival. Ratings and clicks: row_blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics import candidates, exposure, lists, ranking, slices
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.intervals import Part, replicate
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.ragged import csr, dense
from recsys_spark.metrics.slices import ALL

# Codes in `items`: end of the list, an item that is not in the data, a score that is NaN
NO_ITEM, UNKNOWN, NAN = (
    0,
    -1,
    -2,
)
Floats = NDArray[np.float64]
Shown = Mapping[str, list[exposure.Part]]


@dataclass(frozen=True)
class Settings:
    """Settings of all blocks of an evaluation. metrics: those of the task, without cut-offs."""

    ks: tuple[int, ...]
    seed: int
    replicas: int
    metrics: tuple[str, ...]
    users: slices.Users
    num_users: int
    catalogue: Catalogue
    low: float = -np.inf  # rating: range of the training values
    high: float = np.inf
    # Of rankings measured in another way: (users, settings, shown) -> Partial
    block: Callable[..., Partial] | None = None

    def ranking(self, users: pa.Table, shown: Shown) -> Partial:
        return (self.block or ranking_block)(users, self, shown)


def ranking_block(users: pa.Table, settings: Settings, shown: Shown) -> Partial:
    """Columns: query_idx int, events int, field_0.. string (the user fields), targets list<int>,
    items list<int> (best first; codes above), known list<int> (items that the user knows, used only
    for serendipity).
    """
    users = users.sort_by(c.QUERY_IDX)
    ks, width, catalogue = settings.ks, max(settings.ks), settings.catalogue
    targets, indptr = csr(users["targets"])
    items = dense(users["items"], width)
    usable = np.maximum(items, NO_ITEM)  # an entry with a code keeps its place and cannot hit
    single = exposure.without_repeats(usable)
    values = ranking.from_lists(single, indptr, targets, ks)
    list_metrics = {
        name: measure(usable, catalogue, ks)
        for name, measure in lists.PLAIN.items()
        if name in settings.metrics
    }
    if "diversity" in settings.metrics:
        assert catalogue.vectors is not None, "diversity needs the items' fields"
        list_metrics["diversity"] = lists.diversity(usable, catalogue.vectors, ks)
    if "serendipity" in settings.metrics:
        known_items, starts = csr(users["known"])
        expected = lists.expected_until(starts, known_items, catalogue.place, ks)
        list_metrics["serendipity"] = lists.serendipity(
            single, indptr, targets, expected, catalogue.place, ks
        )
    values |= {
        f"{name}@{k}": value
        for name, per_k in list_metrics.items()
        for k, value in zip(ks, per_k, strict=True)
    }
    values = chosen(values, settings)
    whole = {
        f"{name}@{k}": value
        for name, parts in shown.items()
        for k, value in zip(ks, exposure.values(single, parts, ks, settings.num_users), strict=True)
    }
    length = (items != NO_ITEM).sum(axis=1)
    odd = {
        "users_without_list": (length == 0).sum(),
        "lists_shorter_than_k": ((length > 0) & (length < width)).sum(),
        "repeated_items": (single != usable).sum(),
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": (items == NAN).sum(),
    }

    def of_targets(
        rows: NDArray[np.integer], starts: NDArray[np.integer], item_targets: NDArray[np.integer]
    ) -> dict[str, Floats]:
        return chosen(ranking.from_lists(single[rows], starts, item_targets, ks), settings)

    parts = [
        *by_user(users, values, settings, whole),
        *_by_target(catalogue, indptr, targets, of_targets),
    ]
    return summed(users, parts, odd, settings)


def candidate_block(users: pa.Table, settings: Settings) -> Partial:
    """Columns as for `ranking_block`, with candidates list<int> and scores list<float> instead of
    items and known.
    """
    users = users.sort_by(c.QUERY_IDX)
    targets, indptr = csr(users["targets"])
    items, starts = csr(users["candidates"])
    scores, _ = csr(users["scores"])
    sets, repeated = _sets(items, starts, scores, indptr, targets)
    starts, items, scores, is_target = sets
    values = chosen(
        candidates.from_scores(starts, is_target, scores, np.diff(indptr), settings.ks), settings
    )
    query = np.repeat(np.arange(len(users)), np.diff(starts))
    num_found = np.bincount(query, weights=is_target, minlength=len(users))
    odd = {
        "users_without_candidates": (np.diff(starts) == 0).sum(),
        "targets_not_among_candidates": int((np.diff(indptr) - num_found).sum()),
        "repeated_items": repeated,
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": np.isnan(scores).sum(),
    }

    def of_targets(
        rows: NDArray[np.integer], starts_of: NDArray[np.integer], item_targets: NDArray[np.integer]
    ) -> dict[str, Floats]:
        lengths = np.diff(starts)[rows]
        entries = np.repeat(
            starts[:-1][rows] - (np.cumsum(lengths) - lengths), lengths
        ) + np.arange(lengths.sum())
        ends = np.concatenate([[0], np.cumsum(lengths)])
        hit = _is_target(items[entries], ends, starts_of, item_targets)
        return chosen(
            candidates.from_scores(ends, hit, scores[entries], np.diff(starts_of), settings.ks),
            settings,
        )

    parts = [
        *by_user(users, values, settings, {}),
        *_by_target(settings.catalogue, indptr, targets, of_targets),
    ]
    return summed(users, parts, odd, settings)


def chosen(values: Mapping[str, Floats], settings: Settings) -> dict[str, Floats]:
    return {
        name: value for name, value in values.items() if name.partition("@")[0] in settings.metrics
    }


def _sets(
    items: NDArray,
    starts: NDArray,
    scores: NDArray,
    indptr: NDArray,
    targets: NDArray,
) -> tuple[tuple[NDArray, NDArray, NDArray, NDArray], int]:
    """((starts, items, scores, is_target), number of repeated items): candidates as sets. A
    repeated item keeps the score that is worse for the model: the lowest for a target, the highest
    for another item. Repeated unknown items are kept.
    """
    query = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    hit = _is_target(items, starts, indptr, targets)
    worse = np.where(hit, 1, -1) * np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((worse, items, query))
    query, items, scores, hit = query[order], items[order], scores[order], hit[order]
    first = np.ones(len(query), bool)
    first[1:] = (query[1:] != query[:-1]) | (items[1:] != items[:-1]) | (items[1:] == UNKNOWN)
    ends = np.concatenate([[0], np.cumsum(np.bincount(query[first], minlength=len(starts) - 1))])
    return (ends, items[first], scores[first], hit[first]), int((~first).sum())


def _is_target(
    items: NDArray, starts: NDArray, indptr: NDArray, targets: NDArray
) -> NDArray[np.bool_]:
    """(entries,): whether the item is a target of its query."""
    span = np.int64(max(items.max(initial=0), targets.max(initial=0)) + 1)
    entry = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * span + items
    target_keys = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * span + targets
    return np.isin(entry, target_keys) & (items > NO_ITEM)


def is_target_of(items: NDArray, indptr: NDArray, targets: NDArray) -> NDArray[np.bool_]:
    """(B, K): whether the item at a place is a target of its query."""
    starts = np.arange(len(items) + 1) * items.shape[1]
    return _is_target(items.ravel(), starts, indptr, targets).reshape(items.shape)


def field_column(number: int) -> str:
    """Name of the column with a user field's values: field names may not be valid column names."""
    return f"field_{number}"


def families_of(users: pa.Table, settings: Settings) -> list[slices.Family]:
    fields = {
        name: users[field_column(number)].to_pylist()
        for number, name in enumerate(settings.users.fields)
    }
    return slices.families(settings.users, users["events"].to_numpy(), fields)


def by_user(
    users: pa.Table, values: Mapping[str, Floats], settings: Settings, whole: Mapping[str, Floats]
) -> list[tuple[str, Part]]:
    """Parts of all users and of every slice of users. whole: values that only all users have."""
    parts = [(ALL, _part({**values, **whole}))]
    if values:
        for family in families_of(users, settings):
            for code, label in enumerate(family.labels):
                rows = np.flatnonzero(family.codes == code)
                if len(rows):
                    parts.append(
                        (label, _part({name: value[rows] for name, value in values.items()}, rows))
                    )
    return parts


def _by_target(
    catalogue: Catalogue,
    indptr: NDArray,
    targets: NDArray,
    measure: Callable[..., dict[str, Floats]],
) -> list[tuple[str, Part]]:
    """Parts by slice of items: users with a target in the slice, measured on these targets."""
    query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    parts = []
    for label, member in zip(catalogue.labels, catalogue.members, strict=True):
        inside = member[targets]
        rows, counts = np.unique(query[inside], return_counts=True)
        if len(rows):
            values = measure(rows, np.concatenate([[0], np.cumsum(counts)]), targets[inside])
            if values:
                parts.append((label, _part(values, rows)))
    return parts


def _part(values: Mapping[str, Floats], rows: NDArray[np.integer] | None = None) -> Part:
    """The values as a Part; a NaN means that the user has no value, and its count is 0."""
    stacked = np.stack(list(values.values()), axis=1)
    return Part(
        tuple(values), np.nan_to_num(stacked), (~np.isnan(stacked)).astype(np.float64), rows
    )


def summed(
    users: pa.Table, parts: Sequence[tuple[str, Part]], odd: Mapping[str, int], settings: Settings
) -> Partial:
    measured = replicate(
        [part for _, part in parts],
        users[c.QUERY_IDX].to_numpy(),
        seed=settings.seed,
        replicas=settings.replicas,
    )
    return Partial(
        {label: replicates for (label, _), replicates in zip(parts, measured, strict=True)},
        {name: int(count) for name, count in odd.items()},
    )
