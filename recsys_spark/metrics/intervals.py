"""95 % intervals by Poisson bootstrap, from partial sums that merge.

Replica r counts unit u (a user, or a row) Poisson(1) times, a number hashed from (seed, r, u). So partial sums of any partitioning
add up to the same intervals, and two models measured on the same units get the same weights: their difference is paired.
Shapes: B units, M metrics, R replicas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.core import seeds
from recsys_spark.metrics import rating

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
LEVEL = 0.95
_CHUNK = 2048  # units weighted at a time: R = 1000 makes 16 MB of weights
_MOST = 8  # of `_POISSON`
_BITS = 53 - 14  # a float64 adds 2048 units, each up to 8 times, without rounding, when their values have this many bits


@dataclass(frozen=True)
class Part:
    """What some of the units add to each metric's numerator and denominator: sums, counts (b, M). rows (b,): which; None: all of them."""

    names: tuple[str, ...]
    sums: Floats
    counts: Floats
    rows: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class Replicates:
    """Weighted sums and counts; row 0 is the sample as it is, rows 1..R are the replicas."""

    names: tuple[str, ...]
    sums: Floats  # (R + 1, M)
    counts: Floats  # (R + 1, M)

    @classmethod
    def of(cls, names: Sequence[str], sums: Floats, counts: Floats, units: NDArray[np.integer], *, seed: int, replicas: int) -> Replicates:
        """sums, counts (B, M): what unit u (its number in `units`, (B,)) adds to each metric's numerator and denominator."""
        return replicate([Part(tuple(names), sums, counts)], units, seed=seed, replicas=replicas)[0]

    def merge(self, other: Replicates) -> Replicates:
        assert self.names == other.names, f"replicates of {self.names} and {other.names} do not merge"
        return Replicates(self.names, self.sums + other.sums, self.counts + other.counts)

    def values(self) -> Floats:
        """(R + 1, M): means (of `rmse`: the root). NaN where nothing was counted."""
        made = np.full(self.sums.shape, np.nan)
        np.divide(self.sums, self.counts, out=made, where=self.counts > 0)
        for column, name in enumerate(self.names):
            if name in rating.ROOTS:
                made[:, column] = np.sqrt(made[:, column])
        return made

    def intervals(self) -> dict[str, Interval]:
        """Value with its 95 % percentile interval, by name."""
        values = self.values()
        bounds = percentiles(values[1:])
        return {name: Interval(float(value), float(low), float(high), round(count))
                for name, value, low, high, count in zip(self.names, values[0], *bounds, self.counts[0], strict=True)}


def replicate(parts: Sequence[Part], units: NDArray[np.integer], *, seed: int, replicas: int) -> list[Replicates]:
    """Replicates of every part, with each unit's weights made once. The result does not depend on the order in which BLAS adds.

    For that the replicas' values are rounded to 39 bits below the largest of their column, an error of less than 2e-12 of it; the
    sample's own sum (row 0) is of the values as they are.
    """
    stacks = [_columns(part) for part in parts]
    made = [np.zeros((replicas + 1, stack.shape[1])) for stack, _ in stacks]
    for start in range(0, len(units), _CHUNK):
        weight = weights(units[start : start + _CHUNK], seed=seed, replicas=replicas)  # (b, R + 1)
        for part, (stack, _), total in zip(parts, stacks, made, strict=True):
            if part.rows is None:
                total += weight.T @ stack[start : start + _CHUNK]
            else:
                first, last = np.searchsorted(part.rows, (start, start + _CHUNK))
                if last > first:
                    total += weight[part.rows[first:last] - start].T @ stack[first:last]
    found = []
    for part, (_, back), total in zip(parts, stacks, made, strict=True):
        both = total[:, back]  # (R + 1, 2M)
        both[0] = np.concatenate([part.sums.sum(axis=0), part.counts.sum(axis=0)])
        found.append(Replicates(part.names, both[:, : len(part.names)], both[:, len(part.names) :]))
    return found


def _columns(part: Part) -> tuple[Floats, NDArray[np.integer]]:
    """Rounded sums and counts (b, C), each different column once, and where in it each of the 2M stands: most counts are alike."""
    both = np.concatenate([part.sums, part.counts], axis=1)
    assert part.rows is None or (np.diff(part.rows) > 0).all(), "a part's units stand in order"
    known: dict[bytes, int] = {}
    where = [known.setdefault(column.tobytes(), len(known)) for column in np.ascontiguousarray(both.T)]
    _, first = np.unique(where, return_index=True)
    kept = both[:, first]
    _, exponent = np.frexp(np.abs(kept).max(axis=0, initial=0.0))
    unit = np.ldexp(1.0, exponent - _BITS)
    return np.rint(kept / unit) * unit, np.array(where)


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """Bounds of the middle 95 % of each column of (R, M), (M,) each; with a handful of units a replica can be empty: NaN, left out."""
    levels = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    whole = ~np.isnan(values).any(axis=0)
    low, high = np.full((2, values.shape[1]), np.nan)
    if whole.any():
        low[whole], high[whole] = np.quantile(values[:, whole], levels, axis=0)
    for column in np.flatnonzero(~whole):
        drawn = values[~np.isnan(values[:, column]), column]
        if len(drawn):
            low[column], high[column] = np.quantile(drawn, levels)
    return low, high


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int  # what was counted: users, or rows


def weights(units: NDArray[np.integer], *, seed: int, replicas: int) -> Floats:
    """(B, R + 1): column 0 is one, column r how often replica r counts the unit."""
    key = np.uint64(seeds.derive(seed, "bootstrap"))
    groups = -(-replicas // 4)  # a hash of 64 bits serves four replicas
    counter = np.arange(1, groups + 1, dtype=np.uint64) * _GOLDEN
    with np.errstate(over="ignore"):
        hashed = _mix(_mix(units.astype(np.uint64) + key)[:, None] + counter)  # (B, groups)
    made = np.empty((len(units), replicas + 1))
    made[:, 0] = 1.0
    made[:, 1:] = _POISSON[hashed.astype("<u8", copy=False).view("<u2")[:, :replicas]]
    return made


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Words) -> Words:
    """The finaliser of splitmix64: every bit of the output depends on every bit of the input."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _poisson_table() -> Floats:
    """Poisson(1) by inversion: entry u of 65536 is the smallest n whose distribution function exceeds (u + 1/2) / 65536."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(20)])
    return np.searchsorted(cumulative, (np.arange(65536) + 0.5) / 65536, side="right").astype(np.float64)


_POISSON = _poisson_table()
