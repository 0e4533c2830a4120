"""The reader gives the rows of the files in the promised order, whatever the engine, the ranks, the
rounds and the start.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.contracts import Column
from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data import arrow_engine, reader
from recsys_spark.train.data.blocks import Ragged
from recsys_spark.train.data.reader import Reader
from tests import shardsets

V, GROUP = 16, 8
# One shard empty, up to 6 row groups, the last ones short
SIZES = [0 if v == 3 else 37 + v % 5 for v in range(V)]
ENGINES = ("petastorm", "arrow", "memory")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """query_idx = virtual shard, item_idx = row within its file; lists of item_idx % 4 entries; a
    vector of 3.
    """
    folder = tmp_path_factory.mktemp("shards")
    tables = []
    for v, size in enumerate(SIZES):
        place = np.arange(size, dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum(place % 4)]).astype(np.int32)
        tables.append(
            pa.table(
                {
                    "query_idx": np.full(size, v, np.int32),
                    "item_idx": place,
                    "label": place.astype(np.float32) / 2,
                    "list": pa.ListArray.from_arrays(
                        offsets, np.arange(offsets[-1], dtype=np.int32)
                    ),
                    "vector": pa.FixedSizeListArray.from_arrays(
                        np.arange(3 * size, dtype=np.float32), 3
                    ),
                }
            )
        )
    columns = (
        *shardsets.POINTWISE,
        Column(name="list", dtype="int32", shape=(-1,)),
        Column(name="vector", dtype="float32", shape=(3,)),
    )
    shardsets.write(
        folder,
        "pointwise",
        columns,
        {"train": tables, "valid": [table[:2] for table in tables]},
        num_users=V,
        num_items=50,
        virtual_shards=V,
        row_group=GROUP,
    )
    return folder


def open_reader(
    folder: Path,
    part: str = "train",
    *,
    engine: str = "arrow",
    window: int = 2,
    prefetch: int = 2,
    **arguments: Any,
) -> Reader:
    settings = Settings(engine=engine, window_row_groups=window, prefetch=prefetch)
    return Reader(folder, part, **{"batch_size": 50, "seed": 7, **arguments}, settings=settings)


def ids(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(batch["query_idx"].tolist(), batch["item_idx"].tolist(), strict=True))


def same(batches: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, Ragged):
            return all(equal(*pair) for pair in zip(one, other, strict=True))
        return np.array_equal(one, other) and getattr(one, "dtype", None) == getattr(
            other, "dtype", None
        )

    return len(batches) == len(others) and all(
        one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
        for one, other in zip(batches, others, strict=True)
    )


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (
        left := [thread.name for thread in threading.enumerate() if thread not in before]
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_is_every_row_once_with_its_columns_kept_together(
    shards: Path, engine: str
) -> None:
    opened = open_reader(shards, engine=engine)
    batches = list(opened.epoch(0))
    assert len(batches) == opened.steps == -(-sum(SIZES) // 50)
    assert Counter(pair for batch in batches for pair in ids(batch)) == Counter(
        (v, p) for v, size in enumerate(SIZES) for p in range(size)
    )
    starts = [np.concatenate([[0], np.cumsum(np.arange(size) % 4)]) for size in SIZES]
    for batch in batches:
        assert batch["count_global"] == len(batch["query_idx"])
        assert {
            name: batch[name].dtype.name for name in ("query_idx", "item_idx", "label", "row")
        } == {
            "query_idx": "int32",
            "item_idx": "int32",
            "label": "float32",
            "row": "int64",
        }
        assert batch["label"].tolist() == [p / 2 for _, p in ids(batch)]
        assert "weight" not in batch and Rows.of(batch).weight.tolist() == [1] * len(batch["row"])
        assert batch["vector"].tolist() == [[3 * p, 3 * p + 1, 3 * p + 2] for _, p in ids(batch)]
        ragged = batch["list"]
        assert ragged.offsets[0] == 0 and len(ragged.offsets) == len(batch["row"]) + 1
        for number, (v, p) in enumerate(ids(batch)):
            assert ragged.values[
                ragged.offsets[number] : ragged.offsets[number + 1]
            ].tolist() == list(range(starts[v][p], starts[v][p + 1]))
        assert (batch["row"] >> 32).tolist() == batch["query_idx"].tolist()
    for v, size in enumerate(SIZES):  # p counts the rows of a shard through the epoch
        rows = np.concatenate([batch["row"] for batch in batches])
        assert (rows[rows >> 32 == v] & 0xFFFFFFFF).tolist() == list(range(size))


@pytest.mark.parametrize("epoch", [0, 3])
def test_all_engines_give_the_same_batches(shards: Path, epoch: int) -> None:
    first, *others = (list(open_reader(shards, engine=engine).epoch(epoch)) for engine in ENGINES)
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize(
    ("num_ranks", "engine"),
    [(2, "arrow"), (8, "arrow"), (4, "petastorm"), (1, "memory"), (2, "memory"), (4, "memory")],
)
def test_the_ranks_together_read_what_one_reads(shards: Path, num_ranks: int, engine: str) -> None:
    alone = list(open_reader(shards).epoch(1))
    ranks = [
        list(open_reader(shards, engine=engine, rank=rank, num_ranks=num_ranks).epoch(1))
        for rank in range(num_ranks)
    ]
    for step, batch in enumerate(alone):
        parts = [steps[step] for steps in ranks]
        assert sorted(
            pair for part in parts for pair in zip(part["row"].tolist(), ids(part), strict=True)
        ) == list(zip(batch["row"].tolist(), ids(batch), strict=True))
        assert {part["count_global"] for part in parts} == {len(batch["row"])}
        assert all(np.diff(part["row"]).min(initial=1) > 0 for part in parts)  # by (v, p)
    assert {len(steps) for steps in ranks} == {len(alone)}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_taken_up_at_any_step_goes_on_as_it_would_have(shards: Path, engine: str) -> None:
    for rank, num_ranks in ((0, 1), (3, 4)):
        opened = open_reader(shards, engine=engine, rank=rank, num_ranks=num_ranks)
        whole = list(opened.epoch(2))
        for start in range(opened.steps + 1):
            assert same(list(opened.epoch(2, start)), whole[start:])


def test_neither_the_size_of_rounds_nor_read_ahead_changes_a_batch(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(open_reader(shards).epoch(0))
    assert same(list(open_reader(shards, prefetch=50).epoch(0)), expected)
    for size in (1, 3000):
        monkeypatch.setattr(reader, "ROUND_BYTES", size)
        assert same(list(open_reader(shards, prefetch=1).epoch(0)), expected)


def test_epochs_and_seeds_differ_and_repeat(shards: Path) -> None:
    def rows(seed: int, epoch: int) -> list[tuple[int, int]]:
        return [
            pair for batch in open_reader(shards, seed=seed).epoch(epoch) for pair in ids(batch)
        ]

    assert rows(7, 0) == rows(7, 0)
    assert rows(7, 0) != rows(7, 1) and rows(7, 0) != rows(8, 0)


def test_a_rank_without_rows_in_a_step_still_gets_its_batch(shards: Path) -> None:
    steps = [
        list(open_reader(shards, part="valid", batch_size=2, rank=rank, num_ranks=8).epoch(0))
        for rank in range(8)
    ]
    assert {len(batches) for batches in steps} == {15}
    empty = [batch for batches in steps for batch in batches if not len(batch["row"])]
    assert empty and all(
        len(batch["list"].values) == 0 and batch["vector"].shape == (0, 3) for batch in empty
    )
    assert sum(batch["count_global"] for batch in steps[5]) == 30


def test_batches_are_the_callers_to_keep_and_change(shards: Path) -> None:
    expected = list(open_reader(shards).epoch(0))
    for batch in open_reader(shards).epoch(0):
        batch["label"] += 1.0
        batch["query_idx"][:] = 0
    assert same(list(open_reader(shards).epoch(0)), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_chosen_columns_alone_are_read(shards: Path, engine: str) -> None:
    batch = next(open_reader(shards, engine=engine, columns=("item_idx", "list")).epoch(0))
    assert set(batch) == {"item_idx", "list", "row", "count_global"}
    with pytest.raises(ShardError, match="column 'weight'"):
        open_reader(shards, engine=engine, columns=("label", "weight"))


def test_weights_of_the_shards_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {
            "query_idx": np.arange(9, dtype=np.int32),
            "item_idx": np.arange(9, dtype=np.int32),
            "label": np.ones(9, np.float32),
            "weight": np.arange(9, dtype=np.float32),
        }
    )
    columns = (*shardsets.POINTWISE, Column(name="weight", dtype="float32"))
    shardsets.write(
        tmp_path,
        "pointwise",
        columns,
        {"train": [table]},
        num_users=9,
        num_items=9,
        virtual_shards=1,
    )
    batch = next(Reader(tmp_path, "train", batch_size=9, seed=0).epoch(0))
    assert batch["weight"].tolist() == batch["query_idx"].tolist() and sorted(
        batch["weight"]
    ) == list(range(9))


@pytest.mark.parametrize("engine", ENGINES)
def test_profiles_come_with_all_their_items(tmp_path: Path, engine: str) -> None:
    made = shardsets.profile(tmp_path, num_users=50)
    indptr, items = (
        np.load(tmp_path / made.side["seen"].indptr),
        np.load(tmp_path / made.side["seen"].indices),
    )
    seen = []
    for batch in Reader(
        tmp_path, "train", batch_size=16, seed=0, settings=Settings(engine=engine)
    ).epoch(0):
        assert "weight" not in batch
        for number, user in enumerate(batch["query_idx"].tolist()):
            first, last = batch["item_idx"].offsets[number : number + 2]
            assert (
                batch["item_idx"].values[first:last].tolist()
                == items[indptr[user] : indptr[user + 1]].tolist()
            )
            assert (
                last - first == batch["value"].offsets[number + 1] - batch["value"].offsets[number]
            )
            seen.append(user)
    assert sorted(seen) == list(range(1, 51))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_left_early_stops_its_threads(shards: Path, engine: str) -> None:
    batches = open_reader(shards, engine=engine, batch_size=5).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    # An error of the training step, with the epoch abandoned in the frame
    with pytest.raises(ZeroDivisionError):
        for batch in open_reader(shards, engine=engine, batch_size=5).epoch(0):
            _ = 1 / (batch["count_global"] - batch["count_global"])


def test_ctrl_c_while_waiting_for_a_batch_comes_through(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = arrow_engine.Files.read

    def slow(self: arrow_engine.Files, path: str, group: int) -> pa.Table:
        time.sleep(0.02)
        return read(self, path, group)

    monkeypatch.setattr(arrow_engine.Files, "read", slow)
    started = time.monotonic()
    threading.Timer(
        0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    ).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in open_reader(shards, engine="petastorm").epoch(0):
            pass
    # Not after all the row groups of the round, 46 * 0.02 s
    assert time.monotonic() - started < 0.8
