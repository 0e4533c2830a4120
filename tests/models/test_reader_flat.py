"""Fifty epochs leave no more behind than ten: no thread, no open file, no memory."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.train.data.reader import Reader
from tests import shardsets

KEPT_BYTES = 64 << 10  # that may come and go between two epochs: Python's own caches


@pytest.mark.parametrize("engine", ["petastorm", "arrow", "memory"])
def test_fifty_epochs_are_as_ten(tmp_path: Path, engine: str) -> None:
    shardsets.pointwise(tmp_path, num_users=100, virtual_shards=4, row_group=64)
    reader = Reader(
        tmp_path,
        "train",
        batch_size=100,
        seed=0,
        settings=Settings(engine=engine, window_row_groups=2),
    )

    def left() -> tuple[int, int, int, int]:
        gc.collect()
        return (
            threading.active_count(),
            len(list(Path("/proc/self/fd").iterdir())),
            pa.total_allocated_bytes(),
            (tracemalloc.get_traced_memory()[0]),
        )

    tracemalloc.start()
    try:
        for epoch in range(50):
            for batch in reader.epoch(epoch):
                assert len(batch["row"])
            del batch
            if epoch == 9:
                threads, files, arrow, python = left()
        after = left()
    finally:
        tracemalloc.stop()
    assert after[:3] == (threads, files, arrow)
    assert after[3] < python + KEPT_BYTES
