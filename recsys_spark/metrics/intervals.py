"""95 % intervals by Poisson bootstrap, from partial sums that merge.

Replica r counts unit u (a user, or a row) Poisson(1) times, a number derived from a hash of (seed,
r, u). So the intervals do not depend on the partitioning, and two models measured on the same units
get the same weights: their difference is paired. Shapes: B units, M metrics, R replicas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recsys_spark.core import seeds
from recsys_spark.metrics import exposure, ranking, rating

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
LEVEL = 0.95
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf((1 + LEVEL) / 2)
_MOST_ACCELERATION = 0.2  # above it, the corrected level is beyond the last of 1000 replicas anyway
_CHUNK = 2048  # units weighted at a time: R = 1000 makes 16 MB of weights
_MOST = 8  # maximum of `_POISSON`
# A float64 sum of 2048 units, each up to 8 times, is exact when their values have this many bits
_BITS = 53 - 14


@dataclass(frozen=True)
class Part:
    """Contributions of some units to each metric's numerator and denominator: sums, counts (b, M).
    rows (b,): positions of these units; None: all units.
    """

    names: tuple[str, ...]
    sums: Floats
    counts: Floats
    rows: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class Replicates:
    """Weighted sums and counts; row 0 is the sample itself, rows 1..R are the replicas."""

    names: tuple[str, ...]
    sums: Floats  # (R + 1, M)
    counts: Floats  # (R + 1, M)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        sums: Floats,
        counts: Floats,
        units: NDArray[np.integer],
        *,
        seed: int,
        replicas: int,
    ) -> Replicates:
        """sums, counts (B, M): contribution of each unit (its number in `units`, (B,)) to each
        metric's numerator and denominator.
        """
        return replicate([Part(tuple(names), sums, counts)], units, seed=seed, replicas=replicas)[0]

    def merge(self, other: Replicates) -> Replicates:
        assert self.names == other.names, (
            f"replicates of {self.names} and {other.names} do not merge"
        )
        return Replicates(self.names, self.sums + other.sums, self.counts + other.counts)

    def values(self) -> Floats:
        """(R + 1, M): means (for `rmse`: their root). NaN where nothing was counted."""
        means = np.full(self.sums.shape, np.nan)
        np.divide(self.sums, self.counts, out=means, where=self.counts > 0)
        for column, name in enumerate(self.names):
            if name in rating.ROOTS:
                means[:, column] = np.sqrt(means[:, column])
        return means

    def intervals(self) -> dict[str, Interval]:
        """Value with its 95 % interval, by name.

        Where no user has a hit every replica is 0: then the upper bound is the exact one of a
        share with no success among n users (Clopper and Pearson, Biometrika 26, 1934). Coverage and
        gini are no means, and their replicas may leave 0 to 1: the bounds do not.
        """
        values = self.values()
        low, high = accelerated(values[1:])
        bounded = [name.partition("@")[0] in exposure.METRICS for name in self.names]
        low[bounded], high[bounded] = low[bounded].clip(0, 1), high[bounded].clip(0, 1)
        for column, name in enumerate(self.names):
            if name.partition("@")[0] in ranking.METRICS and values[0, column] == 0:
                high[column] = 1 - ((1 - LEVEL) / 2) ** (1 / self.counts[0, column])
        return {
            name: Interval(float(value), float(least), float(most), round(count))
            for name, value, least, most, count in zip(
                self.names, values[0], low, high, self.counts[0], strict=True
            )
        }


def replicate(
    parts: Sequence[Part], units: NDArray[np.integer], *, seed: int, replicas: int
) -> list[Replicates]:
    """Replicates of every part; each unit's weights are computed once. The result does not depend
    on the order of summation in BLAS.

    For that the replicas' values are rounded to 39 bits below the largest of their column, an error
    of less than 2e-12 of it; the sample's own sum (row 0) is of the unrounded values.
    """
    stacks = [_columns(part) for part in parts]
    totals = [np.zeros((replicas + 1, stack.shape[1])) for stack, _ in stacks]
    for start in range(0, len(units), _CHUNK):
        weight = weights(units[start : start + _CHUNK], seed=seed, replicas=replicas)  # (b, R + 1)
        for part, (stack, _), total in zip(parts, stacks, totals, strict=True):
            if part.rows is None:
                total += weight.T @ stack[start : start + _CHUNK]
            else:
                first, last = np.searchsorted(part.rows, (start, start + _CHUNK))
                if last > first:
                    total += weight[part.rows[first:last] - start].T @ stack[first:last]
    replicates = []
    for part, (_, back), total in zip(parts, stacks, totals, strict=True):
        sides = total[:, back]  # (R + 1, 2M)
        sides[0] = np.concatenate([part.sums.sum(axis=0), part.counts.sum(axis=0)])
        replicates.append(
            Replicates(part.names, sides[:, : len(part.names)], sides[:, len(part.names) :])
        )
    return replicates


def _columns(part: Part) -> tuple[Floats, NDArray[np.integer]]:
    """(distinct columns (b, C) of rounded sums and counts, position of each of the 2M columns among
    them): most columns of counts are equal.
    """
    sides = np.concatenate([part.sums, part.counts], axis=1)
    assert part.rows is None or (np.diff(part.rows) > 0).all(), "a part's units stand in order"
    place_of: dict[bytes, int] = {}
    where = [
        place_of.setdefault(column.tobytes(), len(place_of))
        for column in np.ascontiguousarray(sides.T)
    ]
    _, first = np.unique(where, return_index=True)
    kept = sides[:, first]
    _, exponent = np.frexp(np.abs(kept).max(axis=0, initial=0.0))
    unit = np.ldexp(1.0, exponent - _BITS)
    return np.rint(kept / unit) * unit, np.array(where)


def accelerated(values: Floats) -> tuple[Floats, Floats]:
    """Bounds of the middle 95 % of each column of (R, M), (M,) each, with percentiles corrected for
    its skewness (BC_a: Efron, Journal of the American Statistical Association 82, 1987).

    A mean of few, rare hits is skewed: its plain percentiles are too low. Acceleration and bias
    correction are both a sixth of the replicas' skewness, as they are for a mean.

    >>> rare, even = np.repeat([0.0, 1, 2, 3, 9], 200), np.repeat([1.0, 2, 3, 4, 5], 200)
    >>> low, high = accelerated(np.stack([rare, even], axis=1))
    >>> low.tolist(), high.tolist()
    ([0.0, 1.0], [9.0, 5.0])
    """
    return _of_drawn(values, _accelerated)


def _accelerated(values: Floats) -> tuple[Floats, Floats]:
    centred = values - values.mean(axis=0)
    spread = np.sqrt(np.square(centred).mean(axis=0))
    skewness = np.zeros(values.shape[1])
    varied = spread > 1e-12 * np.abs(values).max(axis=0, initial=0.0)
    skewness[varied] = (centred[:, varied] ** 3).mean(axis=0) / spread[varied] ** 3
    a = np.clip(skewness / 6, -_MOST_ACCELERATION, _MOST_ACCELERATION)
    ordered, last = np.sort(values, axis=0), len(values) - 1
    bounds = []
    for z in (-_Z, _Z):
        level = [_NORMAL.cdf(shift) for shift in a + (a + z) / (1 - a * (a + z))]
        at = np.array(level) * last  # linear interpolation between order statistics
        below = np.floor(at).astype(int)
        lower, upper = (
            np.take_along_axis(ordered, place[None], axis=0)[0]
            for place in (below, np.minimum(below + 1, last))
        )
        bounds.append(lower + (at - below) * (upper - lower))
    return bounds[0], bounds[1]


def order_bounds(values: Floats) -> tuple[Floats, Floats]:
    """Bounds of the middle 95 % of each column of (R, M), (M,) each, that are replicas themselves.

    Of D replicas the j-th lowest and j-th highest, with the smallest j for which a p-value of
    2 (1 + j) / (D + 1), that of j replicas on the far side of zero, is .05 or more. With at least
    40 replicas, such an interval excludes zero exactly where p < .05.

    >>> low, high = order_bounds(np.arange(1.0, 1001)[:, None])
    >>> low.tolist(), high.tolist(), 2 * (1 + 25) / 1001 >= 0.05 > 2 * (1 + 24) / 1001
    ([25.0], [976.0], True)
    """
    return _of_drawn(values, _order_bounds)


def _order_bounds(values: Floats) -> tuple[Floats, Floats]:
    drawn = len(values)
    j = max(1, -(-(drawn + 1) // 40) - 1)  # 40 = 2 / .05, in integers
    ordered = np.sort(values, axis=0)
    return ordered[j - 1], ordered[drawn - j]


def _of_drawn(
    values: Floats, bounds: Callable[[Floats], tuple[Floats, Floats]]
) -> tuple[Floats, Floats]:
    """The bounds of each column without its NaN: with very few units a replica can be empty."""
    whole = ~np.isnan(values).any(axis=0)
    low, high = np.full((2, values.shape[1]), np.nan)
    if whole.any() and len(values):
        low[whole], high[whole] = bounds(values[:, whole])
    for column in np.flatnonzero(~whole):
        drawn = values[~np.isnan(values[:, column]), column]
        if len(drawn):
            low[[column]], high[[column]] = bounds(drawn[:, None])
    return low, high


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int  # number of counted users or rows


def weights(units: NDArray[np.integer], *, seed: int, replicas: int) -> Floats:
    """(B, R + 1): column 0 is 1, column r the number of times that replica r counts the unit.

    >>> three = weights(np.array([7, 8, 9]), seed=1, replicas=4)
    >>> three[:, 0].tolist(), three.shape
    ([1.0, 1.0, 1.0], (3, 5))
    >>> (weights(np.array([9]), seed=1, replicas=4) == three[2:]).all()  # of this unit alone
    np.True_
    """
    key = np.uint64(seeds.derive(seed, "bootstrap"))
    groups = -(-replicas // 4)  # a hash of 64 bits serves four replicas
    counter = np.arange(1, groups + 1, dtype=np.uint64) * _GOLDEN
    with np.errstate(over="ignore"):
        hashed = _mix(_mix(units.astype(np.uint64) + key)[:, None] + counter)  # (B, groups)
    counts = np.empty((len(units), replicas + 1))
    counts[:, 0] = 1.0
    counts[:, 1:] = _POISSON[hashed.astype("<u8", copy=False).view("<u2")[:, :replicas]]
    return counts


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Words) -> Words:
    """The finaliser of splitmix64: every bit of the output depends on every bit of the input."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _poisson_table() -> Floats:
    """Poisson(1) by inversion: entry u of 65536 is the smallest n whose distribution function
    exceeds (u + 1/2) / 65536.
    """
    cumulative = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(20)])
    return np.searchsorted(cumulative, (np.arange(65536) + 0.5) / 65536, side="right").astype(
        np.float64
    )


_POISSON = _poisson_table()
