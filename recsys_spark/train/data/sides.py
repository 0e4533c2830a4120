"""Side files of a shard set, memory-mapped: one copy for all ranks of a host.

They are mapped copy-on-write: torch uses such memory without copying it, and no write of a rank
reaches the file.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.core import contracts
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data import places


def csr(folder: str, side: contracts.Csr) -> tuple[np.ndarray, np.ndarray]:
    """(indptr int64 (rows + 1,), indices int32 (entries,)), memory-mapped."""
    indptr, indices = (
        np.load(places.side(folder, name, digest), mmap_mode="c")
        for name, digest in (
            (side.indptr, side.indptr_digest),
            (side.indices, side.indices_digest),
        )
    )
    return indptr, indices


def values(folder: str, side: contracts.Csr) -> np.ndarray:
    """float32 (entries,), memory-mapped: one number for each entry."""
    assert side.values, f"side file {side.indices} has no values"
    return np.load(places.side(folder, side.values, side.values_digest), mmap_mode="c")


def array(folder: str, side: contracts.Array) -> np.ndarray:
    """(rows, *shape), memory-mapped."""
    return np.load(places.side(folder, side.path, side.digest), mmap_mode="c")


def need(shards: ShardSet, name: str, folder: str) -> contracts.Csr:
    """The side file of this name. Raises ShardError where the set has none."""
    if name not in shards.side:
        raise ShardError(
            f"shard set {folder}, side file {name}",
            found=", ".join(sorted(shards.side)) or "no side file",
            expected=name,
            remedy="export the shards with a split that has validation events",
        )
    return shards.side[name]
