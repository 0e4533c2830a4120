"""The first lines of a text file, compressed or not, on this machine or behind a URL."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import listing

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LONGEST = 1 << 16  # bytes of a file that are looked at


def opened(path: Path) -> BinaryIO:
    """The text of a file, unpacked as its ending says."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if path.suffix == ".zst":
        unpacked = pa.input_stream(str(path), compression="zstd")
        return cast(BinaryIO, io.BufferedReader(unpacked))
    return open(path, "rb")


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """As `opened`. Raises DataError where what is read of a compressed file is damaged."""
    try:
        with opened(path) as source:
            yield source
    except (PermissionError, FileNotFoundError):
        raise
    except (EOFError, OSError, ValueError, zlib.error) as problem:
        if path.suffix not in listing.COMPRESSED:
            raise
        raise DataError(
            str(path),
            found=f"a damaged {listing.COMPRESSED[path.suffix]} file ({problem})",
            expected="a whole one",
            remedy="it was cut short: copy it again, or fetch or write the file again",
        ) from None


def lines(spark: SparkSession, url: str, count: int) -> list[bytes]:
    """The first lines, without their ends; at least one, empty for an empty file. A line is whole
    unless it is the only one. Raises DataError for a damaged compressed file.
    """
    if not listing.is_url(url):
        with whole(Path(url)) as source:
            start = source.read(LONGEST)
    else:
        start = _behind(spark, url)
    heads = start.splitlines() or [b""]
    cut = len(start) == LONGEST and len(heads) > 1 and not start.endswith(b"\n")
    return heads[: -1 if cut else None][:count]


def _behind(spark: SparkSession, url: str) -> bytes:
    jvm = spark._jvm
    assert jvm is not None, "a classic session has a JVM"
    path = jvm.org.apache.hadoop.fs.Path(url)
    conf = spark._jsc.hadoopConfiguration()
    stream = path.getFileSystem(conf).open(path)
    codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(conf).getCodec(path)
    try:
        source = codec.createInputStream(stream) if codec is not None else stream
        return bytes(source.readNBytes(LONGEST))
    finally:
        stream.close()
