"""Location of a shard set: a folder of this host, or an object store through pyarrow.fs (s3, gs,
abfs, hdfs) or fsspec (the others).

Shards are read in place. Side files are copied once per host into a cache, named by their digest,
so that all ranks map the same bytes. Credentials, region and endpoint come from the environment
(AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL ...).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys_spark.core import artifacts, locks, shardset
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import ShardError

CACHE = "RECSYS_CACHE"  # names the folder of the cache; default ~/.cache/recsys_spark
_CHUNK = 8 << 20
_SECRET = re.compile(r"://[^/@\s]*:[^/@\s]*@")  # user:password@ of a URL, never shown


class Place:
    """A folder or the prefix of a bucket; implements `core.shardset.Folder`. `store` is None for a
    local folder.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        location = os.fspath(url).removeprefix("file://")
        self.shown = (
            _SECRET.sub("://", location.split("?")[0].rstrip("/"))
            if "://" in location
            else location
        )
        self.store: fs.FileSystem | None = None
        self.root = location
        self._sizes: dict[str, int] | None = None
        if "://" in location:
            with _explained(self.shown):
                self.store, self.root = _opened(location)

    def path(self, name: str) -> str:
        """The path of a file in `store` (or, without one, on this host)."""
        return os.path.join(self.root, name)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        if self.store is None:
            return shardset.LocalFolder(self.root).read(name)
        with _explained(self.shown), self.store.open_input_stream(self.path(name)) as source:
            return bytes(source.read())

    def size(self, name: str) -> int | None:
        """Bytes; None when there is no such file. The first call for a store lists all its
        files.
        """
        if self.store is None:
            return shardset.LocalFolder(self.root).size(name)
        if self._sizes is None:
            with _explained(self.shown):
                listed = self.store.get_file_info(
                    fs.FileSelector(self.root, recursive=True, allow_not_found=True)
                )
            self._sizes = {file.path: file.size for file in listed if file.is_file}
        return self._sizes.get(self.path(name))

    def footer(self, name: str) -> pq.FileMetaData:
        """The footer of a Parquet file."""
        try:
            return pq.read_metadata(self.path(name), filesystem=self.store)
        except (pa.ArrowException, OSError) as problem:
            raise unreadable(f"shard file {os.path.join(self.shown, name)}", problem) from None

    def holds_bucket(self) -> bool:
        """False where the store has no bucket of that name."""
        assert self.store is not None
        bucket = self.root.lstrip("/").split("/")[0]
        return bool(self.store.get_file_info(bucket).type != fs.FileType.NotFound)


def load(url: str | os.PathLike[str], *, expect: str = "", place: Place | None = None) -> ShardSet:
    """`core.shardset.load` for any place. Also raises ShardError where a store cannot be reached or
    denies access.
    """
    place = place or Place(url)
    if place.store is not None and place.store.type_name == "s3":
        with _explained(place.shown):
            exists = place.holds_bucket()
        if not exists:
            raise ShardError(
                f"shard set {place.shown}",
                found="no such bucket",
                expected="one that exists and may be read",
                remedy="check the name, AWS_REGION and AWS_ENDPOINT_URL",
            )
    return shardset.load(place.shown, folder=place, table=Place, expect=expect)


def side(url: str | os.PathLike[str], name: str, digest: str) -> Path:
    """A side file on this host, to be memory-mapped: the file itself, or a verified copy in the
    cache.

    Raises ShardError when the store's file is not the one that the manifest promises.
    """
    place = Place(url)
    if place.store is None:
        return Path(place.path(name))
    where = f"side file {os.path.join(place.shown, name)}"
    if not digest:
        raise ShardError(
            where,
            found="no digest in the manifest",
            expected="its SHA-256, to name the copy by",
            remedy=shardset.REMEDY,
        )
    folder = Path(
        os.environ.get(CACHE)
        or os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "recsys_spark"),
        "side",
    )
    cached = folder / f"{digest}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with locks.alone(folder / f".{digest}.lock"):  # the first rank of the host copies, others wait
        if not cached.exists():
            _copy(place, name, digest, cached, where)
    return cached


def unreadable(where: str, problem: Exception) -> ShardError:
    return ShardError(
        where,
        found=" ".join(str(problem).split())[:160],
        expected="Parquet data",
        remedy=shardset.REMEDY,
    )


def _copy(place: Place, name: str, digest: str, cached: Path, where: str) -> None:
    assert place.store is not None
    # A temporary file with a unique name, since some file systems have no locks
    with artifacts.new_file(cached) as temporary:
        sha256 = hashlib.sha256()
        with (
            _explained(place.shown),
            place.store.open_input_stream(place.path(name)) as source,
            open(temporary, "wb") as copy,
        ):
            while chunk := source.read(_CHUNK):
                sha256.update(chunk)
                copy.write(chunk)
        if sha256.hexdigest() != digest:
            raise ShardError(
                where,
                found=f"SHA-256 {sha256.hexdigest()[:12]}",
                expected=digest[:12],
                remedy=shardset.REMEDY,
            )


@functools.lru_cache(maxsize=16)
def _opened(url: str) -> tuple[fs.FileSystem, str]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if url.startswith("s3://") and endpoint and "endpoint_override=" not in url:
        url += f"{'&' if '?' in url else '?'}endpoint_override={quote(endpoint, safe='')}"
    try:
        store, root = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as problem:
        if "Unrecognized filesystem type" not in str(problem):
            raise
        filesystem, root = fsspec.core.url_to_fs(url)
        store = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    return store, root.rstrip("/")


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn the errors of a store into a ShardError. A FileNotFoundError is passed on."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, ImportError) as problem:
        raise ShardError(
            f"shard set {shown}",
            found=_SECRET.sub("://", " ".join(str(problem).split()))[:200],
            expected="a place that can be read",
            remedy="check the URL, the endpoint and the "
            "credentials in the environment of every worker",
        ) from None
