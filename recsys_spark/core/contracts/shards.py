"""`ShardSet`: what lies in the Parquet files and side files of a shard set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.core.columns import EVENT
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION

MANIFEST = "manifest.json"  # name of a ShardSet beside its files


class Column(Settings):
    """A Parquet column of a shard set. shape () is one number a row, (d,) a fixed list, (-1,) a ragged one (CSR)."""

    name: str
    dtype: Literal["int32", "int64", "float32", "float64"]
    shape: tuple[int, ...] = ()


class ShardFile(Settings):
    """`row_groups` are the row counts of its Parquet row groups, in file order. An exported file is one virtual shard; the row groups
    of a table's file are dealt one by one."""

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
        return (self.virtual_shard,) * len(self.row_groups) if isinstance(self.virtual_shard, int) else self.virtual_shard


class Part(Settings):
    """`train` or `valid`: the files in order of their virtual shard (a table's: of their names). Empty virtual shards have no file."""

    files: tuple[ShardFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def dealt(self, virtual_shards: int) -> list[list[tuple[ShardFile, int]]]:
        """The row groups of every virtual shard, in order: (file, number within it)."""
        found: list[list[tuple[ShardFile, int]]] = [[] for _ in range(virtual_shards)]
        for file in self.files:
            for number, shard in enumerate(file.dealt):
                found[shard].append((file, number))
        return found


class Table(Settings):
    """A Delta table whose own files, as of a version, are the rows of a shard set."""

    location: str  # folder or URL
    version: int
    columns: dict[str, str]  # of the set -> of the table; one that is not named is 1 in every row


class Csr(Settings):
    """A side file: sorted int32 item indices by row index (row 0 empty: padding), as two .npy files."""

    indptr: str  # int64 (rows + 1,), relative to the manifest
    indices: str  # int32 (entries,)
    rows: int  # users or items + 1
    entries: int
    indptr_digest: str = ""  # SHA-256, hex
    indices_digest: str = ""


class Numbers(Settings):
    """A side file: one float32 for each user or item (row 0: padding), NaN where none is known."""

    path: str  # .npy, relative to the manifest
    rows: int
    digest: str = ""  # SHA-256, hex


class Feature(Settings):
    """A field of users, items or events. What its values mean is fitted on training rows alone.

    category, tags (any number of them): the value `vocabulary[n]` has the code n + 1. Any other value, and none at all, has code 0,
    the out-of-vocabulary row. number: (x - mean) / std; an unknown one adds nothing, as if it were 0. time: seconds, as they are.
    Fields of users and items are side files by index; those of events are columns of the rows (`column`).
    """

    name: str
    side: Literal["user", "item", "event"]
    kind: Literal["category", "tags", "number", "time"]
    vocabulary: tuple[str, ...] = ()
    slots: int = 1  # values that an entity has at most; more than one for tags alone
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0  # time: of the first and of the last training row
    high: float = 0.0
    codes: Csr | None = None  # of users or items: category, tags
    numbers: Numbers | None = None  # of users or items: number

    @property
    def column(self) -> str:
        """Of the rows, where side is event: int32 codes, float32 normalised numbers, or int64 `ts`."""
        return self.name if self.kind == "time" else EVENT + self.name


class ShardSet(Settings):
    """`manifest.json`. Indices run 1..num_users and 1..num_items; 0 is padding and out-of-vocabulary."""

    version: int = VERSION
    layout: Literal["pointwise", "profile", "pairs"]
    by: Literal["user", "item"] = "user"  # whose vectors the rows of layout `profile` are
    columns: tuple[Column, ...]
    parts: dict[str, Part]
    virtual_shards: int = 64
    num_users: int
    num_items: int
    # "seen": items by user before valid (train, valid_fold_in); "targets": validation items by user
    side: dict[str, Csr] = Field(default_factory=dict)
    statistics: dict[str, float] = Field(default_factory=dict)  # of training rows: label_count, _mean, _min, _max, where there are labels
    features: tuple[Feature, ...] = ()
    split: str
    table_versions: dict[str, int] = Field(default_factory=dict)
    table: Table | None = Field(None, exclude_if=lambda table: table is None)  # rows that lie there and were not exported
    fingerprint: str = ""  # of all the above but the table versions, every file's digest among it; `core.shardset.sealed` fills it in

    @model_validator(mode="after")
    def _files_fit(self) -> ShardSet:
        for name, part in self.parts.items():
            shards = [file.virtual_shard for file in part.files if isinstance(file.virtual_shard, int)]
            if shards != sorted(set(shards)):
                raise ValueError(f"part {name}: virtual shards {shards} are not increasing")
            for file in part.files:
                if len(file.dealt) != len(file.row_groups) or not set(file.dealt) <= set(range(self.virtual_shards)):
                    raise ValueError(f"part {name}, file {file.path}: {file.dealt} is not a virtual shard for each row group, below "
                                     f"{self.virtual_shards}")
        return self
