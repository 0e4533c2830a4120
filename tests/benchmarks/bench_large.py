"""bpr_mf on tables as large as those of 20 million ratings, and larger: examples per second through
the whole path, and what the update by rows does to the result.

    python -m tests.benchmarks.bench_large [speed|quality ...] [--sizes USERS,ITEMS ...] [--steps N]
                                           [--events N] [--epochs N] [--threads N] [--json FILE]

    speed    so many steps of 4,096 pairs, after WARM others: reading by Petastorm, negatives, the
             step; dense Adam, `auto`, and SparseAdam take turns, on each of the sizes
    quality  so many epochs of dense Adam, of Adam by rows and of SparseAdam, with validation: on
             events with planted tastes (of the first size), and on ML-1M where $RECSYS_DATA has it

Events at random (5 million in place of 20: the rate of a step does not depend on how many follow
it): users are of 3 of 200 tastes, every taste likes items of its own, popular ones more often.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks.workers import Workers
from tests import shardsets, training
from tests.benchmarks import bench_step, bench_train
from tests.shardsets import Events

BATCH, WARM, ROUNDS, TASTES = 4096, 50, 3, 200
VALIDATED = 6000  # users, drawn by the seed
CONFIG = {"dim": 64, "num_negatives": 1, "l2": 0.003}
SPEED: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam"},
    "auto": {"name": "auto"},
    "sparse_adam": {"name": "sparse_adam"},
}
QUALITY: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam"},
    "adam, by rows": {"name": "adam", "sparse": True},
    "sparse_adam": {"name": "sparse_adam"},
}


def events(users: int, items: int, number: int, seed: int = 1) -> Events:
    """About so many, without repeats, by user; every user has three or more."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(size=users)
    counts = 3 + rng.poisson(max(0, number / users - 3) * activity / activity.mean())
    user = np.repeat(np.arange(1, users + 1), counts)
    tastes = rng.integers(0, TASTES, (users + 1, 3))
    taste = tastes[user, rng.integers(0, 3, len(user))]
    # Popularity falls with the rank within a taste
    each = items // TASTES
    rank = np.minimum((each ** rng.random(len(user))).astype(int), each) - 1
    item = 1 + taste + TASTES * rank
    cells = np.unique(user * (items + 1) + item)
    cells = rng.permutation(cells)
    cells = cells[np.argsort(cells // (items + 1), kind="stable")]
    user, item = cells // (items + 1), cells % (items + 1)
    return Events(user.astype(np.int32), item.astype(np.int32), np.ones(len(user), np.float32))


def speed(scratch: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for users, items in given.sizes:
        folder = scratch / f"{users}-{items}"
        shards = exported(folder, users, items, given.events)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in SPEED}
        for number in range(ROUNDS):
            for name, settings in SPEED.items():
                job = job_of(scratch / f"{name}-{users}-{number}", folder, shards, settings)
                taken[name].append(seconds(job, given.steps))
        for name, rounds in taken.items():
            rates = [BATCH / wall for wall, _ in rounds]
            yield {
                "what": "speed",
                "users": users,
                "items": items,
                "optimiser": name,
                "examples_per_s": round(statistics.median(rates)),
                "spread": [round(min(rates)), round(max(rates))],
                "cpu_ms": round(1e3 * statistics.median(cpu for _, cpu in rounds), 2),
            }


def seconds(job: TrainJob, steps: int) -> tuple[float, float]:
    """(wall, CPU of all threads) of a step, in the mean."""
    marks: list[tuple[float, float]] = []

    def stop() -> bool:
        marks.append((time.perf_counter(), time.process_time()))
        return len(marks) > WARM + steps

    Loop(job, Workers(), stop).run()
    (first, first_cpu), (last, last_cpu) = marks[WARM], marks[WARM + steps]
    return (last - first) / steps, (last_cpu - first_cpu) / steps


def quality(scratch: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    users, items = given.sizes[0]
    sets = {
        "planted": (
            scratch / "planted",
            lambda folder: exported(folder, users, items, given.events),
        )
    }
    if (Path(os.environ.get("RECSYS_DATA", "data")) / "ml-1m" / "ratings.dat").exists():
        known = bench_train.interactions()
        sets["ml-1m"] = (
            scratch / "ml-1m",
            lambda folder: bench_train.export(folder, "pairs", *known),
        )
    for what, (folder, export) in sets.items():
        shards = export(folder)
        for name, settings in QUALITY.items():
            job = job_of(scratch / f"{what}-{name}", folder, shards, settings, epochs=given.epochs)
            result = Loop(job, Workers()).run()
            assert result is not None
            value = result.best["ndcg@10"]
            yield {
                "what": what,
                "optimiser": name,
                "best_epoch": result.best_epoch,
                # Of a mean of values from 0 to 1 the variance is largest where they are 0 and 1
                "interval_at_most": round(1.96 * math.sqrt(value * (1 - value) / VALIDATED), 4),
                **result.best,
            }


def exported(folder: Path, users: int, items: int, number: int) -> ShardSet:
    return bench_train.export(
        folder, "pairs", *shardsets.leave_last_out(events(users, items, number))
    )


def job_of(
    run: Path, folder: Path, shards: ShardSet, settings: dict[str, Any], epochs: int = 100
) -> TrainJob:
    train = {
        "batch_size": BATCH,
        "dtype": "float32",
        "epochs": epochs,
        "patience": epochs,
        "optim": {"lr": 0.003, **settings},
        "reader": {"engine": "petastorm"},
        "validate_users": VALIDATED,
        "keep": 1,
    }
    return training.job(run, folder, shards, "bpr_mf", config=CONFIG, **train)


PARTS = {"speed": speed, "quality": quality}


def main() -> None:
    bench_step.as_a_rank()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--sizes",
        nargs="*",
        default=[(138_000, 27_000), (1_000_000, 100_000)],
        type=lambda text: tuple(map(int, text.split(","))),
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(given.threads)
    results = []
    with tempfile.TemporaryDirectory() as name:
        for part in given.parts:
            for line in PARTS[part](Path(name), given):
                results.append({**line, "threads": given.threads})
                print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
