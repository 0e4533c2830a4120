"""Seconds per iteration of implicit ALS at 64 and 128 factors: `ials` and Spark MLlib's ALS, in one
session, one after the other.

Both solve every row exactly, once an iteration, by Cholesky. Seconds per iteration = (a fit of 1 +
N iterations - a fit of one) / N, so that reading, partitioning and first touches drop out; `fit_s`
is the longer fit, whole. MLlib is given 2 blocks a core and runs once. Data: the pairs of
MovieLens-1M where RECSYS_DATA has it, else as many drawn with popular items among them. `python -m
tests.benchmarks.bench_als --help`
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import als, ials
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.lake.session import session
from recsys_spark.pipeline.context import SparkSettings

USERS, ITEMS, EVENTS = 6_040, 3_952, 1_000_209


def pairs() -> tuple[str, NDArray[np.int32]]:
    """(where from, (n, 2) user and item)."""
    ratings = Path(os.environ.get("RECSYS_DATA", "data")) / "ml-1m" / "ratings.dat"
    if ratings.exists():
        found = pd.read_csv(ratings, sep=":", header=None, usecols=[0, 2], dtype=np.int32)
        return "ml-1m", found.to_numpy()
    draw = np.random.default_rng(1)
    share = 1 / (np.arange(ITEMS) + 50.0)
    cells = np.unique(
        draw.integers(USERS, size=3 * EVENTS) * ITEMS
        + draw.choice(ITEMS, size=3 * EVENTS, p=share / share.sum())
    )
    cells = draw.permutation(cells)[:EVENTS]
    return "drawn", np.stack([cells // ITEMS + 1, cells % ITEMS + 1], axis=1).astype(np.int32)


def clock(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def per_iteration(
    name: str, fit: Callable[[int], Any], iterations: int, repeats: int
) -> dict[str, Any]:
    fit(1)
    one = statistics.median(clock(lambda: fit(1)) for _ in range(repeats))
    many = [clock(lambda: fit(1 + iterations)) for _ in range(repeats)]
    each = [(seconds - one) / iterations for seconds in many]
    return {
        "what": name,
        "s_per_iteration": round(statistics.median(each), 3),
        "least": round(min(each), 3),
        "most": round(max(each), 3),
        "fit_s": round(statistics.median(many), 2),
        "iterations": 1 + iterations,
    }


def ours(spark: SparkSession, events: DataFrame, dim: int, folder: Path) -> Callable[[int], Any]:
    training = Training(events, num_users=USERS, num_items=ITEMS, seed=1)

    def fit(iterations: int) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            ials.fit(training, ials.Config(dim=dim, iterations=iterations), Path(work))

    return fit


def sparks(events: DataFrame, dim: int, blocks: int) -> Callable[[int], Any]:
    return lambda iterations: als.fit(
        events, als.Config(rank=dim, iterations=iterations, blocks=blocks), num_items=ITEMS, seed=1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    spark = session(SparkSettings(driver_memory="4g"), "bench_als")
    source, table = pairs()
    frame = pd.DataFrame(
        {"query_idx": table[:, 0], "item_idx": table[:, 1], "ts": np.int64(0), "value": 1.0}
    )
    cores = spark.sparkContext.defaultParallelism
    events = spark.createDataFrame(frame).repartition(2 * cores).persist()
    assert events.count() == len(table)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-als") as folder:
        for dim in given.factors:
            for name, fit in (
                ("ials", ours(spark, events, dim, Path(folder))),
                ("Spark MLlib", sparks(events, dim, 2 * cores)),
            ):
                repeats = given.repeats if name == "ials" else 1
                made = {
                    "data": source,
                    "events": len(table),
                    "factors": dim,
                    "cores": cores,
                    **per_iteration(name, fit, given.iterations, repeats),
                }
                results.append(made)
                print(json.dumps(made), flush=True)
    spark.stop()
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
