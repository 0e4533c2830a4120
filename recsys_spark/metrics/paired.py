"""Differences of two measured runs, paired by their replicas, and the file of replicas.

Replica r of an evaluation has the same multiplicity of each user in every run (see `intervals`).
So for two runs measured on the same split with the same seed and number of replicas, the
differences by replica are the bootstrap of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.metrics.intervals import Replicates, order_bounds

FILE = "replicates.parquet"
# Bytes of float64 arrays (R + 1,); entry 0 is the sample
SCHEMA = pa.schema(
    [
        ("of_run_id", pa.string()),
        (c.TASK, pa.string()),
        (c.SLICE, pa.string()),
        (c.METRIC, pa.string()),
        ("sums", pa.binary()),
        ("counts", pa.binary()),
    ]
)


class Key(NamedTuple):
    of_run_id: str
    task: str
    slice: str


@dataclass(frozen=True)
class Difference:
    """a - b with its 95 % interval and two-sided p-value. NaN where a or b has no value."""

    value: float
    low: float
    high: float
    p: float


def difference(a: Replicates, b: Replicates) -> dict[str, Difference]:
    """{metric: difference}, for metrics that both runs have. Raises DataError when the numbers of
    replicas differ.

    p is twice the share of replicas on the far side of zero (replicas at zero count, and so does
    the sample itself, so that p is never 0). The bounds of the interval are replicas, chosen so
    that with at least 40 replicas p is below .05 exactly where the interval excludes zero. Two
    equal runs have p = 1.

    >>> ones = np.ones((41, 1))  # the sample and 40 replicas of one user
    >>> a, b = Replicates(("m",), 3 * ones, ones), Replicates(("m",), 2 * ones, ones)
    >>> difference(a, b)["m"]  # p = 2 (1 + 0) / (40 + 1)
    Difference(value=1.0, low=1.0, high=1.0, p=0.04878048780487805)
    """
    if len(a.sums) != len(b.sums):
        raise DataError(
            "replicates",
            found=f"{len(a.sums) - 1} and {len(b.sums) - 1} replicas",
            expected="as many in both",
            remedy="evaluate both runs with the same `replicas`",
        )
    names = [name for name in a.names if name in b.names]
    deltas = (
        a.values()[:, [a.names.index(name) for name in names]]
        - b.values()[:, [b.names.index(name) for name in names]]
    )
    low, high = order_bounds(deltas[1:])
    drawn = ~np.isnan(deltas[1:])
    below, above = (
        1 + np.count_nonzero(side & drawn, axis=0) for side in (deltas[1:] <= 0, deltas[1:] >= 0)
    )
    p = np.minimum(1.0, 2 * np.minimum(below, above) / (1 + np.count_nonzero(drawn, axis=0)))
    p[np.isnan(deltas[0])] = np.nan
    return {
        name: Difference(*map(float, numbers))
        for name, *numbers in zip(names, deltas[0], low, high, p, strict=True)
    }


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in
    the given order. NaN stays NaN and is not counted.

    >>> holm([0.03, 0.01, 0.5])  # sorted: 3 * .01, 2 * .03, 1 * .5
    [0.06, 0.03, 0.5]
    """
    order = [place for place in np.argsort(ps) if not np.isnan(ps[place])]
    corrected = [float("nan")] * len(ps)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def write(path: Path, replicates: Mapping[Key, Replicates]) -> None:
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for key, weighted in replicates.items():
        for column, metric in enumerate(weighted.names):
            values = (
                *key,
                metric,
                weighted.sums[:, column].tobytes(),
                weighted.counts[:, column].tobytes(),
            )
            for name, value in zip(SCHEMA.names, values, strict=True):
                columns[name].append(value)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(columns, SCHEMA), partial, compression="zstd")
    partial.replace(path)


def read(
    path: Path, task: str | None = None, slice: str | None = None, metric: str | None = None
) -> dict[Key, Replicates]:
    """The replicas of one task, slice and metric, or all. Raises DataError for a missing or broken
    file.
    """
    filters = [
        (name, "=", value)
        for name, value in ((c.TASK, task), (c.SLICE, slice), (c.METRIC, metric))
        if value is not None
    ]
    try:
        table = pq.read_table(path, filters=filters or None)
    except (OSError, pa.ArrowInvalid) as problem:
        raise DataError(
            str(path),
            found=str(problem).splitlines()[0],
            expected="the replicas of an evaluation",
            remedy="run the evaluate step again with --force",
        ) from None
    by_key: dict[Key, dict[str, tuple]] = {}
    for row in table.to_pylist():
        key = Key(row["of_run_id"], row[c.TASK], row[c.SLICE])
        by_key.setdefault(key, {})[row[c.METRIC]] = (
            np.frombuffer(row["sums"]),
            np.frombuffer(row["counts"]),
        )
    return {
        key: Replicates(
            tuple(slot), *(np.stack(side, axis=1) for side in zip(*slot.values(), strict=True))
        )
        for key, slot in by_key.items()
    }
