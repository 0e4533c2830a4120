"""How fast shards become shuffled batches, and in how much memory. `python -m
tests.benchmarks.bench_reader --help`

Three kinds of rows: (user, item, label); these with a list of 20 items; these with 30 float
features. Files are in the page cache, and every measurement has a process of its own: one epoch to
warm up, then one that counts (cut after LIMIT_S). The readers take turns, ROUNDS times, so that a
busy neighbour meets all of them: figures are medians over the rounds, ratios medians of the ratios
within a round.
The memory lines train nothing: they take every batch of 50 epochs and note the resident memory
    after each.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from recsys_spark.core.contracts import Column
from recsys_spark.train.data.blocks import from_arrow
from recsys_spark.train.data.petastorm_shim import load
from recsys_spark.train.data.reader import Reader
from tests import shardsets

BATCH = 8192
ROWS, MEMORY_ROWS = 16_000_000, 100_000_000
ROUNDS, LIMIT_S = 3, 4.0
MEMORY_EPOCHS, MEMORY_LIMIT_S = 50, 900.0
LIST, FEATURES = 20, 30
KINDS = {
    "narrow": (),
    "list": (Column(name="history", dtype="int32", shape=(LIST,)),),
    "features": tuple(
        Column(name=f"event_f{number}", dtype="float32") for number in range(FEATURES)
    ),
}
# Of ROWS: one in so many; row groups shrink alike, so that a shard has 15 of them
SHARE = {
    "narrow": 1,
    "list": 4,
    "features": 4,
}
BASE = "pyarrow read_row_group, permuted"
Epoch = Callable[[int], Iterator[int]]  # number -> rows of each batch


def generate(folder: Path, kind: str, rows: int, virtual_shards: int = 64) -> None:
    """Uniform users and items, half-star ratings; one virtual shard in memory at a time."""

    def tables() -> Iterator[pa.Table]:
        for v in range(virtual_shards):
            rng = np.random.default_rng(v)
            n = rows // virtual_shards + (v < rows % virtual_shards)
            more = (
                {}
                if kind == "narrow"
                else {
                    "history": pa.FixedSizeListArray.from_arrays(
                        rng.integers(1, 50_000, n * LIST, dtype=np.int32), LIST
                    ).cast(pa.list_(pa.int32()))
                }
                if kind == "list"
                else {column.name: rng.random(n, dtype=np.float32) for column in KINDS[kind]}
            )
            yield pa.table(
                {
                    "query_idx": rng.integers(1, 1_000_000, n, dtype=np.int32),
                    "item_idx": rng.integers(1, 50_000, n, dtype=np.int32),
                    "label": rng.integers(1, 11, n).astype(np.float32) / 2,
                    **more,
                }
            )

    shardsets.write(
        folder,
        "pointwise",
        (*shardsets.POINTWISE, *KINDS[kind]),
        {"train": tables()},
        num_users=1_000_000,
        num_items=50_000,
        row_group=16384 // SHARE[kind],
    )


def ours(folder: Path, engine: str) -> Epoch:
    reader = Reader(
        folder, "train", batch_size=BATCH, seed=0, settings=contracts.Reader(engine=engine)
    )
    return lambda number: (len(batch["query_idx"]) for batch in reader.epoch(number))


def petastorm_loader(folder: Path, queue: int) -> Epoch:
    reader = load()
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.pytorch import BatchedDataLoader
    from petastorm.workers_pool.thread_pool import ThreadPool

    paths = [str(folder / file.path) for file in shardset.load(folder).parts["train"].files]

    def epoch(number: int) -> Iterator[int]:
        opened = reader.Reader(
            None,
            paths,
            reader_pool=ThreadPool(1),
            worker_class=ArrowReaderWorker,
            seed=number,
            is_batched_reader=True,
        )
        with BatchedDataLoader(opened, batch_size=BATCH, shuffling_queue_capacity=queue) as loader:
            yield from (len(batch["query_idx"]) for batch in loader)

    return epoch


def pyarrow_permuted(folder: Path) -> Epoch:
    """Row groups in random order, the rows of each permuted, cut into batches: no shuffling beyond
    the group, no other thread.
    """
    shards = shardset.load(folder)
    files = [
        (pq.ParquetFile(folder / file.path), group)
        for file in shards.parts["train"].files
        for group in range(len(file.row_groups))
    ]

    def epoch(number: int) -> Iterator[int]:
        rng = np.random.default_rng(number)
        for place in rng.permutation(len(files)):
            file, group = files[place]
            table = file.read_row_group(group, use_threads=False)
            order = rng.permutation(len(table))
            shuffled = {
                column.name: np.take(
                    from_arrow(table.column(column.name), column, ""), order, axis=0
                )
                for column in shards.columns
            }
            for start in range(0, len(table), BATCH):
                yield len(
                    {name: column[start : start + BATCH] for name, column in shuffled.items()}[
                        "query_idx"
                    ]
                )

    return epoch


def torch_loader(folder: Path) -> Epoch:
    """The whole set in memory, gathered by a batch sampler."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    shards = shardset.load(folder)
    table = pa.concat_tables(
        [pq.read_table(folder / file.path) for file in shards.parts["train"].files]
    )
    data = TensorDataset(
        *(
            torch.from_numpy(np.array(from_arrow(table.column(column.name), column, "")))
            for column in shards.columns
        )
    )

    def epoch(number: int) -> Iterator[int]:
        torch.manual_seed(number)
        yield from (
            len(batch[0])
            for batch in DataLoader(
                data, sampler=BatchSampler(RandomSampler(data), BATCH, False), batch_size=None
            )
        )

    return epoch


