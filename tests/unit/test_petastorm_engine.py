"""petastorm reads what it is told in the order it is told, ahead by no more than it may, and stops
when asked.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.core.errors import ShardError
from recsys_spark.train.data import arrow_engine, petastorm_engine, petastorm_shim
from recsys_spark.train.data.arrow_engine import Files, Read
from tests import shardsets

ENGINES = pytest.mark.parametrize("engine", [petastorm_engine, arrow_engine])


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> list[Read]:
    """All 36 row groups, in no order of theirs, one of them twice."""
    folder = tmp_path_factory.mktemp("shards")
    made = shardsets.pointwise(folder, num_users=200, virtual_shards=4, row_group=64)
    found = [
        (str(folder / file.path), group)
        for file in made.parts["train"].files
        for group in range(len(file.row_groups))
    ]
    assert len(found) == 36
    return [*found[::2], *found[1::2][::-1], found[5]]


@ENGINES
def test_tables_come_in_the_order_asked_for(reads: list[Read], engine: object) -> None:
    files = Files(["item_idx", "label"])
    tables = list(engine.read(reads, ["item_idx", "label"], prefetch=3))  # type: ignore[attr-defined]
    assert len(tables) == len(reads)
    for place, table in zip(reads, tables, strict=True):
        expected = files.read(*place)
        assert isinstance(table, pa.Table) and table.select(expected.column_names).equals(expected)


@ENGINES
def test_nothing_asked_for_nothing_read(engine: object) -> None:
    assert list(engine.read([], ["label"], prefetch=1)) == []  # type: ignore[attr-defined]


@ENGINES
@pytest.mark.parametrize("prefetch", [1, 4])
def test_reading_ahead_is_bounded(
    reads: list[Read], engine: object, prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded when batches are used slowly: beside those that wait, one table is being
    read and one handed over.
    """
    done = []
    read = Files.read
    monkeypatch.setattr(
        Files, "read", lambda self, path, group: done.append(path) or read(self, path, group)
    )
    tables = engine.read(reads, ["label"], prefetch=prefetch)  # type: ignore[attr-defined]
    for taken in range(1, 6):
        next(tables)
        time.sleep(0.1)
        assert taken + prefetch <= len(done) <= taken + prefetch + 1
    tables.close()


@ENGINES
def test_closing_stops_the_threads_and_closes_the_files(reads: list[Read], engine: object) -> None:
    before, opened = set(threading.enumerate()), descriptors()
    tables = engine.read(reads, ["label"], prefetch=2)  # type: ignore[attr-defined]
    next(tables)
    assert set(threading.enumerate()) > before and descriptors() > opened
    tables.close()
    assert set(threading.enumerate()) == before and descriptors() == opened
    list(engine.read(reads, ["label"], prefetch=2))  # type: ignore[attr-defined]
    assert set(threading.enumerate()) == before and descriptors() == opened


def descriptors() -> set[str]:
    return {
        str(link.readlink())
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and "parquet" in str(link.readlink())
    }


@ENGINES
def test_an_unknown_row_group_is_named_and_nothing_is_left_running(
    reads: list[Read], engine: object, capfd: pytest.CaptureFixture
) -> None:
    before = set(threading.enumerate())
    path = reads[0][0]
    with pytest.raises(ShardError, match=f"{path}, row group 99") as caught:
        list(engine.read([*reads, (path, 99)], ["label"], prefetch=2))  # type: ignore[attr-defined]
    assert "export_shards" in str(caught.value)
    assert set(threading.enumerate()) == before and capfd.readouterr().err == ""


@ENGINES
def test_an_unexpected_error_of_the_reading_thread_comes_through(
    reads: list[Read], engine: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())

    def out_of_memory(self: Files, path: str, group: int) -> pa.Table:
        raise MemoryError("8 exabytes")

    monkeypatch.setattr(Files, "read", out_of_memory)
    with pytest.raises(MemoryError, match="8 exabytes"):
        list(engine.read(reads, ["label"], prefetch=2))  # type: ignore[attr-defined]
    assert set(threading.enumerate()) == before


def test_no_more_than_so_many_files_are_open_at_once(
    reads: list[Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_engine, "OPEN_FILES", 2)
    files = Files(["label"])
    for place in reads:
        files.read(*place)
        assert len(descriptors()) <= 2
    files.close()
    assert not descriptors()


def test_readers_that_others_make_see_the_columns_of_their_files(reads: list[Read]) -> None:
    assert list(petastorm_engine.read(reads[:1], ["label"], prefetch=1))
    theirs = petastorm_shim.load()
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.workers_pool.thread_pool import ThreadPool

    opened = theirs.Reader(
        None,
        [reads[0][0]],
        reader_pool=ThreadPool(1),
        worker_class=ArrowReaderWorker,
        is_batched_reader=True,
    )
    with opened:
        assert set(next(opened)._fields) == set(pq.read_schema(reads[0][0]).names)


def test_petastorm_loads_without_spark_and_leaves_pyarrow_as_it_was() -> None:
    """A rank must not start a JVM; other users of pyarrow must not see names that it no longer
    has.
    """
    script = """
import sys
for blocked in ("pyspark", "torch", "tensorflow"):
    sys.modules[blocked] = None
import pyarrow, pyarrow.parquet
before = set(dir(pyarrow)), set(dir(pyarrow.lib)), pyarrow.parquet.ParquetDataset
from recsys_spark.train.data import petastorm_engine, petastorm_shim
import petastorm, petastorm.reader
assert petastorm_shim.load() is petastorm.reader is sys.modules["petastorm.reader"]
assert issubclass(petastorm_engine._Reader, petastorm.reader.Reader)
assert (set(dir(pyarrow.lib)), pyarrow.parquet.ParquetDataset) == before[1:]
new = set(dir(pyarrow)) - before[0]
assert not new & {"filesystem", "hdfs", "localfs", "LocalFileSystem"}, new
assert not {"pyarrow.filesystem", "pyarrow.hdfs"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
