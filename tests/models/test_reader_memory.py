"""Engine `memory`: what is read once is never read again, and what would not fit is refused before
the first step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data import arrow_engine
from recsys_spark.train.data.memory_engine import Memory
from recsys_spark.train.data.reader import Reader
from tests import shardsets


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every row group that is read from a file."""
    done: list[tuple[str, int]] = []
    read = arrow_engine.Files.read

    def noted(self: arrow_engine.Files, path: str, group: int) -> pa.Table:
        done.append((path, group))
        return read(self, path, group)

    monkeypatch.setattr(arrow_engine.Files, "read", noted)
    return done


def opened(folder: Path, memory_bytes: int = 0, **arguments: Any) -> Reader:
    settings = Settings(engine="memory", memory_bytes=memory_bytes)
    return Reader(folder, "train", **{"batch_size": 32, "seed": 0, **arguments}, settings=settings)


def test_each_row_group_of_the_rank_is_read_once_whatever_epochs_follow(
    tmp_path: Path, reads: list[tuple[str, int]]
) -> None:
    made = shardsets.pointwise(tmp_path, virtual_shards=8)
    reader = opened(tmp_path, rank=1, num_ranks=2)
    assert not reads  # opening reads no row
    for epoch in range(3):
        list(reader.epoch(epoch, start_step=epoch))
    groups = {
        (str(tmp_path / file.path), group)
        for file in made.parts["train"].files
        if file.virtual_shard % 2 == 1
        for group in range(len(file.row_groups))
    }
    assert len(reads) == len(groups) and set(reads) == groups


def test_an_epoch_left_while_it_is_being_read_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shardsets.pointwise(tmp_path, virtual_shards=8)
    expected = [batch["row"].tolist() for batch in opened(tmp_path).epoch(1)]
    reader, fill = opened(tmp_path), Memory.fill

    def stopped(self: Memory, tables: Any, decode: Any, stop: Any) -> bool:
        stop.set()
        return fill(self, tables, decode, stop)

    monkeypatch.setattr(Memory, "fill", stopped)
    assert list(reader.epoch(0)) == []
    monkeypatch.setattr(Memory, "fill", fill)
    assert [batch["row"].tolist() for batch in reader.epoch(1)] == expected


@pytest.mark.parametrize("layout", ["pointwise", "profile"])
def test_what_would_not_fit_is_refused_with_both_sizes(tmp_path: Path, layout: str) -> None:
    made = getattr(shardsets, layout)(tmp_path, virtual_shards=8)
    rows, entries = made.parts["train"].rows, made.side["seen"].entries
    needed = 12 * rows if layout == "pointwise" else 4 * rows + 2 * 8 * rows + 2 * 4 * entries
    assert opened(tmp_path, memory_bytes=needed).rows == rows
    with pytest.raises(ShardError) as caught:
        opened(tmp_path, memory_bytes=needed - 1)
    message = str(caught.value)
    assert (
        f"found {needed:,} bytes; expected at most {needed - 1:,} bytes" in message
        and "train.reader.memory_bytes" in message
    )


def test_the_largest_share_of_all_ranks_decides_on_each_of_them(tmp_path: Path) -> None:
    table = pa.table(
        {
            "query_idx": pa.array(range(40), pa.int32()),
            "item_idx": pa.array(range(40), pa.int32()),
            "label": pa.array([1.0] * 40, pa.float32()),
        }
    )
    shardsets.write(
        tmp_path,
        "pointwise",
        shardsets.POINTWISE,
        {"train": [table[:10], table[10:]]},
        num_users=40,
        num_items=40,
        virtual_shards=2,
    )
    for rank in (0, 1):
        assert opened(tmp_path, memory_bytes=30 * 12, rank=rank, num_ranks=2).steps == 2
        with pytest.raises(ShardError, match="worker 1 of 2: found 360 bytes"):
            opened(tmp_path, memory_bytes=30 * 12 - 1, rank=rank, num_ranks=2)


def test_without_a_budget_it_is_half_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shardsets.pointwise(tmp_path)
    host = type("Host", (), {"total": 2 * 12 * made.parts["train"].rows})
    monkeypatch.setattr("recsys_spark.train.data.memory_engine.psutil.virtual_memory", lambda: host)
    assert opened(tmp_path).rows
    host.total -= 2
    with pytest.raises(ShardError, match="half of the memory of this host"):
        opened(tmp_path)
