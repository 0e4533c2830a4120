"""Opens a shard set: reads the manifest and checks that every file it names is present and
complete.

Used by the side that writes shards and by the side that reads them; it needs neither Spark nor
torch nor Parquet. The manifest is written last, so its presence means that the set is complete.
"""

from __future__ import annotations

import hashlib
import os
from typing import Callable, Iterator, Protocol

from pydantic import ValidationError

from recsys_spark.core.artifacts import fingerprint
from recsys_spark.core.contracts import MANIFEST, VERSION, ShardSet
from recsys_spark.core.errors import ShardError

REMEDY = "run export_shards again"
TABLE_REMEDY = "run link_shards again, at a version whose files are still there, or export_shards"
NPY_HEADER_BYTES = 128  # of the side files: numpy's format with a header of this size


class Folder(Protocol):
    """The two operations that opening needs; names are relative to the folder. An object store has
    its own implementation.
    """

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""

    def size(self, name: str) -> int | None:
        """Bytes; None when there is no such file."""


class LocalFolder:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path).removeprefix("file://")

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as source:
            return source.read()

    def size(self, name: str) -> int | None:
        path = os.path.join(self.path, name)
        return os.path.getsize(path) if os.path.isfile(path) else None


def load(
    path: str | os.PathLike[str],
    *,
    folder: Folder | None = None,
    table: Callable[[str], Folder] = LocalFolder,
    expect: str = "",
    digests: bool = False,
) -> ShardSet:
    """The manifest of the shard set at `path`, after checking it.

    Always checked: format version, the manifest against its own fingerprint, presence and size of
    every file. `folder` reads the location when `path` is not a local folder, `table` opens the
    location of a table's files. `expect` is the fingerprint that the caller requires. `digests`:
    also read every byte of the set's own files and compare its SHA-256. Raises ShardError, naming
    the file, found and expected.
    """
    folder = folder or LocalFolder(path)
    shards = _manifest(os.fspath(path), folder)
    if expect and shards.fingerprint != expect:
        raise ShardError(
            f"shard set {path}",
            found=f"fingerprint {shards.fingerprint[:12]}",
            expected=f"{expect[:12]}",
            remedy=f"give the shards that this job was made for, or {REMEDY}",
        )
    if shards.table is not None:
        table_folder = table(shards.table.location)
        for part in shards.parts.values():
            for file in part.files:
                _check_size(
                    table_folder, shards.table.location, file.path, file.bytes, TABLE_REMEDY
                )
    for name, size, digest in files(shards):
        location = os.path.join(os.fspath(path), name)
        _check_size(folder, os.fspath(path), name, size, REMEDY)
        if digests and (found_digest := hashlib.sha256(folder.read(name)).hexdigest()) != digest:
            raise ShardError(
                f"shard file {location}",
                found=f"SHA-256 {found_digest[:12]}",
                expected=digest[:12],
                remedy=REMEDY,
            )
    return shards


def files(shards: ShardSet) -> Iterator[tuple[str, int, str]]:
    """(name relative to the manifest, bytes, SHA-256 in hex) of every file of the set, except the
    manifest and a table's files.
    """
    for part in shards.parts.values() if shards.table is None else ():
        for file in part.files:
            yield file.path, file.bytes, file.digest
    for csr in [
        *shards.side.values(),
        *(feature.codes for feature in shards.features if feature.codes),
    ]:
        yield csr.indptr, NPY_HEADER_BYTES + 8 * (csr.rows + 1), csr.indptr_digest
        yield csr.indices, NPY_HEADER_BYTES + 4 * csr.entries, csr.indices_digest
        if csr.values:
            yield csr.values, NPY_HEADER_BYTES + 4 * csr.entries, csr.values_digest
    for array in shards.arrays.values():
        yield array.path, NPY_HEADER_BYTES + array.bytes, array.digest
    for numbers in (feature.numbers for feature in shards.features if feature.numbers):
        yield numbers.path, NPY_HEADER_BYTES + 4 * numbers.rows, numbers.digest


def sealed(shards: ShardSet) -> ShardSet:
    """The manifest with its fingerprint: equal rows in equal order give an equal fingerprint,
    wherever and whenever they were written.
    """
    return shards.model_copy(update={"fingerprint": _fingerprint(shards)})


def _check_size(folder: Folder, root: str, name: str, size: int, remedy: str) -> None:
    actual = folder.size(name)
    if actual != size:
        raise ShardError(
            f"shard file {os.path.join(root, name)}",
            found="no such file" if actual is None else f"{actual} bytes",
            expected=f"{size} bytes",
            remedy=remedy,
        )


def _fingerprint(shards: ShardSet) -> str:
    # Left out: table versions, which count commits and differ between two lakes with the same rows;
    # and empty `features`, since older sets have no such field.
    left_out = {"fingerprint", "table_versions"} | (set() if shards.features else {"features"})
    return fingerprint(shards.model_dump(mode="json", exclude=left_out))


def _manifest(path: str, folder: Folder) -> ShardSet:
    location = os.path.join(path, MANIFEST)
    try:
        text = folder.read(MANIFEST)
    except FileNotFoundError:
        raise ShardError(
            location,
            found="no such file",
            expected="the manifest of a finished shard set",
            remedy=REMEDY,
        ) from None
    try:
        shards = ShardSet.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise ShardError(
            f"{location}, {field}",
            found=repr(first.get("input"))[:80],
            expected=first["msg"],
            remedy=REMEDY,
        ) from None
    if shards.version != VERSION:
        raise ShardError(
            f"{location}, version", found=shards.version, expected=VERSION, remedy=REMEDY
        )
    # A set without digests was written by another exporter; its fingerprint is not checked.
    if all(digest for *_, digest in files(shards)) and shards.fingerprint != (
        actual := _fingerprint(shards)
    ):
        raise ShardError(
            f"{location}, fingerprint",
            found=shards.fingerprint[:12] or "none",
            expected=f"{actual[:12]}, that of its contents",
            remedy=REMEDY,
        )
    return shards
