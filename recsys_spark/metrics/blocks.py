"""A block of evaluated users -> partial sums with bootstrap replicas, which merge: what one worker does, and one thread.

A block is an Arrow table with one row a user. Its rows are put in order of their user first, and blocks are dealt by the user's number,
so that the sums do not depend, to the last digit, on the engine or on how rows arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics import candidates, exposure, lists, ranking, rating, slices
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.intervals import Part, Replicates, replicate
from recsys_spark.metrics.slices import ALL

COUNTED = "counted"  # in place of a slice: counts of what was odd in the input, which are no metrics
PARTIAL = pa.schema([(c.SLICE, pa.string()), (c.METRIC, pa.string()), ("sums", pa.binary()), ("counts", pa.binary())])
NO_ITEM, UNKNOWN, NAN = 0, -1, -2  # codes in `items`: end of the list, an item that the data do not hold, a score that is NaN
USERS_PER_BLOCK, MAX_BLOCKS = 8192, 64  # the partial sums that reach the driver are bounded, whatever the number of users
Floats = NDArray[np.float64]
Shown = Mapping[str, list[exposure.Part]]


@dataclass(frozen=True)
class Settings:
    """What every block of an evaluation has in common. metrics: of this task, without cut-offs."""

    ks: tuple[int, ...]
    seed: int
    replicas: int
    metrics: tuple[str, ...]
    users: slices.Users
    num_users: int
    catalogue: Catalogue
    low: float = -np.inf  # rating: the range of the training values
    high: float = np.inf


@dataclass(frozen=True)
class Partial:
    """Sums that merge, by slice; and how often something was odd."""

    slices: dict[str, Replicates]
    odd: dict[str, int]

    def table(self) -> pa.Table:
        rows: list[dict[str, object]] = []
        for name, made in self.slices.items():
            for column, metric in enumerate(made.names):
                sides = {"sums": made.sums[:, column].tobytes(), "counts": made.counts[:, column].tobytes()}
                rows.append({c.SLICE: name, c.METRIC: metric, **sides})
        rows += [{c.SLICE: COUNTED, c.METRIC: name, "sums": np.float64(count).tobytes(), "counts": b""} for name, count in self.odd.items()]
        return pa.Table.from_pylist(rows, PARTIAL)

    @classmethod
    def of(cls, table: pa.Table) -> Partial:
        found: dict[str, dict[str, tuple[Floats, Floats]]] = {}
        odd = {}
        for row in table.to_pylist():
            if row[c.SLICE] == COUNTED:
                odd[row[c.METRIC]] = int(np.frombuffer(row["sums"])[0])
            else:
                found.setdefault(row[c.SLICE], {})[row[c.METRIC]] = np.frombuffer(row["sums"]), np.frombuffer(row["counts"])
        made = {name: Replicates(tuple(slot), *(np.stack(side, axis=1) for side in zip(*slot.values(), strict=True)))
                for name, slot in found.items()}
        return cls(made, odd)


def merge(partials: Iterable[Partial]) -> Partial:
    """Of any number of blocks, added in their order."""
    sums: dict[str, Replicates] = {}
    odd: dict[str, int] = {}
    for partial in partials:
        for name, made in partial.slices.items():
            sums[name] = sums[name].merge(made) if name in sums else made
        for name, count in partial.odd.items():
            odd[name] = odd.get(name, 0) + count
    return Partial(sums, odd)


def block_of(users: NDArray[np.integer], num_users: int) -> NDArray[np.int32]:
    """(B,): the block of each user."""
    return (users % num_blocks(num_users)).astype(np.int32)


def num_blocks(num_users: int) -> int:
    return min(MAX_BLOCKS, -(-num_users // USERS_PER_BLOCK))


def ranking_block(users: pa.Table, settings: Settings, shown: Shown) -> Partial:
    """Columns user_idx int, events int, one string column for each user field, targets list<int>, items list<int> (best first; codes
    above), known list<int>: items that the user knows (read for serendipity alone)."""
    users = users.sort_by(c.USER_IDX)
    ks, width, catalogue = settings.ks, max(settings.ks), settings.catalogue
    targets, indptr = csr(users["targets"])
    items = dense(users["items"], width)
    usable = np.maximum(items, NO_ITEM)  # an entry with a code keeps its place and cannot hit
    single = exposure.without_repeats(usable)
    values = ranking.from_lists(single, indptr, targets, ks)
    made = {name: measure(usable, catalogue, ks) for name, measure in lists.PLAIN.items() if name in settings.metrics}
    if "diversity" in settings.metrics:
        assert catalogue.vectors is not None, "diversity needs the items' fields"
        made["diversity"] = lists.diversity(usable, catalogue.vectors, ks)
    if "serendipity" in settings.metrics:
        known, starts = csr(users["known"])
        expected = lists.expected_until(starts, known, catalogue.place, ks)
        made["serendipity"] = lists.serendipity(single, indptr, targets, expected, catalogue.place, ks)
    values |= {f"{name}@{k}": value for name, found in made.items() for k, value in zip(ks, found, strict=True)}
    values = chosen(values, settings)
    whole = {f"{name}@{k}": value for name, parts in shown.items()
             for k, value in zip(ks, exposure.values(single, parts, ks, settings.num_users), strict=True)}
    length = (items != NO_ITEM).sum(axis=1)
    odd = {
        "users_without_list": (length == 0).sum(),
        "lists_shorter_than_k": ((length > 0) & (length < width)).sum(),
        "repeated_items": (single != usable).sum(),
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": (items == NAN).sum(),
    }

    def of_targets(rows: NDArray[np.integer], starts: NDArray[np.integer], wanted: NDArray[np.integer]) -> dict[str, Floats]:
        return chosen(ranking.from_lists(single[rows], starts, wanted, ks), settings)

    parts = [*_by_user(users, values, settings, whole), *_by_target(catalogue, indptr, targets, of_targets)]
    return _partial(users, parts, odd, settings)


def candidate_block(users: pa.Table, settings: Settings) -> Partial:
    """Columns as above, but candidates list<int> and scores list<float> in place of items and known."""
    users = users.sort_by(c.USER_IDX)
    targets, indptr = csr(users["targets"])
    items, starts = csr(users["candidates"])
    scores, _ = csr(users["scores"])
    sets, repeated = _sets(items, starts, scores, indptr, targets)
    starts, items, scores, wanted = sets
    values = chosen(candidates.from_scores(starts, wanted, scores, np.diff(indptr), settings.ks), settings)
    query = np.repeat(np.arange(len(users)), np.diff(starts))
    found = np.bincount(query, weights=wanted, minlength=len(users))
    odd = {
        "users_without_candidates": (np.diff(starts) == 0).sum(),
        "targets_not_among_candidates": int((np.diff(indptr) - found).sum()),
        "repeated_items": repeated,
        "unknown_items": (items == UNKNOWN).sum(),
        "nan_scores": np.isnan(scores).sum(),
    }

    def of_targets(rows: NDArray[np.integer], starts_of: NDArray[np.integer], wanted_of: NDArray[np.integer]) -> dict[str, Floats]:
        lengths = np.diff(starts)[rows]
        entries = np.repeat(starts[:-1][rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        ends = np.concatenate([[0], np.cumsum(lengths)])
        hit = _is_target(items[entries], ends, starts_of, wanted_of)
        return chosen(candidates.from_scores(ends, hit, scores[entries], np.diff(starts_of), settings.ks), settings)

    parts = [*_by_user(users, values, settings, {}), *_by_target(settings.catalogue, indptr, targets, of_targets)]
    return _partial(users, parts, odd, settings)


def chosen(values: Mapping[str, Floats], settings: Settings) -> dict[str, Floats]:
    return {name: value for name, value in values.items() if name.partition("@")[0] in settings.metrics}


def _sets(
    items: NDArray, starts: NDArray, scores: NDArray, indptr: NDArray, targets: NDArray,
) -> tuple[tuple[NDArray, NDArray, NDArray, NDArray], int]:
    """((starts, items, scores, is_target), repeated): candidates as sets. Of a repeated item the score counts that is worse for the
    model: the lowest of a target, the highest of another. Unknown items stay as many as they are."""
    query = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    hit = _is_target(items, starts, indptr, targets)
    worse = np.where(hit, 1, -1) * np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((worse, items, query))
    query, items, scores, hit = query[order], items[order], scores[order], hit[order]
    first = np.ones(len(query), bool)
    first[1:] = (query[1:] != query[:-1]) | (items[1:] != items[:-1]) | (items[1:] == UNKNOWN)
    ends = np.concatenate([[0], np.cumsum(np.bincount(query[first], minlength=len(starts) - 1))])
    return (ends, items[first], scores[first], hit[first]), int((~first).sum())


def _is_target(items: NDArray, starts: NDArray, indptr: NDArray, targets: NDArray) -> NDArray[np.bool_]:
    """(entries,): is the item one of its query's targets?"""
    span = np.int64(max(items.max(initial=0), targets.max(initial=0)) + 1)
    entry = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * span + items
    wanted = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * span + targets
    return np.isin(entry, wanted) & (items > NO_ITEM)


