"""How fast (user, item, label) shards become shuffled batches, and in how much memory. `python -m tests.benchmarks.bench_reader --help`

Every line is measured in a process of its own, with the files in the page cache: rows/s is the median epoch of three (of fewer
when they are slow) after one for warming up. The memory lines train nothing: they take every batch of 20 epochs and note the
resident memory after each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.core import contracts, shardset
from recsys_spark.train.petastorm_shim import load
from recsys_spark.train.reader import Reader
from tests import shardsets

BATCH = 8192
ROWS, MEMORY_ROWS = 16_000_000, 100_000_000
EPOCHS, LIMIT_S = 3, 10.0  # no further epoch of a reader after that many seconds
MEMORY_EPOCHS, MEMORY_LIMIT_S = 20, 400.0


def generate(folder: Path, rows: int, row_group: int = 16384, virtual_shards: int = 64) -> None:
    """Uniform users and items, half-star ratings; one virtual shard in memory at a time."""

    def tables() -> Iterator[pa.Table]:
        for v in range(virtual_shards):
            rng = np.random.default_rng(v)
            n = rows // virtual_shards + (v < rows % virtual_shards)
            yield pa.table({"user_idx": rng.integers(1, 1_000_000, n, dtype=np.int32),
                            "item_idx": rng.integers(1, 50_000, n, dtype=np.int32),
                            "label": rng.integers(1, 11, n).astype(np.float32) / 2})

    shardsets.write(folder, "pointwise", shardsets.POINTWISE, {"train": tables()}, num_users=1_000_000, num_items=50_000,
                    row_group=row_group)


def ours(folder: Path, engine: str) -> Callable[[int], int]:
    reader = Reader(folder, "train", batch_size=BATCH, seed=0, settings=contracts.Reader(engine=engine))
    return lambda epoch: sum(len(batch["user_idx"]) for batch in reader.epoch(epoch))


def petastorm_loader(folder: Path, queue: int) -> Callable[[int], int]:
    reader = load()
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.pytorch import BatchedDataLoader
    from petastorm.workers_pool.thread_pool import ThreadPool

    paths = [str(folder / file.path) for file in shardset.load(folder).parts["train"].files]

    def epoch(number: int) -> int:
        opened = reader.Reader(None, paths, reader_pool=ThreadPool(1), worker_class=ArrowReaderWorker, seed=number, is_batched_reader=True)
        with BatchedDataLoader(opened, batch_size=BATCH, shuffling_queue_capacity=queue) as loader:
            return sum(len(batch["user_idx"]) for batch in loader)

    return epoch


def pyarrow_permuted(folder: Path) -> Callable[[int], int]:
    """Row groups in random order, the rows of each permuted, cut into batches: no shuffling beyond the group, no other thread."""
    files = [(pq.ParquetFile(folder / file.path), group) for file in shardset.load(folder).parts["train"].files
             for group in range(len(file.row_groups))]

    def epoch(number: int) -> int:
        rng, rows = np.random.default_rng(number), 0
        for place in rng.permutation(len(files)):
            file, group = files[place]
            table = file.read_row_group(group, use_threads=False)
            order = rng.permutation(len(table))
            shuffled = {name: np.take(table.column(name).to_numpy(), order) for name in table.column_names}
            for start in range(0, len(table), BATCH):
                rows += len({name: column[start:start + BATCH] for name, column in shuffled.items()}["user_idx"])
        return rows

    return epoch


READERS: dict[str, Callable[[Path], Callable[[int], int]]] = {
    "recsys_spark, petastorm engine": lambda folder: ours(folder, "petastorm"),
    "recsys_spark, arrow engine": lambda folder: ours(folder, "arrow"),
    "petastorm BatchedDataLoader, no queue": lambda folder: petastorm_loader(folder, 0),
    "petastorm BatchedDataLoader, queue of 200 k": lambda folder: petastorm_loader(folder, 200_000),
    "pyarrow read_row_group, permuted": pyarrow_permuted,
}


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(name: str, folder: Path, epochs: int, limit_s: float) -> dict[str, Any]:
    """In this process: one epoch to warm up, then `epochs`."""
    before = resident()
    epoch = READERS[name](folder)
    rows = epoch(0)
    rates, memory = [], [resident()]
    for number in range(1, epochs + 1):
        started = time.perf_counter()
        assert epoch(number) == rows, "an epoch of another length"
        rates.append(rows / (time.perf_counter() - started))
        memory.append(resident())
        if sum(rows / rate for rate in rates) > limit_s:
            break
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"reader": name, "rows": rows, "rows_per_s": statistics.median(rates), "rss_before": before, "rss_by_epoch": memory,
            "rss_peak": int(status["VmHWM"].split()[0]) * 1024}


def run(folder: Path, rows: int = ROWS, memory_rows: int = MEMORY_ROWS, readers: tuple[str, ...] = tuple(READERS)) -> dict[str, Any]:
    """All figures; prints a table. Makes its data in `folder` where it is not there yet. memory_rows 0: without the memory lines."""
    results: dict[str, Any] = {"batch_size": BATCH, "speed": [], "memory": []}
    speed = _data(folder, rows)
    print(f"| reader, {rows:,} rows of (user, item, label) | million rows/s | peak memory, MB |\n|---|---|---|")
    for name in readers:
        results["speed"].append(line := _apart(name, speed, EPOCHS, LIMIT_S))
        print(f"| {name} | {line['rows_per_s'] / 1e6:.1f} | {line['rss_peak'] / 1e6:.0f} |", flush=True)
    if memory_rows:
        large = _data(folder, memory_rows)
        size = sum(file.bytes for file in shardset.load(large).parts["train"].files)
        print(f"\n| memory, {memory_rows:,} rows ({12 * memory_rows / 1e9:.2f} GB in memory, {size / 1e9:.2f} GB in files), "
              f"{MEMORY_EPOCHS} epochs | after epoch 1 | after the last | peak, MB | million rows/s |\n|---|---|---|---|---|")
        for name in [name for name in readers if name.startswith("recsys_spark")]:
            results["memory"].append(line := _apart(name, large, MEMORY_EPOCHS, MEMORY_LIMIT_S))
            figures = [line["rss_by_epoch"][1], line["rss_by_epoch"][-1], line["rss_peak"]]
            print(f"| {name} | {' | '.join(f'{figure / 1e6:.0f}' for figure in figures)} | {line['rows_per_s'] / 1e6:.1f} |", flush=True)
    return results


def _data(folder: Path, rows: int) -> Path:
    made = folder / f"shards-{rows}"
    if not (made / contracts.MANIFEST).exists():
        generate(made, rows)
    return made


def _apart(name: str, folder: Path, epochs: int, limit_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_reader", "--measure", name, "--folder", str(folder), "--epochs", str(epochs),
               "--limit", str(limit_s)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "recsys-bench-reader", help="of the generated shards")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--memory-rows", type=int, default=MEMORY_ROWS, help="0: no memory lines")
    parser.add_argument("--readers", nargs="*", choices=list(READERS), default=list(READERS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(READERS), help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, given.epochs, given.limit)))
        return
    results = run(given.folder, given.rows, given.memory_rows, tuple(given.readers))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
