"""Forecast of the speed of a training on another number of ranks, by a model fitted to measured
steps, all-reduces and reads.

    step(N) = max( fixed + row * rows / N + all_reduce(bytes, N),  rows / N / read )
    all_reduce(bytes, N) = 2 ceil(log2 N) * latency + 2 (N - 1) / N * bytes / bandwidth

`fixed` does not shrink with more ranks (the optimiser's pass over all weights, call overheads),
`row` does; reading overlaps with both. The model assumes that every rank is as fast as the measured
one (times `faster`, for another processor), and that the exchange overlaps with nothing.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from typing import NamedTuple

from recsys_spark.core.contracts import TrainJob
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.data.rounds import COUNT_GLOBAL
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import beat, workers

STEPS, WARM = 40, 5  # steps measured for each batch size; the first WARM of them are not counted


class Cost(NamedTuple):
    """Costs of a training, measured on one rank."""

    fixed_s: float  # of a step, independent of its rows
    row_s: float  # of a row of the shard set in a step, its negatives included
    read_rows_per_s: float  # by the reader alone
    exchanged_bytes: int  # gradients of a step
    rank_bytes: int  # memory of a rank, without rows of the shard set
    window_bytes: int  # rows of the shard set in memory, over all ranks


class Network(NamedTuple):
    latency_s: float
    bandwidth: float  # bytes/s that a rank sends while receiving at the same rate


class Forecast(NamedTuple):
    ranks: int
    step_s: float
    examples_per_s: float
    efficiency: float  # examples/s per rank, relative to a single rank
    exchange_share: float  # of the step
    rank_bytes: int
    bottleneck: str


def all_reduce_s(size: int, ranks: int, network: Network) -> float:
    return (
        2 * math.ceil(math.log2(ranks)) * network.latency_s
        + 2 * (ranks - 1) / ranks * size / network.bandwidth
    )


def forecast(
    cost: Cost, network: Network, ranks: int, rows: int, examples_per_row: int, faster: float = 1.0
) -> Forecast:
    """For global batches of `rows`, on a processor `faster` times as fast as the measured one."""
    worked, reading = _parts(cost, network, ranks, rows, faster)
    step = max(sum(worked.values()), reading)
    single_worked, single_reading = _parts(cost, network, 1, rows, faster)
    single_step = max(sum(single_worked.values()), single_reading)
    bottleneck = "reading" if step == reading else max(worked, key=worked.__getitem__)
    return Forecast(
        ranks,
        step,
        rows * examples_per_row / step,
        single_step / step / ranks,
        worked["exchange"] / step,
        cost.rank_bytes + cost.window_bytes // ranks,
        bottleneck,
    )


def fit(steps: dict[int, float]) -> tuple[float, float]:
    """(fixed_s, row_s): least-squares line of the seconds of a step over its rows; neither is
    negative.
    """
    mean_rows, mean_s = statistics.fmean(steps), statistics.fmean(steps.values())
    spread = sum((rows - mean_rows) ** 2 for rows in steps)
    row_s = sum((rows - mean_rows) * (seconds - mean_s) for rows, seconds in steps.items()) / spread
    row_s = min(max(row_s, 0.0), mean_s / mean_rows)
    return mean_s - row_s * mean_rows, row_s


def step_s(job: TrainJob, rows: int) -> float:
    """Median seconds of a step on this many rows, on one rank in this process, reading and drawing
    included. No files remain.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        single_rank = job.workers.model_copy(
            update={"engine": "single", "num_workers": 1, "min_workers": 0}
        )
        settings = job.train.model_copy(
            update={"batch_size": rows, "checkpoint_s": 0.0, "checkpoint_steps": 0}
        )
        measured_job = job.model_copy(
            update={"run_dir": folder, "workers": single_rank, "train": settings}
        )
        Loop(
            measured_job,
            workers.Workers(beat=clock),
            stop=lambda: len(clock.seconds) >= STEPS,
            chosen_for=job.train,  # also on fewer rows
        ).run()
    return statistics.median(clock.seconds[WARM:] or clock.seconds)


def read_rows_per_s(job: TrainJob, limit_s: float = 2.0) -> float:
    """Rows per second of the reader alone, after the first batch."""
    reader = Reader(
        job.shards,
        "train",
        batch_size=job.train.batch_size,
        seed=job.seed,
        settings=job.train.reader,
    )
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
    """Records the seconds between successive steps of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.last = (0, 0.0)

    def tell(
        self, epoch: int, epochs: int, position: int, steps: int, step: int, examples: int
    ) -> None:
        seconds = time.perf_counter()
        if position > 1 and self.last[0] == epoch:
            self.seconds.append(seconds - self.last[1])
        self.last = (epoch, seconds)


def _parts(
    cost: Cost, network: Network, ranks: int, rows: int, faster: float
) -> tuple[dict[str, float], float]:
    """Seconds of a step by category (they add up), and the seconds of reading, which overlaps with
    them.
    """
    exchange = all_reduce_s(cost.exchanged_bytes, ranks, network) if ranks > 1 else 0.0
    return (
        {
            "weights": cost.fixed_s / faster,
            "rows": cost.row_s * rows / ranks / faster,
            "exchange": exchange,
        },
        rows / ranks / cost.read_rows_per_s,
    )
