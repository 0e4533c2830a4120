"""Two ranks on two cores beside one rank on one core, what the fitted model says of them, and what
a checkpoint costs.

    python -m tests.benchmarks.bench_scaling [--repeats N] [--json FILE]

    neumf 8, neumf 64   batch 8,192 rows (neumf 8 also 65,536), each a positive with one negative (2
                        layers)
    multi_vae           batch 1,024 users (600 hidden, 64 latent)

Each rank is held to one core with all its threads, those of the reader included. Rounds of one rank
alone, of one rank beside a twin that trains for itself on the other core (with the whole batch and
half of it, to fit fixed and per-row seconds: they share a bus), two ranks by each engine, and
all-reduces of three sizes between two ranks follow each other, so that a busy neighbour meets all.
Before each of these all-reduces both ranks multiply matrices for as long as a step takes, the same
number each: who has worked comes late, or waits asleep, which costs more than the copying. Figures
are medians of the rounds, and `best` takes the fastest epoch of each, which a neighbour disturbs
least. The prediction for two ranks uses nothing that was measured on two ranks of a training.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from recsys_spark.core.contracts import ShardSet
from recsys_spark.train import forecast
from recsys_spark.train.forecast import Cost, Network
from recsys_spark.train.launcher import launch
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from tests import training
from tests.benchmarks.bench_train import export, interactions

CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "neumf 8": ("neumf", "pointwise", 8192, {"dim": 8, "num_layers": 2, "num_negatives": 1}),
    "neumf 8, 65,536 rows": (
        "neumf",
        "pointwise",
        65536,
        {"dim": 8, "num_layers": 2, "num_negatives": 1},
    ),
    "neumf 64": ("neumf", "pointwise", 8192, {"dim": 64, "num_layers": 2, "num_negatives": 1}),
    "multi_vae": ("multi_vae", "profile", 1024, {"hidden_dim": 600, "latent_dim": 64}),
}
SIZES = (4_096, 262_144, 4_194_304)  # floats
EPOCHS = 4  # the first is not counted


def beside_s(*case: Any, batch: int) -> list[float]:
    """The same of one rank, while another one trains for itself on the other core."""
    with ThreadPoolExecutor(2) as pool:
        twins = [pool.submit(step_s, *case, batch, 1, "single", core) for core in (0, 1)]
        return [seconds for twin in twins for seconds in twin.result()]


def step_s(
    scratch: Path,
    shards: Path,
    made: ShardSet,
    case: str,
    batch: int,
    number: int,
    engine: str,
    core: int = 0,
) -> list[float]:
    """Seconds of a step in each epoch but the first."""
    model, _, _, config = CASES[case]
    job = training.job(
        Path(tempfile.mkdtemp(dir=scratch)),
        shards,
        made,
        model,
        engine=engine,
        num_workers=number,
        dtype="float32",
        epochs=EPOCHS,
        patience=EPOCHS,
        batch_size=batch,
        config=config,
        timeout_s=300.0,
    )
    codes = training.train_on_ranks(job, limit_s=300, pinned=core)
    assert codes == [0] * number, f"{case} on {number} ranks of {engine} ended with {codes}"
    lines = [
        json.loads(line) for line in (Path(job.run_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    steps = lines[0]["step"]
    return [line["seconds"] / steps for line in lines[1:]]


def _exchange(rank: int, engine: str, environment: dict[str, str], work_s: float, out: Any) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[rank : rank + 1])
    os.environ.update({**environment, workers.RANK: str(rank), workers.SIZE: "2"})
    torch.set_num_threads(1)
    group, seconds = workers.connect(engine), {}
    left, right = torch.rand(2, 256, 256)
    began = time.perf_counter()
    for _ in range(200):
        left @ right
    pace = torch.tensor([time.perf_counter() - began])
    group.all_reduce_sum([pace])
    products = round(work_s / (float(pace) / 400))
    for size in SIZES:
        gradients, flat, times = torch.ones(size), torch.empty(size), []
        for _ in range(45):
            for _ in range(products):
                left @ right
            started = time.perf_counter()
            flat.copy_(gradients)  # as a step does
            group.all_reduce_sum([flat])
            times.append(time.perf_counter() - started)
        # A step pays the mean; a tenth may be a neighbour's
        seconds[size] = statistics.fmean(sorted(times[5:])[:-4])
    out.put(seconds)
    out.close()
    out.join_thread()
    group.barrier()
    os._exit(0)  # both at once: neither complains of the other


def exchanges(engine: str, work_s: float) -> dict[int, float]:
    """floats -> seconds of an all-reduce between two ranks that have each worked so long before it,
    a mean over both.
    """
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    with launch.meeting(engine, 2) as meeting:
        ranks = [
            context.Process(target=_exchange, args=(rank, engine, environment, work_s, out))
            for rank, environment in enumerate(meeting)
        ]
        for process in ranks:
            process.start()
        found = [out.get(timeout=120) for _ in ranks]
        for process in ranks:
            process.join(10)
            process.kill()
    return {size: statistics.fmean(each[size] for each in found) for size in SIZES}


def saving(
    scratch: Path, shards: Path, made: ShardSet, case: str, apart: bool
) -> tuple[float, float]:
    """(seconds that a save holds up the steps, seconds until it is on disk)."""
    model, _, batch, config = CASES[case]
    job = training.job(
        Path(tempfile.mkdtemp(dir=scratch)),
        shards,
        made,
        model,
        dtype="float32",
        batch_size=batch,
        config=config,
        checkpoint_async=apart,
    )
    asked = iter([False] * 5 + [True] * 9)
    Loop(job, workers.Workers(), stop=lambda: next(asked)).run()  # the optimiser has its moments
    loop, held, whole = Loop(job, workers.Workers()), [], []
    for number in range(5):
        loop.state.step = 100 + number
        started = time.perf_counter()
        loop._save()
        held.append(time.perf_counter() - started)
        loop.parts.saver.wait()
        whole.append(time.perf_counter() - started)
    return statistics.median(held), statistics.median(whole)


def parameters(shards: Path, made: ShardSet, scratch: Path, case: str) -> int:
    model, _, batch, config = CASES[case]
    job = training.job(
        Path(tempfile.mkdtemp(dir=scratch)),
        shards,
        made,
        model,
        dtype="float32",
        batch_size=batch,
        config=config,
    )
    return sum(parameter.numel() for parameter in Loop(job, workers.Workers()).model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--engines", nargs="*", default=["torch", "horovod"], choices=["torch", "horovod"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, held = interactions()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        exported = {
            layout: export(scratch / layout, layout, train, held)
            for layout in {CASES[case][1] for case in given.cases}
        }
        for case in given.cases:
            _, layout, batch, _ = CASES[case]
            where = (scratch, scratch / layout, exported[layout], case)
            found: dict[Any, list[Any]] = defaultdict(list)
            for _ in range(given.repeats):
                found[1].extend(step_s(*where, batch, 1, "single"))
                for size in (batch, batch // 2):
                    found["beside", size].extend(beside_s(*where, batch=size))
                for engine in given.engines:
                    found[engine].extend(step_s(*where, batch, 2, engine))
                    found["all", engine].append(
                        exchanges(engine, statistics.median(found["beside", batch // 2]))
                    )
            one = statistics.median(found[1])
            fixed_s, row_s = forecast.fit(
                {size: statistics.median(found["beside", size]) for size in (batch, batch // 2)}
            )
            size = 4 * parameters(scratch / layout, exported[layout], scratch, case)
            for engine in given.engines:
                two = statistics.median(found[engine])
                seconds = {
                    floats: statistics.median(each[floats] for each in found["all", engine])
                    for floats in SIZES
                }
                latency, per_float = forecast.fit(seconds)
                network = Network(max(latency, seconds[SIZES[0]]) / 2, 4 / per_float)
                cost = Cost(fixed_s, row_s, 1e12, size, 0, 0)
                said = forecast.forecast(cost, network, 2, batch, 1)
                _tell(
                    results,
                    {
                        "case": case,
                        "batch": batch,
                        "engine": engine,
                        "one_ms": 1e3 * one,
                        "two_ms": 1e3 * two,
                        "speedup": one / two,
                        "best_one_ms": 1e3 * min(found[1]),
                        "best_two_ms": 1e3 * min(found[engine]),
                        "best_speedup": min(found[1]) / min(found[engine]),
                        "beside_ms": 1e3 * statistics.median(found["beside", batch]),
                        "predicted_ms": 1e3 * said.step_s,
                        "off": said.step_s / two - 1,
                        "fixed_ms": 1e3 * fixed_s,
                        "exchange_ms": 1e3 * forecast.all_reduce_s(size, 2, network),
                        "exchange_share": said.exchange_share,
                        "megabytes": size / 1e6,
                        "latency_us": 1e6 * network.latency_s,
                        "gbit_s": network.bandwidth * 8e-9,
                    },
                )
            for apart in (False, True):
                blocked, whole = saving(*where, apart)
                _tell(
                    results,
                    {
                        "case": case,
                        "checkpoint": "async" if apart else "sync",
                        "held_ms": 1e3 * blocked,
                        "written_ms": 1e3 * whole,
                        "share_of_30_s": whole / 30,
                        "held_share_of_30_s": blocked / 30,
                    },
                )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def _tell(results: list[dict[str, Any]], told: dict[str, Any]) -> None:
    results.append(
        {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in told.items()
        }
    )
    print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