def datasets_loader(folder: Path) -> Epoch:
    """Hugging Face datasets, streaming, with a shuffle buffer."""
    import datasets

    files = [str(folder / file.path) for file in shardset.load(folder).parts["train"].files]
    stream = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=True
    ).with_format("torch")
    return lambda number: (
        len(batch["query_idx"])
        for batch in stream.shuffle(seed=number, buffer_size=200_000).iter(BATCH)
    )


READERS: dict[str, Callable[[Path], Epoch]] = {
    "recsys_spark, petastorm engine": lambda folder: ours(folder, "petastorm"),
    "recsys_spark, arrow engine": lambda folder: ours(folder, "arrow"),
    "recsys_spark, memory engine, after the first epoch": lambda folder: ours(folder, "memory"),
    BASE: pyarrow_permuted,
    "petastorm BatchedDataLoader, no queue": lambda folder: petastorm_loader(folder, 0),
    "petastorm BatchedDataLoader, queue of 200 k": lambda folder: petastorm_loader(folder, 200_000),
    "torch DataLoader, batch sampler, in memory": torch_loader,
    **(
        {"datasets, streaming, buffer of 200 k": datasets_loader}
        if importlib.util.find_spec("datasets")
        else {}
    ),
}


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(name: str, folder: Path, epochs: int, limit_s: float) -> dict[str, Any]:
    """In this process: one epoch to warm up, then `epochs`, each cut after `limit_s`. Memory lines:
    `limit_s` for all of them.
    """
    before = resident()
    epoch = READERS[name](folder)
    _take(epoch(0), limit_s)
    rates, cpu, memory, began = [], [], [resident()], time.perf_counter()
    for number in range(1, epochs + 1):
        started, used = time.perf_counter(), time.process_time()
        rows = _take(epoch(number), limit_s)
        rates.append(rows / (time.perf_counter() - started))
        cpu.append((time.process_time() - used) / rows)
        memory.append(resident())
        if time.perf_counter() - began > limit_s:
            break
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "reader": name,
        "rows": rows,
        "rows_per_s": statistics.median(rates),
        "cpu_ns_per_row": 1e9 * statistics.median(cpu),
        "epochs": len(rates),
        "rss_before": before,
        "rss_by_epoch": memory,
        "rss_peak": int(status["VmHWM"].split()[0]) * 1024,
    }


def _take(batches: Iterator[int], limit_s: float) -> int:
    started, rows = time.perf_counter(), 0
    for size in batches:
        rows += size
        if time.perf_counter() - started > limit_s:
            break
    batches.close()  # type: ignore[attr-defined]
    return rows