def rating_block(users: pa.Table, settings: Settings) -> Partial:
    """Columns user_idx, events, user fields, items list<int>, labels list<double>, predictions list<double>, missing int (rows that the
    model left out). A slice's sums are of its rows, the units are the users."""
    users = users.sort_by(c.USER_IDX)
    labels, indptr = csr(users["labels"])
    predictions, _ = csr(users["predictions"])
    items, _ = csr(users["items"])
    per_row = {name: value for name, value in rating.from_rows(labels, predictions).items() if name in settings.metrics}
    row_user = np.repeat(np.arange(len(users)), np.diff(indptr))
    events = users["events"].to_numpy()
    odd = {
        "rows_without_prediction": users["missing"].to_numpy().sum(),
        "predictions_outside_range": ((predictions < settings.low) | (predictions > settings.high)).sum(),
    }
    masks: list[tuple[str, NDArray[np.bool_]]] = [(ALL, np.ones(len(labels), bool))]
    for family in _families(users, settings):
        masks += [(label, family.codes[row_user] == code) for code, label in enumerate(family.labels)]
    masks += _pairs(events[row_user] > 0, settings.catalogue.events[items] > 0)
    masks += [(label, member[items]) for label, member in zip(settings.catalogue.labels, settings.catalogue.members, strict=True)]
    parts = []
    for label, mask in masks:
        of_user = row_user[mask]
        rows = np.unique(of_user)
        if len(rows):
            sums = [np.bincount(of_user, weights=value[mask], minlength=len(users))[rows] for value in per_row.values()]
            counts = np.bincount(of_user, minlength=len(users))[rows].astype(np.float64)
            parts.append((label, Part(tuple(per_row), np.stack(sums, axis=1), np.stack([counts] * len(sums), axis=1), rows)))
    return _partial(users, parts, odd, settings)


