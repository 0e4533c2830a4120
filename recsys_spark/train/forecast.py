"""How fast a training will be on another number of ranks: a model fitted to measured steps, all-reduces and reads.

    step(N) = max( fixed + row * rows / N + all_reduce(bytes, N),  rows / N / read )
    all_reduce(bytes, N) = 2 ceil(log2 N) * latency + 2 (N - 1) / N * bytes / bandwidth

`fixed` does not shrink with more ranks (the optimiser's pass over all weights, the calls), `row` does; reading overlaps with both. Every
rank is taken to be as fast as the one measured (`faster` times it, for another processor), and nothing of the exchange to overlap.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from typing import NamedTuple

from recsys_spark.core.contracts import TrainJob
from recsys_spark.train import beat, workers
from recsys_spark.train.loop import Loop
from recsys_spark.train.reader import COUNT_GLOBAL, Reader

STEPS, WARM = 40, 5  # measured for each size of batch; of these the first are not counted


class Cost(NamedTuple):
    """Of a training, on one rank."""

    fixed_s: float  # of a step, whatever its rows
    row_s: float  # of a row of the shard set in a step, its negatives included
    read_rows_per_s: float  # of the reader alone
    exchanged_bytes: int  # gradients of a step
    rank_bytes: int  # memory of a rank without what it reads
    window_bytes: int  # what all ranks together hold of the shard set


class Network(NamedTuple):
    latency_s: float
    bandwidth: float  # bytes/s that a rank sends while it receives as many


class Forecast(NamedTuple):
    ranks: int
    step_s: float
    examples_per_s: float
    efficiency: float  # examples/s of a rank, over those of one rank alone
    exchange_share: float  # of the step
    rank_bytes: int
    bottleneck: str


def all_reduce_s(size: int, ranks: int, network: Network) -> float:
    return 2 * math.ceil(math.log2(ranks)) * network.latency_s + 2 * (ranks - 1) / ranks * size / network.bandwidth


def forecast(cost: Cost, network: Network, ranks: int, rows: int, examples_per_row: int, faster: float = 1.0) -> Forecast:
    """For global batches of `rows`; `faster` times as fast a processor as the one measured."""
    worked, reading = _parts(cost, network, ranks, rows, faster)
    step = max(sum(worked.values()), reading)
    alone_worked, alone_reading = _parts(cost, network, 1, rows, faster)
    alone = max(sum(alone_worked.values()), alone_reading)
    bottleneck = "reading" if step == reading else max(worked, key=worked.__getitem__)
    return Forecast(ranks, step, rows * examples_per_row / step, alone / step / ranks, worked["exchange"] / step,
                    cost.rank_bytes + cost.window_bytes // ranks, bottleneck)


def fit(steps: dict[int, float]) -> tuple[float, float]:
    """(fixed_s, row_s) of the straight line through the seconds of a step by its rows, by least squares; neither is negative."""
    mean_rows, mean_s = statistics.fmean(steps), statistics.fmean(steps.values())
    spread = sum((rows - mean_rows) ** 2 for rows in steps)
    row_s = sum((rows - mean_rows) * (seconds - mean_s) for rows, seconds in steps.items()) / spread
    row_s = min(max(row_s, 0.0), mean_s / mean_rows)
    return mean_s - row_s * mean_rows, row_s


def step_s(job: TrainJob, rows: int) -> float:
    """Median seconds of a step on this many rows, on one rank in this process, reading and drawing included. Writes nothing that stays."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        alone = job.workers.model_copy(update={"engine": "single", "num_workers": 1, "min_workers": 0})
        settings = job.train.model_copy(update={"batch_size": rows, "checkpoint_s": 0.0, "checkpoint_steps": 0})
        made = job.model_copy(update={"run_dir": folder, "workers": alone, "train": settings})
        Loop(made, workers.Workers(beat=clock), stop=lambda: len(clock.seconds) >= STEPS).run()
    return statistics.median(clock.seconds[WARM:] or clock.seconds)


def read_rows_per_s(job: TrainJob, limit_s: float = 2.0) -> float:
    """Of the reader alone, rows a second after the first batch."""
    reader = Reader(job.shards, "train", batch_size=job.train.batch_size, seed=job.seed, settings=job.train.reader)
    rows, started = 0, 0.0
    for batch in reader.epoch(0, 0):
        if not started:
            started = time.perf_counter()
            continue
        rows += batch[COUNT_GLOBAL]
        if time.perf_counter() - started > limit_s:
            break
    return rows / max(time.perf_counter() - started, 1e-9) if rows else math.inf


class _Clock(beat.Beat):
    """Seconds between two steps of one epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.last = (0, 0.0)

    def tell(self, epoch: int, epochs: int, position: int, steps: int, step: int, examples: int) -> None:
        now = time.perf_counter()
        if position > 1 and self.last[0] == epoch:
            self.seconds.append(now - self.last[1])
        self.last = (epoch, now)


def _parts(cost: Cost, network: Network, ranks: int, rows: int, faster: float) -> tuple[dict[str, float], float]:
    """Seconds of a step that add up, by what they go into, and those of reading, which go on beside."""
    exchange = all_reduce_s(cost.exchanged_bytes, ranks, network) if ranks > 1 else 0.0
    return ({"weights": cost.fixed_s / faster, "rows": cost.row_s * rows / ranks / faster, "exchange": exchange},
            rows / ranks / cost.read_rows_per_s)
