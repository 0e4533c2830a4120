"""Writes .npy files as streams, on any file system, whole or not at all."""

from __future__ import annotations

import hashlib
import math
import posixpath
import uuid
from typing import Any

import numpy as np
from pyarrow import fs

from recsys_spark.core.errors import ShardError
from recsys_spark.core.shardset import NPY_HEADER_BYTES

COPY_BYTES = 1 << 24


class Npy:
    """An .npy file written as a stream, with its SHA-256. Renamed to its name when complete."""

    def __init__(
        self, system: fs.FileSystem, path: str, dtype: str, shape: tuple[int, ...]
    ) -> None:
        self.system, self.path = system, path
        self.beside = posixpath.join(
            posixpath.dirname(path), f".tmp-{posixpath.basename(path)}-{uuid.uuid4().hex[:8]}"
        )
        self.sha = hashlib.sha256()
        text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
        self.header = (
            b"\x93NUMPY\x01\x00"
            + (NPY_HEADER_BYTES - 10).to_bytes(2, "little")
            + text.ljust(NPY_HEADER_BYTES - 11)
            + b"\n"
        )
        self.expected = math.prod(shape) * np.dtype(dtype).itemsize

    def __enter__(self) -> Npy:
        self.sink = self.system.open_output_stream(self.beside)
        self.write(self.header)
        self.written = 0
        return self

    def write(self, data: bytes) -> None:
        self.sink.write(data)
        self.sha.update(data)
        self.written = getattr(self, "written", 0) + len(data)

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.sink.close()
        if kind is None:
            assert self.written == self.expected, (
                f"{self.path}: {self.written} bytes of {self.expected}"
            )
            self.system.move(self.beside, self.path)
        else:
            self.system.delete_file(self.beside)

    @property
    def digest(self) -> str:
        return self.sha.hexdigest()


def copied(system: fs.FileSystem, pieces: list[str], target: str, dtype: str, entries: int) -> str:
    """Concatenates the raw pieces into an .npy file. Returns its SHA-256."""
    with Npy(system, target, dtype, (entries,)) as out:
        for piece in pieces:
            with system.open_input_stream(piece) as source:
                while data := source.read(COPY_BYTES):
                    out.write(data)
    return out.digest


def full(folder: str, problem: str) -> ShardError:
    return ShardError(
        f"shard folder {folder}",
        found=problem,
        expected="room for the side files",
        remedy="free space there, or set env.runs to another place, then run export_shards again",
    )