def _pairs(warm_user: NDArray[np.bool_], warm_item: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Rows whose user and item both have training events, and the three ways in which they have not."""
    return [("pairs:warm", warm_user & warm_item), ("pairs:cold_user", ~warm_user & warm_item),
            ("pairs:cold_item", warm_user & ~warm_item), ("pairs:cold_both", ~warm_user & ~warm_item)]


def _families(users: pa.Table, settings: Settings) -> list[slices.Family]:
    fields = {name: users[f"user.{name}"].to_pylist() for name in settings.users.fields}
    return slices.families(settings.users, users["events"].to_numpy(), fields)


def _by_user(users: pa.Table, values: Mapping[str, Floats], settings: Settings, whole: Mapping[str, Floats]) -> list[tuple[str, Part]]:
    """All users, with the values `whole` that are of all users alone, and every slice of them."""
    parts = [(ALL, _part({**values, **whole}))]
    if values:
        for family in _families(users, settings):
            for code, label in enumerate(family.labels):
                rows = np.flatnonzero(family.codes == code)
                if len(rows):
                    parts.append((label, _part({name: value[rows] for name, value in values.items()}, rows)))
    return parts


def _by_target(
    catalogue: Catalogue, indptr: NDArray, targets: NDArray, measure: Callable[..., dict[str, Floats]],
) -> list[tuple[str, Part]]:
    """Users with a target among the items of a slice, measured by how those targets alone were found."""
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
    """NaN: the user has no such value, its count is 0."""
    made = np.stack(list(values.values()), axis=1)
    return Part(tuple(values), np.nan_to_num(made), (~np.isnan(made)).astype(np.float64), rows)


def _partial(users: pa.Table, parts: Sequence[tuple[str, Part]], odd: Mapping[str, int], settings: Settings) -> Partial:
    made = replicate([part for _, part in parts], users[c.USER_IDX].to_numpy(), seed=settings.seed, replicas=settings.replicas)
    return Partial({label: one for (label, _), one in zip(parts, made, strict=True)}, {name: int(count) for name, count in odd.items()})


def csr(column: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
    """(values, indptr) of a list column."""
    lists_of = column.combine_chunks()
    lengths = lists_of.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lists_of.flatten().to_numpy(zero_copy_only=False), np.concatenate([[0], np.cumsum(lengths)])


def dense(column: pa.ChunkedArray, width: int) -> NDArray:
    """(B, width), cut or filled with 0."""
    values, indptr = csr(column)
    lengths = np.diff(indptr)
    made = np.zeros((len(lengths), width), values.dtype)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(values)) - np.repeat(indptr[:-1], lengths)
    inside = places < width
    made[rows[inside], places[inside]] = values[inside]
    return made
