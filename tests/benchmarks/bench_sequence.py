"""Models of what comes next: targets a second of a training step, on one thread.

    python -m tests.benchmarks.bench_sequence [--steps N] [--items N] [--rows N] [--json FILE]

Histories at random, of 20 to 400 events (a mean of 160, as in MovieLens-1M), in rows of up to 200
targets; 64 wide. A figure is the median of the steps. `gather_ms` is what a step's windows take
from the histories. With --items 1000000 the scores of a step are never all in memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Optim
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.train.feed.shared import Shared
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.updates import optim
from recsys_spark.train.updates.step import GO_ON, Stepper

USERS, LENGTH = 2000, 200
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec, all items": ("sasrec", {}),
    "sasrec, 1,024 shared": ("sasrec", {"loss": "sampled", "shared_negatives": 1024}),
    "sasrec, bce, one negative": ("sasrec", {"loss": "bce"}),
    "gru4rec, all items": ("gru4rec", {}),
    "gru4rec, 1,024 shared": ("gru4rec", {"loss": "sampled", "shared_negatives": 1024}),
}


def histories(items: int) -> Ragged:
    rng = np.random.default_rng(1)
    lengths = np.minimum(20 + rng.exponential(140, USERS), 400).astype(np.int64)
    offsets = np.concatenate([[0, 0], lengths.cumsum()])
    values = rng.integers(1, items + 1, offsets[-1]).astype(np.int32)
    return Ragged(torch.from_numpy(offsets), torch.from_numpy(values))


def batches(history: Ragged, items: int, rows: int, steps: int) -> tuple[list[Windows], float]:
    """(batches with their windows and negatives, milliseconds that a step's windows took)."""
    lengths, rng = history.offsets.diff().numpy(), np.random.default_rng(2)
    later, taken, made = torch.ones(len(history.values)), 0.0, []
    shared = Shared(np.bincount(history.values, minlength=items + 1), 1024, 0.5, seed=1)
    for step in range(steps):
        user = rng.integers(1, USERS + 1, rows)
        last = lengths[user]
        first = np.maximum(last - LENGTH, 1)
        numbers = {c.QUERY_IDX: user, c.FIRST: first, c.LAST: last}
        batch = Windows.of({name: column.astype(np.int32) for name, column in numbers.items()})
        began = time.perf_counter()
        batch = batch.reading(history, later, LENGTH)
        taken += time.perf_counter() - began
        negative = torch.from_numpy(rng.integers(1, items + 1, (len(batch.following), 1)))
        made.append(batch.beside(negative).sharing(*shared.draw(0, step)))
    return made, 1e3 * taken / steps


def measure(case: str, given: list[Windows], items: int) -> dict[str, Any]:
    name, config = CASES[case]
    model = registry.build(name, {"length": LENGTH, **config}, Sizes(USERS, items), seed=1)
    stepper = Stepper(model, optim.build(Optim(), model.parameter_groups()), Workers(), 0.0)
    seconds = []
    for step, batch in enumerate(given):
        began = time.perf_counter()
        stepper(batch, Context(step=step, training=True), GO_ON)
        seconds.append(time.perf_counter() - began)
    targets = statistics.mean(int((batch.following > 0).sum()) for batch in given)
    median = statistics.median(seconds[1:])
    return {
        "case": case,
        "items": items,
        "targets_per_s": round(targets / median),
        "step_ms": round(1e3 * median, 1),
        "slowest_ms": round(1e3 * max(seconds[1:]), 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--items", type=int, default=3416)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    made, gather_ms = batches(histories(given.items), given.items, given.rows, given.steps)
    lines = [{"gather_ms": round(gather_ms, 2), "rows": given.rows}]
    lines += [measure(case, made, given.items) for case in CASES]
    for line in lines:
        print(json.dumps(line), flush=True)
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
