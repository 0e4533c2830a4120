"""Tables of 1.1 million rows on two ranks, in parts and whole: milliseconds a step and memory of a
rank.

    python -m tests.benchmarks.bench_sharded [--engine torch|horovod] [--ranks N] [--steps N]
    [--optimisers NAME ...] [--json FILE]

bpr_mf, 64 factors, a million users and 100,000 items, steps of 8,192 pairs at random over all
ranks, one thread each; every line is measured in processes of its own. step_ms is the median.
`held_mb` is what a rank has of weights and moments, `memory_mb` its own memory after the steps
(without files that are mapped), `peak_mb` the most it ever had, the whole tables of the start among
it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recsys_spark.core.contracts import Optim
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn.tables import tables
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import workers
from recsys_spark.train.updates import lookups, optim, step
from recsys_spark.train.updates.sharded import Shard
from recsys_spark.train.updates.step import Stepper
from tests.benchmarks import bench_step

LARGE = 10_000  # rows


def measure(
    environment: dict[str, str],
    rank: int,
    given: argparse.Namespace,
    optimiser: str,
    in_parts: bool,
    told: Any,
) -> None:
    os.environ.update({**environment, workers.RANK: str(rank), workers.SIZE: str(given.ranks)})
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    group = workers.connect(given.engine)
    chosen = Optim(**bench_step.OPTIMISERS[optimiser])
    model = registry.build(
        "bpr_mf", {"dim": 64, "l2": 0.0}, Sizes(bench_step.USERS, bench_step.ITEMS), seed=1
    )
    for each in tables(model):
        if in_parts and len(each.weight) >= LARGE:
            Shard(each, group)
    by_rows = tables(model) if chosen.by_rows else []
    made = optim.build(chosen, model.parameter_groups(), [each.weight for each in by_rows])
    lookups.attach(model, by_rows, made)
    stepper = Stepper(model, made, group, 0.0)
    batches = bench_step.random_pairs(8192 // given.ranks, seed=rank)
    taken = []
    for number in range(given.steps + 1):
        began = time.perf_counter()
        stepper(
            batches[number % len(batches)],
            Context(step=number, training=True, total_steps=1000),
            step.GO_ON,
        )
        taken.append(1e3 * (time.perf_counter() - began))
    if rank == 0:
        held = sum(
            value.nbytes for value in [*model.state_dict().values(), *optim.pack(made)[0].values()]
        )
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        anonymous, peak = (
            int(status[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "VmHWM")
        )
        told.put(
            {
                "what": "sharded",
                "engine": given.engine,
                "ranks": given.ranks,
                "optimiser": optimiser,
                "in_parts": in_parts,
                "step_ms": round(statistics.median(taken[1:]), 1),
                "held_mb": round(held / 1e6),
                "memory_mb": round(anonymous),
                "peak_mb": round(peak),
            }
        )
    group.barrier()
    group.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["torch", "horovod"], default="torch")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--optimisers",
        nargs="+",
        choices=list(bench_step.OPTIMISERS),
        default=["adam", "sparse_adam", "rowwise_adagrad"],
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given, results = parser.parse_args(), []
    context = multiprocessing.get_context("spawn")
    for optimiser in given.optimisers:
        for in_parts in (False, True):
            told = context.Queue()
            with launch.meeting(given.engine, given.ranks) as meeting:
                ranks = [
                    context.Process(
                        target=measure, args=(environment, rank, given, optimiser, in_parts, told)
                    )
                    for rank, environment in enumerate(meeting)
                ]
                for process in ranks:
                    process.start()
                results.append(told.get(timeout=300))
                for process in ranks:
                    process.join()
            print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
