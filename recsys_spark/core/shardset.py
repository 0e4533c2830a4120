"""Opening a shard set: the manifest is read and every file it names is there, whole, before anybody relies on it.

Used by the side that writes shards and by the side that reads them; knows neither Spark nor torch nor Parquet.
The manifest is the last file to be written, so its presence says that the set was finished.
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
NPY_HEADER_BYTES = 128  # of the side files: numpy's own format, written with a header of this size


class Folder(Protocol):
    """The two things that opening needs of a place; names are relative to it. An object store brings its own."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

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


def load(path: str | os.PathLike[str], *, folder: Folder | None = None, table: Callable[[str], Folder] = LocalFolder, expect: str = "",
         digests: bool = False) -> ShardSet:
    """The manifest of the shard set at `path`, after checking it.

    Always checked: format version, the manifest against its own fingerprint, presence and size of every file.
    `folder` reads the place when `path` is not a local folder, `table` opens that of a table's files. `expect` is the fingerprint that
    the caller was built on. `digests` also reads every byte of the set's own files and compares its SHA-256. Raises ShardError,
    naming the file, found and expected.
    """
    folder = folder or LocalFolder(path)
    shards = _manifest(os.fspath(path), folder)
    if expect and shards.fingerprint != expect:
        raise ShardError(f"shard set {path}", found=f"fingerprint {shards.fingerprint[:12]}", expected=f"{expect[:12]}",
                         remedy=f"give the shards that this job was made for, or {REMEDY}")
    if shards.table is not None:
        at = table(shards.table.location)
        for part in shards.parts.values():
            for file in part.files:
                _check_size(at, shards.table.location, file.path, file.bytes, TABLE_REMEDY)
    for name, size, digest in files(shards):
        where = os.path.join(os.fspath(path), name)
        _check_size(folder, os.fspath(path), name, size, REMEDY)
        if digests and (found_digest := hashlib.sha256(folder.read(name)).hexdigest()) != digest:
            raise ShardError(f"shard file {where}", found=f"SHA-256 {found_digest[:12]}", expected=digest[:12], remedy=REMEDY)
    return shards


def files(shards: ShardSet) -> Iterator[tuple[str, int, str]]:
    """(name relative to the manifest, bytes, SHA-256 in hex) of every file of the set, the manifest and a table's files left out."""
    for part in shards.parts.values() if shards.table is None else ():
        for file in part.files:
            yield file.path, file.bytes, file.digest
    for csr in [*shards.side.values(), *(feature.codes for feature in shards.features if feature.codes)]:
        yield csr.indptr, NPY_HEADER_BYTES + 8 * (csr.rows + 1), csr.indptr_digest
        yield csr.indices, NPY_HEADER_BYTES + 4 * csr.entries, csr.indices_digest
    for numbers in (feature.numbers for feature in shards.features if feature.numbers):
        yield numbers.path, NPY_HEADER_BYTES + 4 * numbers.rows, numbers.digest


def sealed(shards: ShardSet) -> ShardSet:
    """With its fingerprint filled in: equal rows in equal order give an equal one, wherever and whenever they were written."""
    return shards.model_copy(update={"fingerprint": _fingerprint(shards)})


def _check_size(folder: Folder, root: str, name: str, size: int, remedy: str) -> None:
    found = folder.size(name)
    if found != size:
        raise ShardError(f"shard file {os.path.join(root, name)}", found="no such file" if found is None else f"{found} bytes",
                         expected=f"{size} bytes", remedy=remedy)


def _fingerprint(shards: ShardSet) -> str:
    # Table versions count commits, which differ between two lakes that hold the same rows: they stay out.
    left_out = {"fingerprint", "table_versions"} | (set() if shards.features else {"features"})  # sets without any were there first
    return fingerprint(shards.model_dump(mode="json", exclude=left_out))


def _manifest(path: str, folder: Folder) -> ShardSet:
    where = os.path.join(path, MANIFEST)
    try:
        text = folder.read(MANIFEST)
    except FileNotFoundError:
        raise ShardError(where, found="no such file", expected="the manifest of a finished shard set", remedy=REMEDY) from None
    try:
        shards = ShardSet.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise ShardError(f"{where}, {field}", found=repr(first.get("input"))[:80], expected=first["msg"], remedy=REMEDY) from None
    if shards.version != VERSION:
        raise ShardError(f"{where}, version", found=shards.version, expected=VERSION, remedy=REMEDY)
    # A set without digests was not written by our exporter; its fingerprint is its writer's own.
    if all(digest for *_, digest in files(shards)) and shards.fingerprint != (made := _fingerprint(shards)):
        raise ShardError(f"{where}, fingerprint", found=shards.fingerprint[:12] or "none", expected=f"{made[:12]}, that of its contents",
                         remedy=REMEDY)
    return shards
