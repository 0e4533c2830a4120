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


@dataclass(frozen=True)
class Replicates:
    """Weighted sums and counts; row 0 is the sample as it is, rows 1..R are the replicas."""

    names: tuple[str, ...]
    sums: Floats  # (R + 1, M)
    counts: Floats  # (R + 1, M)

    @classmethod
    def of(cls, names: Sequence[str], sums: Floats, counts: Floats, units: NDArray[np.integer], *, seed: int, replicas: int) -> Replicates:
        """sums, counts (B, M): what unit u (its number in `units`, (B,)) adds to each metric's numerator and denominator."""
        weighted = np.zeros((2, replicas + 1, len(names)))
        for start in range(0, len(units), _CHUNK):
            part = slice(start, start + _CHUNK)
            weight = weights(units[part], seed=seed, replicas=replicas).T  # (R + 1, b)
            weighted += weight @ sums[part], weight @ counts[part]
        return cls(tuple(names), weighted[0], weighted[1])

    def merge(self, other: Replicates) -> Replicates:
        assert self.names == other.names, f"replicates of {self.names} and {other.names} do not merge"
        return Replicates(self.names, self.sums + other.sums, self.counts + other.counts)

    def intervals(self) -> dict[str, Interval]:
        """Mean (of `rmse`: its root) with its 95 % percentile interval, by name. NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.sums / self.counts  # (R + 1, M)
        found = {}
        for column, name in enumerate(self.names):
            drawn = means[1:, column][self.counts[1:, column] > 0]  # with a handful of units a replica can be empty
            low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (math.nan, math.nan)
            value, low, high = (rating.finish({name: float(x)})[name] for x in (means[0, column], low, high))  # a root keeps the order
            found[name] = Interval(value, low, high, round(self.counts[0, column]))
        return found


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


def jackknife(value: float, squares: float, total: float, n: int) -> Interval:
    """Interval of a number that is no mean (coverage): each of n units, left out alone, lowers the value by some x.

    total, squares: sum of x and of x^2 over the units. Efron and Stein: this variance is not too small on average.
    """
    variance = (n - 1) / n * max(0.0, squares - total**2 / n) if n else math.nan
    half = 1.959964 * math.sqrt(variance)
    return Interval(value, value - half, value + half, n)


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
