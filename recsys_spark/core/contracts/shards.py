"""`ShardSet`: the manifest of the Parquet files and side files of a shard set."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.core.columns import EVENT
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION

MANIFEST = "manifest.json"  # file name of the ShardSet in the folder of its files


class Column(Settings):
    """A Parquet column of a shard set. shape () is one number per row, (d,) a list of fixed length,
    (-1,) a ragged list (CSR).
    """

    name: str
    dtype: Literal["int32", "int64", "float32", "float64"]
    shape: tuple[int, ...] = ()


class ShardFile(Settings):
    """`row_groups` are the row counts of its Parquet row groups, in file order. An exported file is
    one virtual shard; the row groups of a table's file are dealt to virtual shards one by one.
    """

    path: str  # relative to the manifest, or to the table
    virtual_shard: int | tuple[int, ...]  # of the file, or of each of its row groups
    row_groups: tuple[int, ...]
    bytes: int
    digest: str = ""  # SHA-256 of its bytes, hex; a table's file has none

    @property
    def rows(self) -> int:
        return sum(self.row_groups)

    @property
    def dealt(self) -> tuple[int, ...]:
        """The virtual shard of each row group."""
        return (
            (self.virtual_shard,) * len(self.row_groups)
            if isinstance(self.virtual_shard, int)
            else self.virtual_shard
        )


class Part(Settings):
    """`train` or `valid`: the files in order of their virtual shard (of a table: in order of their
    names). Empty virtual shards have no file.
    """

    files: tuple[ShardFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def dealt(self, virtual_shards: int) -> list[list[tuple[ShardFile, int]]]:
        """The row groups of every virtual shard, in order: (file, number within it)."""
        groups: list[list[tuple[ShardFile, int]]] = [[] for _ in range(virtual_shards)]
        for file in self.files:
            for number, shard in enumerate(file.dealt):
                groups[shard].append((file, number))
        return groups


class Table(Settings):
    """A Delta table whose files, as of a version, are the rows of a shard set."""

    location: str  # folder or URL
    version: int
    columns: dict[
        str, str
    ]  # column of the set -> of the table; columns not named are 1 in every row


class Csr(Settings):
    """A side file: int32 lists by row index (row 0 empty: padding), as .npy files.

    Not ordered: sorted item indices without repeats. Ordered: in the original order, with repeats
    (a history by time, the tokens of a text).
    """

    indptr: str  # int64 (rows + 1,), relative to the manifest
    indices: str  # int32 (entries,)
    rows: int  # users or items + 1
    entries: int
    indptr_digest: str = ""  # SHA-256, hex
    indices_digest: str = ""
    ordered: bool = Field(False, exclude_if=lambda ordered: not ordered)
    # float32 (entries,): one number for each entry; empty: none
    values: str = Field("", exclude_if=lambda values: not values)
    values_digest: str = Field("", exclude_if=lambda digest: not digest)


class Array(Settings):
    """A side file: an array of `shape` for each row index (row 0: padding, zeros), as one .npy."""

    path: str  # relative to the manifest
    dtype: Literal["float16", "float32", "uint8", "int32", "int64"]
    rows: int  # users or items + 1
    shape: tuple[int, ...] = ()  # of a row; (): one number, such as a count
    digest: str = ""  # SHA-256, hex

    @property
    def bytes(self) -> int:
        """Size without the header."""
        width = {"uint8": 1, "float16": 2, "float32": 4, "int32": 4, "int64": 8}[self.dtype]
        return self.rows * math.prod(self.shape) * width


class Numbers(Settings):
    """A side file: one float32 for each user or item (row 0: padding), NaN where unknown."""

    path: str  # .npy, relative to the manifest
    rows: int
    digest: str = ""  # SHA-256, hex


class Feature(Settings):
    """A field of users, items or events. Vocabulary and normaliser are fitted on training rows
    alone.

    category, tags (any number of them): the value `vocabulary[n]` has the code n + 1. Any other
    value, and a missing one, has code 0, the out-of-vocabulary row. number: (x - mean) / std; an
    unknown one adds nothing, like 0. time: seconds, unchanged. Fields of users and items are side
    files by index; those of events are columns of the rows (`column`).
    """

    name: str
    side: Literal["user", "item", "event"]
    kind: Literal["category", "tags", "number", "time"]
    vocabulary: tuple[str, ...] = ()
    slots: int = 1  # maximum number of values of an entity; more than one for tags only
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0  # time: of the first training row; `high`: of the last
    high: float = 0.0
    codes: Csr | None = None  # of users or items: category, tags
    numbers: Numbers | None = None  # of users or items: number

    @property
    def column(self) -> str:
        """Column of the rows, where side is event: int32 codes, float32 normalised numbers, or
        int64 `ts`.
        """
        return self.name if self.kind == "time" else EVENT + self.name


class ShardSet(Settings):
    """`manifest.json`. Indices run 1..num_users and 1..num_items; 0 is padding and
    out-of-vocabulary.
    """

    version: int = VERSION
    layout: str  # a file of batches/layouts/ and of etl/layouts/
    by: Literal["user", "item"] = "user"  # entity of the rows of layout `profile`
    columns: tuple[Column, ...]
    parts: dict[str, Part]
    virtual_shards: int = 64
    num_users: int
    num_items: int
    # "seen": items by user before valid (train, valid_fold_in); "targets": validation items by user
    side: dict[str, Csr] = Field(default_factory=dict)
    arrays: dict[str, Array] = Field(default_factory=dict, exclude_if=lambda arrays: not arrays)
    # lanes: rows of a virtual shard are in time order, with one row of each of its lanes in turn;
    # lane l belongs to virtual shard l % virtual_shards, and a step takes one row of every lane
    order: Literal["shuffled", "lanes"] = Field(
        "shuffled", exclude_if=lambda order: order == "shuffled"
    )
    num_lanes: int = Field(0, exclude_if=lambda lanes: not lanes)
    # of the training rows: label_count, _mean, _min, _max, where there are labels
    statistics: dict[str, float] = Field(default_factory=dict)
    features: tuple[Feature, ...] = ()
    split: str
    table_versions: dict[str, int] = Field(default_factory=dict)
    # the table that holds the rows, where they were not exported
    table: Table | None = Field(None, exclude_if=lambda table: table is None)
    # of all fields above except the table versions, including every file's digest; set by
    # `core.shardset.sealed`
    fingerprint: str = ""

    @model_validator(mode="after")
    def _files_fit(self) -> ShardSet:
        for name, part in self.parts.items():
            shards = [
                file.virtual_shard for file in part.files if isinstance(file.virtual_shard, int)
            ]
            if shards != sorted(set(shards)):
                raise ValueError(f"part {name}: virtual shards {shards} are not increasing")
            for file in part.files:
                if len(file.dealt) != len(file.row_groups) or not set(file.dealt) <= set(
                    range(self.virtual_shards)
                ):
                    raise ValueError(
                        f"part {name}, file {file.path}: {file.dealt} is not a virtual shard "
                        f"for each row group, below {self.virtual_shards}"
                    )
        return self
