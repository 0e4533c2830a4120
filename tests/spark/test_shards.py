"""Dealing rows to virtual shards, and the files that a task writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ShardError
from recsys_spark.etl import layout as layouts
from recsys_spark.etl.shards import arrays, side
from recsys_spark.etl.shards import export as shards
from recsys_spark.etl.shards import writer as shard_writer
from recsys_spark.etl.shards.writer import PART, SHARD, Target
from recsys_spark.train.data import sides as sides_of
from tests import toys
from tests.spark.prepared import of_split

POINTWISE = layouts.of("pointwise", "value")
EVENTS = "query_idx int, item_idx int, ts long, value double"


def target(folder: Path, rows: int = 10) -> Target:
    return Target(str(folder), ("train", "valid"), POINTWISE.columns, POINTWISE.statistics_of, rows)


def batch(part: int, shard: int, users: range) -> pa.RecordBatch:
    size = len(users)
    return pa.record_batch(
        {
            PART: pa.array([part] * size, pa.int32()),
            SHARD: pa.array([shard] * size, pa.int32()),
            "query_idx": pa.array(users, pa.int32()),
            "item_idx": pa.array([7] * size, pa.int32()),
            "label": pa.array([float(user) for user in users], pa.float32()),
        }
    )


def test_row_groups_are_equal_whatever_the_batches(tmp_path: Path) -> None:
    stream = [
        batch(0, 3, range(4)),
        batch(0, 3, range(4, 23)),
        batch(0, 3, range(23, 24)),
        batch(0, 3, range(24, 27)),
    ]
    mixed = (
        pa.Table.from_batches([batch(0, 4, range(3)), batch(1, 0, range(2))])
        .combine_chunks()
        .to_batches()
    )
    facts = [
        row
        for made in shard_writer.write([*stream, *mixed], target(tmp_path))
        for row in made.to_pylist()
    ]
    assert [(fact["part"], fact["virtual_shard"], fact["row_groups"]) for fact in facts] == [
        (0, 3, [10, 10, 7]),
        (0, 4, [3]),
        (1, 0, [2]),
    ]
    file = tmp_path / "train/v03.parquet"
    meta = pq.read_metadata(file)
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [10, 10, 7]
    assert pq.read_table(file).column("query_idx").to_pylist() == list(range(27))
    assert pq.read_schema(file) == target(tmp_path).schema()
    assert (
        facts[0]["bytes"] == file.stat().st_size
        and facts[0]["label_sum"] == sum(range(27))
        and facts[0]["label_max"] == 26
    )
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == [
        "v00.parquet",
        "v03.parquet",
        "v04.parquet",
    ]


def test_a_task_that_fails_leaves_no_half_file_and_its_retry_the_same_bytes(tmp_path: Path) -> None:
    def dies() -> object:
        yield batch(0, 0, range(25))
        raise RuntimeError("the executor is lost")

    with pytest.raises(RuntimeError):
        list(shard_writer.write(dies(), target(tmp_path / "a")))  # type: ignore[arg-type]
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == []
    whole = [batch(0, 0, range(25)), batch(0, 0, range(25, 31))]
    first, second = (
        [
            row
            for made in shard_writer.write(whole, target(tmp_path / "a"))
            for row in made.to_pylist()
        ]
        for _ in range(2)
    )
    assert first == second


def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "_Hashing", lambda sink: Full(sink))
    (fact,) = (
        row
        for made in shard_writer.write([batch(0, 0, range(50))], target(tmp_path))
        for row in made.to_pylist()
    )
    assert "No space left" in fact["error"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(
        ShardError,
        match=r"shard folder .*: found no space left.*; expected room .* To mend: free space there",
    ):
        shards._collected([fact], target(tmp_path), {})


class Full(shard_writer._Hashing):
    """A real file on a device that is always full takes the place of the sink."""

    def write(self, data: object) -> int:
        with open("/dev/full", "wb", buffering=0) as full:
            return os.write(full.fileno(), bytes(data))  # type: ignore[call-overload]


@pytest.mark.parametrize("rows", [1, 5, 64, 65, 1000])
def test_sizes_differ_by_at_most_one_and_groups_fit(rows: int) -> None:
    sizes = shards.sizes(rows, 64)
    assert (
        sum(sizes) == rows and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    )
    group = shards.group_rows(rows, 64, 16384)
    assert group == {1: 1, 5: 1, 64: 1, 65: 1, 1000: 4}[rows]
    assert shards.group_rows(100_000_000, 64, 16384) == 16384


def deal(
    spark: SparkSession, folder: Path, count: int, *, seed: int = 1, partitions: int = 3
) -> list[list[int]]:
    """item_idx = 1 .. count, in the order each virtual shard has them."""
    rows = spark.range(1, count + 1, 1, partitions).selectExpr(
        "1 query_idx", "cast(id as int) item_idx", "id ts", "1D value", "'train' part"
    )
    parts, _ = shards.write(
        {"train": POINTWISE.rows(rows, "train")},
        POINTWISE.columns,
        str(folder),
        seed=seed,
        virtual_shards=8,
        row_group_rows=16,
    )
    return [
        pq.read_table(folder / file.path).column("item_idx").to_pylist()
        for file in parts["train"].files
    ]


def test_dealing_is_even_random_and_the_same_on_any_partitioning(
    spark: SparkSession, tmp_path: Path
) -> None:
    dealt = deal(spark, tmp_path / "a", 4001)
    assert [len(rows) for rows in dealt] == [501] + [500] * 7
    everything = [row for rows in dealt for row in rows]
    assert sorted(everything) == list(range(1, 4002))
    # Neither within nor between shards does the place tell the row: |r| of n random pairs is
    # below 4 / sqrt(n).
    assert abs(np.corrcoef(everything[:-1], everything[1:])[0, 1]) < 4 / 4000**0.5
    assert abs(np.corrcoef(everything, np.arange(4001))[0, 1]) < 4 / 4000**0.5
    assert deal(spark, tmp_path / "b", 4001, partitions=7) == dealt
    assert deal(spark, tmp_path / "c", 4001, seed=2) != dealt


def test_fewer_rows_than_shards_go_one_each_to_the_first(
    spark: SparkSession, tmp_path: Path
) -> None:
    assert [len(rows) for rows in deal(spark, tmp_path, 5)] == [1] * 5


def test_a_profile_is_sorted_and_keeps_the_latest_event(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [(2, 9, 1, 1.0), (2, 4, 5, 2.0), (2, 9, 7, 3.0), (1, 5, 1, 4.0), (2, 9, 3, 5.0)], EVENTS
    )
    events = of_split(events.selectExpr("*", "'train' part"))
    rows = layouts.of("profile", "value").rows(events, "train").rows.collect()
    assert sorted((row["query_idx"], row["item_idx"], row["value"]) for row in rows) == [
        (1, [5], [4.0]),
        (2, [4, 9], [2.0, 3.0]),
    ]


def test_one_of_whom_nothing_is_known_has_an_empty_profile(spark: SparkSession) -> None:
    """Item 7 is new in valid; item 9 was rated twice by user 2 before, and twice in valid: the
    latest is known, both are held.
    """
    events = spark.createDataFrame(
        [
            (2, 9, 1, 1.0, "train"),
            (2, 9, 7, 3.0, "train"),
            (1, 4, 2, 2.0, "train"),
            (2, 9, 8, 4.0, "valid"),
            (2, 9, 9, 5.0, "valid"),
            (1, 7, 9, 2.0, "valid"),
            (1, 4, 9, 1.0, "test"),
        ],
        EVENTS + ", part string",
    )
    events, layout = of_split(events), layouts.of("profile", "value", "item")
    found = {
        part: {
            row["item_idx"]: tuple(
                row[name] for name in ("query_idx", "value", "held_idx", "held_value")
            )
            for row in layout.rows(events, part).rows.collect()
        }
        for part in ("train", "valid")
    }
    assert found == {
        "train": {9: ([2], [3.0], [], []), 4: ([1], [2.0], [], [])},
        "valid": {9: ([2], [3.0], [2, 2], [4.0, 5.0]), 7: ([], [], [1], [2.0])},
    }


def test_a_pair_counts_once_however_often_it_met(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [(2, 9, 1, 1.0), (2, 4, 5, 2.0), (2, 9, 7, 3.0), (1, 5, 1, 4.0)], EVENTS
    )
    events = events.selectExpr("*", "'train' part")
    made = layouts.of("pairs", "value").rows(events, "train")
    for frame in (made.rows, made.keys):
        assert sorted((row["query_idx"], row["item_idx"]) for row in frame.collect()) == [
            (1, 5),
            (2, 4),
            (2, 9),
        ]


@pytest.mark.parametrize("range_events", [1, 4, 1000])
def test_side_files_hold_sorted_items_once_by_user(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_events: int
) -> None:
    monkeypatch.setattr(side, "RANGE_EVENTS", range_events)
    seen = [(3, 9), (3, 2), (1, 4), (3, 9), (5, 1), (5, 8)]
    frames = {
        "seen": side.Side(
            spark.createDataFrame(seen, "query_idx int, item_idx int").repartition(3)
        ),
        "targets": side.Side(spark.createDataFrame([(2, 6)], "query_idx int, item_idx int")),
    }
    made = side.write(frames, str(tmp_path), num_users=6, events=7)
    read = {
        name: [np.load(tmp_path / file, mmap_mode="r") for file in (csr.indptr, csr.indices)]
        for name, csr in made.items()
    }
    assert read["seen"][0].tolist() == [0, 0, 1, 1, 3, 3, 5, 5] and read["seen"][1].tolist() == [
        4,
        2,
        9,
        1,
        8,
    ]
    assert read["targets"][0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1] and read["targets"][
        1
    ].tolist() == [6]
    assert (
        read["seen"][0].dtype == np.int64
        and read["seen"][1].dtype == np.int32
        and made["seen"].rows == 7
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        file for csr in made.values() for file in (csr.indptr, csr.indices)
    }


@pytest.mark.parametrize("range_events", [1, 1000])
def test_side_files_keep_order_repeats_and_values_where_asked(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_events: int
) -> None:
    monkeypatch.setattr(side, "RANGE_EVENTS", range_events)
    events = [(3, 9, 5, 0.5), (3, 2, 7, 1.5), (1, 4, 1, 2.5), (3, 9, 1, 3.5), (3, 9, 6, 4.5)]
    rows = spark.createDataFrame(events, "query_idx int, item_idx int, ts long, value double")
    sides = {
        "history": side.Side(rows.repartition(3), by="ts", values="value"),
        "items": side.Side(rows, values="value"),
    }
    written = side.write(sides, str(tmp_path), num_users=3, events=10)
    history, items = written["history"], written["items"]
    assert history.ordered and not items.ordered
    read = {
        name: [a.tolist() for a in sides_of.csr(str(tmp_path), csr)]
        for name, csr in written.items()
    }
    assert read["history"] == [[0, 0, 1, 1, 5], [4, 9, 9, 9, 2]]
    assert sides_of.values(str(tmp_path), history).tolist() == [2.5, 3.5, 0.5, 4.5, 1.5]
    assert read["items"] == [[0, 0, 1, 1, 3], [4, 2, 9]]
    assert sides_of.values(str(tmp_path), items).tolist() == [2.5, 1.5, 0.5]


@pytest.mark.parametrize("piece_bytes", [16, 1 << 20])
def test_an_array_has_zeros_where_nothing_is_known(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(arrays, "PIECE_BYTES", piece_bytes)
    rows = spark.createDataFrame(
        [(4, [1.0, 2.0, 3.0, 4.0]), (1, [0.5, 0.0, -1.0, 9.0])], "item_idx int, image array<double>"
    )
    for dtype in ("float16", "uint8"):
        shaped = rows if dtype == "float16" else rows.where("item_idx = 4")
        array = arrays.write(shaped, dtype, str(tmp_path), num_rows=5, shape=(2, 2), dtype=dtype)
        there = sides_of.array(str(tmp_path), array)
        assert there.dtype == dtype and there.shape == (6, 2, 2)
        assert there[4].tolist() == [[1, 2], [3, 4]] and not there[[0, 2, 3, 5]].any()
        assert array.bytes + 128 == (tmp_path / array.path).stat().st_size
    counts = spark.createDataFrame([(2, [7])], "item_idx int, count array<long>")
    array = arrays.write(counts, "count", str(tmp_path), num_rows=2, shape=(), dtype="int64")
    assert sides_of.array(str(tmp_path), array).tolist() == [0, 0, 7]
    with pytest.raises(ShardError, match="side file count, row 2"):
        odd = spark.createDataFrame([(2, [7, 8])], "item_idx int, count array<long>")
        arrays.write(odd, "count", str(tmp_path), num_rows=2, shape=(), dtype="int64")


def test_lanes_are_dealt_by_lane_and_stay_in_time_order(
    spark: SparkSession, tmp_path: Path
) -> None:
    """A toy layout (tests/toys), found by its file: nothing of the package is edited for it."""
    toys.install(spark=True)
    try:
        lanes = layouts.of("lanes", "value")
    finally:
        toys.remove()
    events = spark.createDataFrame(
        [
            (u, i, t, float(i), "train")
            for u in range(1, 12)
            for t, i in enumerate((5, 3, 4)[: 1 + u % 3])
        ],
        EVENTS + ", part string",
    )
    parts, _ = shards.write(
        {"train": lanes.rows(of_split(events).repartition(5), "train")},
        lanes.columns,
        str(tmp_path),
        seed=1,
        virtual_shards=4,
        row_group_rows=16,
        statistics_of=lanes.statistics_of,
    )
    of_lane: dict[int, list[tuple[int, int, int]]] = {}
    for file in parts["train"].files:
        for place, row in enumerate(pq.read_table(tmp_path / file.path).to_pylist()):
            assert row["lane"] % 4 == file.virtual_shard
            assert row["lane"] == file.virtual_shard + 4 * (place % 2), (
                "two lanes a shard, by turns"
            )
            if row["weight"]:
                event = (row["query_idx"], row["item_idx"], row["first"])
                of_lane.setdefault(row["lane"], []).append(event)
    assert len({file.rows for file in parts["train"].files}) == 1
    # User 3 has one event, 11 has three: lane 3 is theirs, one after the other
    assert of_lane[3] == [(3, 5, 1), (11, 5, 1), (11, 3, 0), (11, 4, 0)]
