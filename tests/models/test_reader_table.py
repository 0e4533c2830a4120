"""A manifest that points to a table's own Parquet files: the reader gives their rows, and refuses
what does not fit (no Spark here).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.core.contracts import Part, ShardFile, ShardSet, Table
from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data.reader import Reader
from tests import shardsets

ENGINES = ("petastorm", "arrow", "memory")
DEALT = ((0, 3, 0), (2, 1), (3,))  # virtual shards of the row groups of three files
ROWS, GROUP = 17, 7


def table(first: int = 0, **columns: Any) -> pa.Table:
    """17 rows with numbers of their own, types as Spark has them, and a column of strings that
    nobody reads.
    """
    numbers = np.arange(first, first + ROWS)
    return pa.table(
        {
            "u": numbers + 1,
            "i": pa.array(numbers % 40 + 1, pa.int16()),
            "stars": numbers % 5 + 0.5,
            "name": [f"n{n}" for n in numbers],
            **columns,
        }
    )


def linked(
    folder: Path, location: str | None = None, columns: dict[str, str] | None = None
) -> ShardSet:
    """Three files in `folder`, and a manifest at folder/set."""
    files = []
    for number, shards in enumerate(DEALT):
        path = folder / f"part={number}" / "a b.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table(number * ROWS)[: GROUP * len(shards)], path, row_group_size=GROUP)
        counts = tuple(min(GROUP, ROWS - start) for start in range(0, GROUP * len(shards), GROUP))
        files.append(
            ShardFile(
                path=f"part={number}/a b.parquet",
                virtual_shard=shards,
                row_groups=counts,
                bytes=path.stat().st_size,
            )
        )
    names = columns or {"query_idx": "u", "item_idx": "i", "label": "stars"}
    return shardsets.seal(
        folder / "set",
        ShardSet(
            layout="pointwise",
            columns=shardsets.POINTWISE,
            parts={"train": Part(files=tuple(files))},
            virtual_shards=4,
            num_users=60,
            num_items=40,
            split="s",
            table=Table(location=location or str(folder), version=3, columns=names),
        ),
    )


def steps(
    folder: Path, engine: str = "arrow", ranks: int = 1, start: int = 0
) -> list[list[tuple[Any, ...]]]:
    made: list[list[tuple[Any, ...]]] = []
    for rank in range(ranks):
        reader = Reader(
            folder / "set",
            "train",
            batch_size=10,
            seed=1,
            rank=rank,
            num_ranks=ranks,
            settings=Settings(engine=engine),
        )
        mine = list(reader.epoch(2, start))
        made = made or [[] for _ in mine]
        for batch, rows in zip(mine, made, strict=True):
            assert [batch[name].dtype for name in ("query_idx", "item_idx", "label")] == [
                np.int32,
                np.int32,
                np.float32,
            ]
            rows += zip(
                *(batch[name].tolist() for name in ("row", "query_idx", "item_idx", "label")),
                strict=True,
            )
    return [sorted(rows) for rows in made]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_row_once_in_the_same_order_on_any_ranks(tmp_path: Path, engine: str) -> None:
    linked(tmp_path)
    made = steps(tmp_path, engine)
    numbers = [*range(17), *range(17, 31), *range(34, 41)]
    assert sorted(row[1:] for rows in made for row in rows) == [
        (n + 1, n % 40 + 1, n % 5 + 0.5) for n in numbers
    ]
    for ranks in (2, 4):
        assert steps(tmp_path, engine, ranks) == made
    assert steps(tmp_path, engine, 2, start=2) == made[2:]


def test_a_column_that_the_table_lacks_is_one(tmp_path: Path) -> None:
    linked(tmp_path, columns={"query_idx": "u", "item_idx": "i"})
    assert {label for rows in steps(tmp_path) for *_, label in rows} == {1.0}


def test_a_table_in_a_store_and_its_manifest_here(tmp_path: Path) -> None:
    linked(tmp_path / "here")
    made = linked(tmp_path / "there", location="memory://lake/table")
    fsspec.filesystem("memory").put(str(tmp_path / "there") + "/", "/lake/table", recursive=True)
    for path in (tmp_path / "there").glob("part=*/*"):
        path.unlink()
    assert steps(tmp_path / "there") == steps(tmp_path / "here")
    fsspec.filesystem("memory").rm(f"/lake/table/{made.parts['train'].files[0].path}")
    with pytest.raises(
        ShardError,
        match=r"memory://lake/table/part=0/a b.parquet: found no such file.* run link_shards again",
    ):
        steps(tmp_path / "there")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"u": np.full(ROWS, 1 << 40)}, "column query_idx: found Integer value"),
        ({"u": np.full(ROWS, 1.5)}, "column query_idx: found Float value"),
        ({"stars": pa.nulls(ROWS, pa.float64())}, "column label: found 7 nulls"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    made = linked(tmp_path)
    first, *rest = made.parts["train"].files
    pq.write_table(table(**columns), tmp_path / first.path, row_group_size=GROUP)
    first = first.model_copy(update={"bytes": (tmp_path / first.path).stat().st_size})
    shardsets.seal(
        tmp_path / "set", made.model_copy(update={"parts": {"train": Part(files=(first, *rest))}})
    )
    with pytest.raises(ShardError, match=r"part=0/a b.parquet, row group \d, " + said):
        steps(tmp_path)


def test_a_manifest_that_was_changed_by_hand(tmp_path: Path) -> None:
    linked(tmp_path)
    manifest = tmp_path / "set/manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 4'))
    with pytest.raises(ShardError, match=r"manifest.json, fingerprint"):
        steps(tmp_path)
    with pytest.raises(
        ValueError, match=r"file a: \(0,\) is not a virtual shard for each row group"
    ):
        file = ShardFile(path="a", virtual_shard=(0,), row_groups=(1, 1), bytes=1)
        ShardSet(
            layout="pairs",
            columns=(),
            parts={"train": Part(files=(file,))},
            num_users=1,
            num_items=1,
            split="s",
        )
