"""Partial sums of blocks of users: assignment of users, serialisation and addition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics.intervals import Replicates

COUNTED = "counted"  # instead of a slice: counts of irregular input, which are not metrics
SCHEMA = pa.schema(
    [
        (c.SLICE, pa.string()),
        (c.METRIC, pa.string()),
        ("sums", pa.binary()),
        ("counts", pa.binary()),
    ]
)
USERS_PER_BLOCK = 8192  # bounds the memory of a worker for any number of users
MAX_GROUPS = 64  # groups of blocks, summed before they are sent: bounds the data on the driver
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Partial:
    """Mergeable sums by slice. odd: {irregularity in the input: count}."""

    slices: dict[str, Replicates]
    odd: dict[str, int]

    def table(self) -> pa.Table:
        rows: list[dict[str, object]] = []
        for name, replicates in self.slices.items():
            for column, metric in enumerate(replicates.names):
                sides = {
                    "sums": replicates.sums[:, column].tobytes(),
                    "counts": replicates.counts[:, column].tobytes(),
                }
                rows.append({c.SLICE: name, c.METRIC: metric, **sides})
        rows += [
            {c.SLICE: COUNTED, c.METRIC: name, "sums": np.float64(count).tobytes(), "counts": b""}
            for name, count in self.odd.items()
        ]
        return pa.Table.from_pylist(rows, SCHEMA)

    @classmethod
    def of(cls, table: pa.Table) -> Partial:
        by_slice: dict[str, dict[str, tuple[Floats, Floats]]] = {}
        odd = {}
        for row in table.to_pylist():
            if row[c.SLICE] == COUNTED:
                odd[row[c.METRIC]] = int(np.frombuffer(row["sums"])[0])
            else:
                by_slice.setdefault(row[c.SLICE], {})[row[c.METRIC]] = (
                    np.frombuffer(row["sums"]),
                    np.frombuffer(row["counts"]),
                )
        replicates = {
            name: Replicates(
                tuple(slot), *(np.stack(side, axis=1) for side in zip(*slot.values(), strict=True))
            )
            for name, slot in by_slice.items()
        }
        return cls(replicates, odd)


def merge(partials: Iterable[Partial]) -> Partial:
    """The sum of any number of blocks, added in their order."""
    sums: dict[str, Replicates] = {}
    odd: dict[str, int] = {}
    for partial in partials:
        for name, replicates in partial.slices.items():
            sums[name] = sums[name].merge(replicates) if name in sums else replicates
        for name, count in partial.odd.items():
            odd[name] = odd.get(name, 0) + count
    return Partial(sums, odd)


def group_of(block: int) -> int:
    """The group of a block."""
    return block % MAX_GROUPS


def merge_groups(blocks: Mapping[int, Partial]) -> Partial:
    """The sum of blocks by number: the blocks of each group in order, then the groups in order."""
    groups: dict[int, list[Partial]] = {}
    for number in sorted(blocks):
        groups.setdefault(group_of(number), []).append(blocks[number])
    return merge(merge(groups[group]) for group in sorted(groups))


def block_of(users: NDArray[np.integer], num_users: int) -> NDArray[np.int32]:
    """(B,): the block of each user."""
    return (users % num_blocks(num_users)).astype(np.int32)


def num_blocks(num_users: int) -> int:
    return -(-num_users // USERS_PER_BLOCK)
