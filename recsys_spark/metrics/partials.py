"""Partial sums of blocks of users: how they are dealt, sent and added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.metrics.intervals import Replicates

COUNTED = "counted"  # in place of a slice: counts of what was odd in the input, which are no metrics
SCHEMA = pa.schema([(c.SLICE, pa.string()), (c.METRIC, pa.string()), ("sums", pa.binary()), ("counts", pa.binary())])
USERS_PER_BLOCK, MAX_BLOCKS = 8192, 64  # the partial sums that reach the driver are bounded, whatever the number of users
Floats = NDArray[np.float64]


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
        return pa.Table.from_pylist(rows, SCHEMA)

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
