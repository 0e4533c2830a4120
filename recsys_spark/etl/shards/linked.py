"""A Delta table's own Parquet files as the rows of a shard set: the files of each part, and the
assignment of their row groups to virtual shards.

Nothing is copied. Spark reads the columns once to check that the files can be read without Spark:
rows that are in a file but not in the table (because of deletion vectors), nulls, indices out of
range and files with rows of two parts would be read wrongly, and are errors. Footers are read on
the driver, one small request per file.
"""

from __future__ import annotations

import heapq
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Part, ShardFile
from recsys_spark.core.errors import TableError
from recsys_spark.etl.shards import writer as shard_writer

WHOLE, NUMBERS = ("tinyint", "smallint", "int", "bigint"), ("float", "double")
REMEDY = "use export_shards, which copies the rows"
_AT_ONCE = 16  # footers read concurrently


def renamed(rows: DataFrame, columns: Mapping[str, str], table: str) -> DataFrame:
    """The table with its columns renamed to ours. columns: {our name: name in the table}. Raises
    TableError for a column that is missing or of another type.
    """
    types = {field.name: field.dataType.simpleString() for field in rows.schema}
    for name, column in columns.items():
        expected = ("string",) if name == c.PART else WHOLE if name != c.LABEL else WHOLE + NUMBERS
        if types.get(column) not in expected:
            raise TableError(
                f"table {table}, column {column}",
                found=types.get(column, f"columns {', '.join(types)}"),
                expected=f"{' or '.join(expected)}, for {name}",
                remedy="name the right one under `columns` of the step",
            )
    return rows.select(*(F.col(column).alias(name) for name, column in columns.items()))


def facts(events: DataFrame, table: str) -> list[dict[str, Any]]:
    """For every file and part: path (a URL), size, part, rows; for each number column
    `<name>_unknown` (rows without a finite number), `<name>_low`, `<name>_high`; the sum of labels
    `total`.

    events: from `renamed`. Only a few numbers per file reach the driver.
    """
    numbers = [name for name in events.columns if name != c.PART]
    finite = {
        name: F.coalesce(F.abs(F.col(name).cast("double")) < float("inf"), F.lit(False))
        for name in numbers
    }
    aggregates = [
        aggregate
        for name in numbers
        for aggregate in (
            F.count_if(~finite[name]).alias(f"{name}_unknown"),
            F.min(name).alias(f"{name}_low"),
            F.max(name).alias(f"{name}_high"),
        )
    ]
    # An exact sum, which does not depend on the order of addition, of the values as float32, the
    # type in which they are read
    if c.LABEL in numbers:
        aggregates.append(
            F.sum(
                F.when(finite[c.LABEL], F.col(c.LABEL).cast("float").cast("decimal(38,18)"))
            ).alias("total")
        )
    path, size = (
        F.col("_metadata.file_path").alias("path"),
        F.col("_metadata.file_size").alias("size"),
    )
    try:
        return [
            row.asDict()
            for row in events.groupBy(path, size, c.PART)
            .agg(F.count("*").alias("rows"), *aggregates)
            .collect()
        ]
    except (PySparkException, Py4JJavaError) as problem:
        if "FILE_NOT_EXIST" not in str(problem):
            raise
        gone = re.search(r"reading file (\S+\.parquet)", str(problem))
        raise TableError(
            f"table {table}",
            found=f"no file {unquote(gone[1])}" if gone else "files that are gone",
            expected="the files of that version",
            remedy="versions are lost to `vacuum`: link a later one",
        ) from None


def check(file_facts: Sequence[Mapping[str, Any]], table: str, most: Mapping[str, int]) -> None:
    """Raises TableError, naming the column or the file. most: the greatest value of each index."""
    for fact in file_facts:
        for name in (key.removesuffix("_unknown") for key in fact if key.endswith("_unknown")):
            thing, low, high = (
                f"table {table}, column for {name}",
                fact[f"{name}_low"],
                fact[f"{name}_high"],
            )
            if fact[f"{name}_unknown"]:
                raise TableError(
                    thing,
                    found=f"{fact[f'{name}_unknown']} rows with none in {unquote(fact['path'])}",
                    expected="a number in every row, no null and no NaN",
                    remedy="link a version without these rows",
                )
            if name in most and not 1 <= low <= high <= most[name]:
                raise TableError(
                    thing,
                    found=f"{low} to {high}",
                    expected=f"1 to {most[name]}, the indices of the step's source",
                    remedy="number the rows by its index tables",
                )
    part_of: dict[str, str] = {}
    for fact in file_facts:
        if (other := part_of.setdefault(fact["path"], fact[c.PART])) != fact[c.PART]:
            raise TableError(
                f"table {table}, file {unquote(fact['path'])}",
                found=f"rows of parts {other} and {fact[c.PART]}",
                expected="rows of one part in a file",
                remedy=f"write the table partitioned by its part, or {REMEDY}",
            )


