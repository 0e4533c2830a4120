"""Rows of a layout -> a shard set: rows are assigned to virtual shards and written by the
executors; the manifest is written last.

Assignment: rows are ordered by a 64-bit hash of (seed, identity), a pseudo-random order that does
not depend on the partitioning, and cut at exact ranks into V runs whose lengths differ by at most
one. Runs of a random order are as random as a round-robin assignment, and need one shuffle instead
of two: the V - 1 cuts are found by a histogram of the hash. (Rows with equal hashes stay together;
the probability that this meets a cut is rows * V / 2**63.) With fewer rows than shards, the first
shards get one row each.

Rows of lanes are not hashed: lane l goes to shard l % V, and a shard's rows are in the order of
(place, identity), so that every training step takes one row of each lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column, Part, ShardFile
from recsys_spark.core.errors import DataError, ShardError
from recsys_spark.etl import order
from recsys_spark.etl.layout import Rows
from recsys_spark.etl.shards import writer as shard_writer
from recsys_spark.etl.shards.writer import PART, SHARD, Target

LEAST_GROUPS = 4  # minimum of row groups in a training file, where it has enough rows
TASK_ROWS = 500_000  # rows (or list entries) that one task sorts and writes


def sizes(rows: int, virtual_shards: int) -> list[int]:
    """Rows of each virtual shard: they differ by at most one, larger ones first."""
    return [
        rows // virtual_shards + (shard < rows % virtual_shards) for shard in range(virtual_shards)
    ]


def group_rows(rows: int, virtual_shards: int, most: int) -> int:
    """Rows per row group (except the last of a file): `most`, or a quarter of the largest file
    where that is less.
    """
    return max(1, min(most, math.ceil(sizes(rows, virtual_shards)[0] / LEAST_GROUPS)))


def cuts(
    rows: Rows, seed: int, virtual_shards: int, most: int = order.HASH_END
) -> tuple[int, list[int]]:
    """(number of rows, the least hash of each virtual shard except the first; empty for lanes).
    most: a bound of the number of rows.
    """
    if rows.lane:
        return rows.keys.count(), []
    ranks = order.ranks(rows.keys, _hash(rows, seed), low=0, high=order.HASH_END - 1, most=most)
    starts, at = [], 0
    for size in sizes(ranks.count, virtual_shards)[:-1]:
        at += size
        starts.append(at)
    return ranks.count, ranks.at([start for start in starts if start < ranks.count])


def write(
    parts: Mapping[str, Rows],
    columns: Sequence[Column],
    folder: str,
    *,
    seed: int,
    virtual_shards: int,
    row_group_rows: int,
    statistics_of: str = "",
    events: int | None = None,
) -> tuple[dict[str, Part], dict[str, float]]:
    """Writes the files of every part under `folder`, a path or URL that all executors reach;
    existing files there may be overwritten.

    row_group_rows: maximum rows of a row group. statistics_of: the column of labels; empty: none.
    events: of the whole split, a bound of rows and of list entries, which sizes the tasks; None:
    unknown. Returns the parts for the manifest and the statistics of training labels. Raises
    DataError when there is no training row, ShardError when the folder is full.
    """
    names = tuple(parts)
    most = order.HASH_END if events is None else events
    counted = {name: cuts(parts[name], seed, virtual_shards, most) for name in names}
    total = sum(rows for rows, _ in counted.values())
    if not counted[c.TRAIN][0]:
        raise DataError(
            f"training part of {folder}",
            found="no row",
            expected="at least one",
            remedy="loosen the filters of the prepare step, or positive_min of this one",
        )
    group = group_rows(counted[c.TRAIN][0], virtual_shards, row_group_rows)
    target = Target(folder, names, tuple(columns), statistics_of, group)
    tasks = max(1, min(len(names) * virtual_shards, math.ceil(max(total, events or 0) / TASK_ROWS)))

    placed = reduce(
        DataFrame.unionByName,
        (
            _placed(parts[name], number, seed, counted[name][1], columns, virtual_shards)
            for number, name in enumerate(names)
        ),
    )
    # All rows of a file go to one task, in order: the shard number increases with the hash.
    together = placed.repartitionById(
        tasks, F.pmod(F.col(PART) * virtual_shards + F.col(SHARD), F.lit(tasks)).cast("int")
    )
    ordered = together.sortWithinPartitions(PART, SHARD, "_hash", *parts[c.TRAIN].identity)
    written = ordered.select(PART, SHARD, *(column.name for column in columns)).mapInArrow(
        _task(target), _FACTS_TYPE
    )
    return _collected(
        written.toArrow().to_pylist(), target, {name: rows for name, (rows, _) in counted.items()}
    )


def _hash(rows: Rows, seed: int) -> Expression:
    return order.hashed(seed, "deal", *rows.identity)


def _placed(
    rows: Rows,
    number: int,
    seed: int,
    bounds: Sequence[int],
    columns: Sequence[Column],
    virtual_shards: int,
) -> DataFrame:
    """Rows with their shard and their order in it: by hash, or by lane and place in the lane."""
    if rows.lane:
        shard = F.pmod(F.col(rows.lane), F.lit(virtual_shards)).cast("int")
        place: Expression = F.col(rows.place).cast("long")
    else:
        place = _hash(rows, seed)
        shard = order.slot(F.col("_hash"), bounds)
    names = dict.fromkeys([*(column.name for column in columns), *rows.identity])
    placed = rows.rows.select("*", place.alias("_hash"))
    return placed.select(F.lit(number).alias(PART), shard.alias(SHARD), "_hash", *names)


def _task(target: Target) -> Any:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return shard_writer.write(batches, target)

    return run


def _collected(
    facts: list[dict[str, Any]], target: Target, rows: dict[str, int]
) -> tuple[dict[str, Part], dict[str, float]]:
    """Facts of all files -> parts in order of their shards, and the training statistics."""
    for fact in facts:
        if fact["error"]:
            raise ShardError(
                f"shard folder {target.folder}",
                found=fact["error"],
                expected="room for the shards",
                remedy="free space there, or set env.runs to "
                "another place, then run export_shards again",
            )
    parts: dict[str, Part] = {}
    for number, name in enumerate(target.parts):
        part_facts = sorted(
            (fact for fact in facts if fact["part"] == number),
            key=lambda fact: fact["virtual_shard"],
        )
        parts[name] = Part(
            files=tuple(
                ShardFile(
                    path=shard_writer.file_name(name, fact["virtual_shard"]),
                    virtual_shard=fact["virtual_shard"],
                    row_groups=tuple(fact["row_groups"]),
                    bytes=fact["bytes"],
                    digest=fact["digest"],
                )
                for fact in part_facts
            )
        )
        assert parts[name].rows == rows[name], (
            f"part {name}: wrote {parts[name].rows} of {rows[name]} rows; is the input "
            "deterministic?"
        )
    # Summed file by file in a fixed order, so that a rerun gives the same last digit.
    train = sorted(
        (fact for fact in facts if target.parts[fact["part"]] == c.TRAIN),
        key=lambda fact: fact["virtual_shard"],
    )
    labels = sum(fact["labels"] for fact in train)
    if not target.label:
        return parts, {}
    return parts, {
        "label_count": float(labels),
        "label_mean": math.fsum(fact["label_sum"] for fact in train) / max(labels, 1),
        "label_min": min(fact["label_min"] for fact in train),
        "label_max": max(fact["label_max"] for fact in train),
    }


# FACTS as a Spark schema.
_FACTS_TYPE = (
    "part int, virtual_shard int, row_groups array<bigint>, bytes bigint, digest string, "
    "labels bigint, label_sum double, label_min double, label_max double, error string"
)
