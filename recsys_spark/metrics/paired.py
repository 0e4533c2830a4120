"""Differences of two measured runs, paired by their replicas, and the file that keeps the replicas.

Replica r of an evaluation counts each user as often in every run (see `intervals`), so what two runs measured on the same split with the
same seed and number of replicas differ by, replica for replica, is the bootstrap of the difference.
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
from recsys_spark.metrics.intervals import Replicates, percentiles

FILE = "replicates.parquet"
SCHEMA = pa.schema([("of_run_id", pa.string()), (c.TASK, pa.string()), (c.SLICE, pa.string()), (c.METRIC, pa.string()),
                    ("sums", pa.binary()), ("counts", pa.binary())])  # float64, R + 1 each; row 0 is the sample


class Key(NamedTuple):
    of_run_id: str
    task: str
    slice: str


@dataclass(frozen=True)
class Difference:
    """a - b with its 95 % interval and two-sided p-value. NaN where one of them has no value."""

    value: float
    low: float
    high: float
    p: float


def difference(a: Replicates, b: Replicates) -> dict[str, Difference]:
    """Of every metric that both have. Raises DataError when the numbers of replicas differ.

    p is twice the share of replicas on the far side of zero (those at zero count, and so does the sample itself, so that p is
    never 0): it is below .05 where the interval leaves zero out. Two runs that are alike have p = 1.
    """
    if len(a.sums) != len(b.sums):
        raise DataError("replicates", found=f"{len(a.sums) - 1} and {len(b.sums) - 1} replicas", expected="as many in both",
                        remedy="evaluate both runs with the same `replicas`")
    names = [name for name in a.names if name in b.names]
    apart = a.values()[:, [a.names.index(name) for name in names]] - b.values()[:, [b.names.index(name) for name in names]]
    low, high = percentiles(apart[1:])
    drawn = ~np.isnan(apart[1:])
    below, above = (1 + np.count_nonzero(side & drawn, axis=0) for side in (apart[1:] <= 0, apart[1:] >= 0))
    p = np.minimum(1.0, 2 * np.minimum(below, above) / (1 + np.count_nonzero(drawn, axis=0)))
    p[np.isnan(apart[0])] = np.nan
    return {name: Difference(*map(float, found)) for name, *found in zip(names, apart[0], low, high, p, strict=True)}


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given. NaN stays, uncounted."""
    order = [place for place in np.argsort(ps) if not np.isnan(ps[place])]
    made = [float("nan")] * len(ps)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * ps[place]))
        made[place] = highest
    return made


def write(path: Path, replicates: Mapping[Key, Replicates]) -> None:
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for key, made in replicates.items():
        for column, metric in enumerate(made.names):
            values = (*key, metric, made.sums[:, column].tobytes(), made.counts[:, column].tobytes())
            for name, value in zip(SCHEMA.names, values, strict=True):
                columns[name].append(value)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(columns, SCHEMA), partial, compression="zstd")
    partial.replace(path)


def read(path: Path, task: str | None = None, slice: str | None = None, metric: str | None = None) -> dict[Key, Replicates]:
    """Those of one task, slice and metric, or all. Raises DataError for a missing or broken file."""
    wanted = [(name, "=", value) for name, value in ((c.TASK, task), (c.SLICE, slice), (c.METRIC, metric)) if value is not None]
    try:
        table = pq.read_table(path, filters=wanted or None)
    except (OSError, pa.ArrowInvalid) as problem:
        raise DataError(str(path), found=str(problem).splitlines()[0], expected="the replicas of an evaluation",
                        remedy="run the evaluate step again with --force") from None
    found: dict[Key, dict[str, tuple]] = {}
    for row in table.to_pylist():
        key = Key(row["of_run_id"], row[c.TASK], row[c.SLICE])
        found.setdefault(key, {})[row[c.METRIC]] = np.frombuffer(row["sums"]), np.frombuffer(row["counts"])
    return {key: Replicates(tuple(slot), *(np.stack(side, axis=1) for side in zip(*slot.values(), strict=True)))
            for key, slot in found.items()}