def run(
    folder: Path,
    rows: int = ROWS,
    memory_rows: int = MEMORY_ROWS,
    readers: tuple[str, ...] = tuple(READERS),
    kinds: tuple[str, ...] = tuple(KINDS),
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """All figures; prints tables. Makes its data in `folder` where it is not there yet. memory_rows
    0: without the memory lines.
    """
    results: dict[str, Any] = {
        "batch_size": BATCH,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "speed": {},
        "memory": [],
    }
    for kind in kinds:
        made = _data(folder, kind, rows // SHARE[kind])
        lines: dict[str, list[dict[str, Any]]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name in readers:
                lines[name].append(_apart(name, made, 1, LIMIT_S))
        results["speed"][kind] = lines
        _print_speed(kind, lines)
    if memory_rows:
        large = _data(folder, "narrow", memory_rows)
        size = sum(file.bytes for file in shardset.load(large).parts["train"].files)
        print(
            f"\n| memory, {memory_rows:,} rows ({12 * memory_rows / 1e9:.2f} GB in memory, "
            f"{size / 1e9:.2f} GB in files) "
            "| epochs | after epoch 1 | after the last | peak, MB |\n|---|---|---|---|---|"
        )
        for name in [name for name in readers if name.startswith("recsys_spark")]:
            results["memory"].append(line := _apart(name, large, MEMORY_EPOCHS, MEMORY_LIMIT_S))
            figures = [line["rss_by_epoch"][1], line["rss_by_epoch"][-1], line["rss_peak"]]
            print(
                f"| {name} | {line['epochs']} | "
                f"{' | '.join(f'{figure / 1e6:.0f}' for figure in figures)} |",
                flush=True,
            )
    print(
        f"\n{results['cpus']} cores, load {results['load']:.1f} at the start and "
        f"{os.getloadavg()[0]:.1f} at the end"
    )
    return results


def _print_speed(kind: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    most = max(line["rows"] for found in lines.values() for line in found)
    print(
        f"\n| {kind}, {most:,} rows | million rows/s | least .. most | times {BASE.split(',')[0]} "
        "| CPU ns a row | peak memory, MB |\n"
        "|---|---|---|---|---|---|"
    )
    for name, found in lines.items():
        rates = [line["rows_per_s"] / 1e6 for line in found]
        ratio = f"{ratio_of_medians(found, lines[BASE]):.2f}" if BASE in lines else ""
        cpu, peak = (
            statistics.median(line["cpu_ns_per_row"] for line in found),
            max(line["rss_peak"] for line in found) / 1e6,
        )
        print(
            f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} .. {max(rates):.1f} | "
            f"{ratio} | {cpu:.0f} | {peak:.0f} |",
            flush=True,
        )


def _data(folder: Path, kind: str, rows: int) -> Path:
    made = folder / f"{kind}-{rows}"
    if not (made / contracts.MANIFEST).exists():
        generate(made, kind, rows)
    return made


def _apart(name: str, folder: Path, epochs: int, limit_s: float) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.benchmarks.bench_reader",
        "--measure",
        name,
        "--folder",
        str(folder),
        "--epochs",
        str(epochs),
        "--limit",
        str(limit_s),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def ratio_of_medians(lines: list[dict[str, float]], base: list[dict[str, float]]) -> float:
    """The median of rows a second over those of `base`, run by run."""
    pairs = zip(lines, base, strict=True)
    return statistics.median(line["rows_per_s"] / other["rows_per_s"] for line, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "recsys-bench-reader",
        help="of the generated shards",
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="of the narrow set")
    parser.add_argument("--memory-rows", type=int, default=MEMORY_ROWS, help="0: no memory lines")
    parser.add_argument("--readers", nargs="*", choices=list(READERS), default=list(READERS))
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(READERS), help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, given.epochs, given.limit)))
        return
    results = run(
        given.folder,
        given.rows,
        given.memory_rows,
        tuple(given.readers),
        tuple(given.kinds),
        given.rounds,
    )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
