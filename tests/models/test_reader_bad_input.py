"""Shards that cannot be read are refused by name, before a worker waits for another, and are left
as they were.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data.reader import Reader
from tests import shardsets

ENGINES = ("petastorm", "arrow", "memory")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    shardsets.pointwise(tmp_path / "shards", virtual_shards=8, row_group=16)
    return tmp_path / "shards"


@pytest.fixture(autouse=True)
def nothing_changed(shards: Path, request: pytest.FixtureRequest) -> Iterator[list[dict[str, str]]]:
    """Reading leaves every file of the folder as the test made it, and no thread behind."""
    expected: list[dict[str, str]] = [contents(shards)]
    threads = set(threading.enumerate())
    yield expected
    assert contents(shards) == expected[0]
    assert set(threading.enumerate()) <= threads


def contents(folder: Path) -> dict[str, str]:
    return {str(path): artifacts.file_digest(path) for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, part: str = "train", **arguments: Any) -> str:
    with pytest.raises(ShardError) as caught:
        Reader(folder, part, **{"batch_size": 32, "seed": 0, **arguments})
    return str(caught.value)


def refused_while_reading(folder: Path, engine: str) -> str:
    opened = Reader(folder, "train", batch_size=32, seed=0, settings=Settings(engine=engine))
    with pytest.raises(ShardError) as caught:
        list(opened.epoch(0))
    return str(caught.value)


def replaced(folder: Path, table: pa.Table, expected: list[dict[str, str]], **options: Any) -> Path:
    """Another table in place of the file of virtual shard 0, and a manifest that knows its size,
    but not its contents.
    """
    path = folder / "train" / "v00.parquet"
    pq.write_table(table, path, **{"row_group_size": 16, **options})
    return sealed(folder, path, expected)


def sealed(folder: Path, path: Path, expected: list[dict[str, str]]) -> Path:
    made = ShardSet.model_validate_json((folder / "manifest.json").read_bytes())
    first, *rest = made.parts["train"].files
    first = first.model_copy(
        update={"bytes": path.stat().st_size, "digest": artifacts.file_digest(path)}
    )
    part = made.parts["train"].model_copy(update={"files": (first, *rest)})
    shardsets.seal(folder, made.model_copy(update={"parts": {**made.parts, "train": part}}))
    expected[0] = contents(folder)
    return path


def test_no_folder(shards: Path) -> None:
    message = refused(shards / "nowhere")
    assert "nowhere/manifest.json: found no such file" in message and "export_shards" in message


def test_a_file_is_missing_or_cut(shards: Path, nothing_changed: list[dict[str, str]]) -> None:
    victim = shards / "train" / "v03.parquet"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    nothing_changed[0] = contents(shards)
    message = refused(shards)
    assert (
        f"{victim}: found {len(whole) - 7} bytes; expected {len(whole)} bytes" in message
        and "export_shards" in message
    )
    victim.unlink()
    nothing_changed[0] = contents(shards)
    assert f"{victim}: found no such file" in refused(shards)


def test_a_manifest_changed_by_hand(shards: Path, nothing_changed: list[dict[str, str]]) -> None:
    manifest = shards / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_items": 40', '"num_items": 41'))
    nothing_changed[0] = contents(shards)
    assert "manifest.json, fingerprint" in refused(shards)


def test_workers_that_do_not_divide_the_virtual_shards(shards: Path) -> None:
    message = refused(shards, num_ranks=3)
    assert (
        "8 virtual shards for 3 workers" in message
        and "divides" in message
        and "workers.num_workers" in message
    )


def test_fewer_row_groups_than_workers(tmp_path: Path, shards: Path) -> None:
    few = tmp_path / "few"
    table = pq.read_table(shards / "train" / "v00.parquet")
    shardsets.write(
        few,
        "pointwise",
        shardsets.POINTWISE,
        {"train": [table[:4], table[4:9], table[9:11]]},
        num_users=60,
        num_items=40,
        virtual_shards=8,
    )
    for rank in range(4):  # all of them, not only the one that has no rows
        message = refused(few, rank=rank, num_ranks=4)
        assert f"{few}, part train: found 3 row groups, none of them for worker 3 of 4" in message
        assert "lower workers.num_workers" in message
    assert Reader(few, "train", batch_size=4, seed=0, rank=1, num_ranks=2).steps == 3


def test_a_part_without_rows(tmp_path: Path) -> None:
    shardsets.write(
        tmp_path / "none", "pointwise", shardsets.POINTWISE, {"train": []}, num_users=1, num_items=1
    )
    assert "part train: found no rows; expected at least one" in refused(tmp_path / "none")


def test_unknown_part_and_column(shards: Path) -> None:
    message = refused(shards, "valdi")
    assert "part 'valdi'" in message and "train, valid (did you mean 'valid'?)" in message
    message = refused(shards, columns=("query_idx", "item_id"))
    assert (
        "column 'item_id'" in message
        and "query_idx, item_idx, label" in message
        and "did you mean 'item_idx'?" in message
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_data_names_file_and_row_group(
    shards: Path, nothing_changed: list[dict[str, str]], engine: str
) -> None:
    victim = shards / "train" / "v00.parquet"
    start = pq.read_metadata(victim).row_group(2).column(1).data_page_offset
    data = bytearray(victim.read_bytes())
    data[start + 40] ^= 0xFF  # a value: only the page's checksum shows it
    victim.write_bytes(data)
    nothing_changed[0] = contents(shards)
    # The size is right, so only reading it can tell
    message = refused_while_reading(shards, engine)
    assert f"shard file {victim}, row group 2: found" in message and "export_shards" in message


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_not_parquet(
    shards: Path, nothing_changed: list[dict[str, str]], engine: str
) -> None:
    victim = shards / "train" / "v00.parquet"
    victim.write_bytes(b"x" * victim.stat().st_size)
    nothing_changed[0] = contents(shards)
    message = refused_while_reading(shards, engine)
    assert f"shard file {victim}" in message and "expected Parquet data" in message


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_vanishes_after_the_check(tmp_path: Path, shards: Path, engine: str) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(shards, gone)
    opened = Reader(gone, "train", batch_size=32, seed=0, settings=Settings(engine=engine))
    (gone / "train" / "v05.parquet").unlink()
    with pytest.raises(ShardError, match=r"v05\.parquet"):
        list(opened.epoch(0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("row_group", [15, 100])
def test_other_row_groups_than_the_manifest_says(
    shards: Path, nothing_changed: list[dict[str, str]], engine: str, row_group: int
) -> None:
    path = replaced(
        shards,
        pq.read_table(shards / "train" / "v00.parquet"),
        nothing_changed,
        row_group_size=row_group,
    )
    message = refused_while_reading(shards, engine)
    assert f"shard file {path}, row group" in message and "export_shards" in message
    if row_group == 15:
        assert (
            "found 15 rows; expected 16, as the manifest says" in message
            or "found 8 rows; expected 3" in message
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_that_the_manifest_does_not_promise(
    shards: Path, nothing_changed: list[dict[str, str]], engine: str
) -> None:
    table = pq.read_table(shards / "train" / "v00.parquet")
    other = {
        "lacks": table.drop_columns(["label"]),
        "type": table.set_column(1, "item_idx", table["item_idx"].cast(pa.int64())),
        "nulls": table.set_column(
            2, "label", pa.array(np.ones(len(table), np.float32), mask=np.arange(len(table)) == 5)
        ),
        "shape": table.set_column(
            2, "label", pa.array([[1.0]] * len(table), pa.list_(pa.float32()))
        ),
    }
    found = dict.fromkeys(other, "")
    for name, wrong in other.items():
        path = replaced(shards, wrong, nothing_changed)
        found[name] = refused_while_reading(shards, engine)
        assert f"shard file {path}, row group" in found[name] and "export_shards" in found[name]
    assert "expected also label" in found["lacks"]
    assert "column item_idx: found int64; expected int32" in found["type"]
    assert "column label: found 1 nulls; expected float32 without nulls" in found["nulls"]
    assert "column label: found list<" in found["shape"]