def parts(
    file_facts: Sequence[Mapping[str, Any]],
    folder: str,
    table: str,
    part_names: Sequence[str],
    columns: Sequence[str],
    virtual_shards: int,
) -> dict[str, Part]:
    """The files of the parts `part_names`, with row groups assigned to virtual shards.

    columns: columns that every file must have. Raises TableError for files outside `folder`, and
    for files whose rows are not those of the table.
    """
    parts_by_name = {}
    for part in part_names:
        part_facts = sorted(
            (fact for fact in file_facts if fact[c.PART] == part),
            key=lambda fact: str(fact["path"]),
        )
        names = [_below(folder, unquote(fact["path"]), table) for fact in part_facts]
        groups = _row_groups(folder, names, [fact["rows"] for fact in part_facts], table, columns)
        shards = deal(groups, virtual_shards)
        parts_by_name[part] = Part(
            files=tuple(
                ShardFile(path=name, virtual_shard=shard, row_groups=rows, bytes=fact["size"])
                for name, shard, rows, fact in zip(names, shards, groups, part_facts, strict=True)
            )
        )
    return parts_by_name


def deal(groups: Sequence[Sequence[int]], virtual_shards: int) -> list[tuple[int, ...]]:
    """Rows of the row groups of each file -> the virtual shard of each row group. The largest row
    group goes first, always to the shard with the fewest rows.

    >>> deal([[9, 2], [5, 5]], 2)
    [(0, 0), (1, 1)]
    """
    heap = [(0, shard) for shard in range(virtual_shards)]
    shard_of_group = [[0] * len(rows) for rows in groups]
    for rows, file, number in sorted(
        (
            (rows, file, number)
            for file, of_file in enumerate(groups)
            for number, rows in enumerate(of_file)
        ),
        key=lambda group: (-group[0], *group[1:]),
    ):
        load, shard = heap[0]
        heapq.heapreplace(heap, (load + rows, shard))
        shard_of_group[file][number] = shard
    return [tuple(shards) for shards in shard_of_group]


def statistics(file_facts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Statistics of the training labels; without a label column, every label is 1."""
    train = [fact for fact in file_facts if fact[c.PART] == c.TRAIN]
    rows = sum(fact["rows"] for fact in train)
    if not train or "total" not in train[0]:
        return {"label_count": float(rows), "label_mean": 1.0, "label_min": 1.0, "label_max": 1.0}
    return {
        "label_count": float(rows),
        "label_mean": float(sum(fact["total"] for fact in train) / rows),
        "label_min": float(min(fact["label_low"] for fact in train)),
        "label_max": float(max(fact["label_high"] for fact in train)),
    }


def _below(folder: str, path: str, table: str) -> str:
    """The path relative to the table's folder."""
    name = path.split("://", 1)[-1].removeprefix("file:")
    root = folder.split("://", 1)[-1].rstrip("/") + "/"
    if not name.startswith(root):
        raise TableError(
            f"table {table}, file {path}",
            found="a file of another table (a shallow clone)",
            expected=f"a file in {folder}",
            remedy=f"link the table that was cloned, or {REMEDY}",
        )
    return name[len(root) :]


def _row_groups(
    folder: str, names: Sequence[str], rows: Sequence[int], table: str, columns: Sequence[str]
) -> list[tuple[int, ...]]:
    system, root = shard_writer.place(folder)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="footers") as pool:
        footers = list(
            pool.map(
                lambda name: pq.read_metadata(posixpath.join(root, name), filesystem=system), names
            )
        )
    for name, footer, expected in zip(names, footers, rows, strict=True):
        missing = set(columns) - set(footer.schema.names)
        if missing:
            raise TableError(
                f"table {table}, file {name}",
                found=f"columns {', '.join(footer.schema.names)}",
                expected=f"also {', '.join(sorted(missing))}; "
                "what a table is partitioned by may lie in no file",
                remedy=f"write the table with another partition, or {REMEDY}",
            )
        if footer.num_rows != expected:
            raise TableError(
                f"table {table}, file {name}",
                found=f"{footer.num_rows} rows, of which the table has {expected}",
                expected="all of them: deletion vectors are not read",
                remedy="run REORG TABLE ... APPLY (PURGE) and "
                f"link the version after it, or {REMEDY}",
            )
    return [
        tuple(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        for footer in footers
    ]
