"""Atomic writes of files and folders, checksums, fingerprints.

A file is written under a temporary name in its folder and renamed; a folder is written as `.tmp-*`
and renamed when its last file is on disk. So a reader never sees a partly written one, and
leftovers of a killed writer are recognised by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any, Iterator, TypeVar

from pydantic import BaseModel, ValidationError

from recsys_spark.core.errors import RecsysError

M = TypeVar("M", bound=BaseModel)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_ABANDONED_S = 24 * 3600.0


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary file in the folder of `path`; it is renamed to `path` (replacing an older
    file) only if the block ends without error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` atomically (write a temporary file, fsync, rename)."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_model(path: Path, model: BaseModel) -> None:
    write_text(path, model.model_dump_json(indent=1) + "\n")


def read_model(path: Path, kind: type[M], *, error: type[RecsysError], remedy: str) -> M:
    """Parse a JSON contract. Raises `error`, naming the file and the first invalid field."""
    if not path.exists():
        raise error(
            str(path), found="no such file", expected=f"a {kind.__name__} in JSON", remedy=remedy
        )
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise error(
            f"{path}, {field}",
            found=repr(first.get("input"))[:80],
            expected=first["msg"],
            remedy=remedy,
        ) from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; it is renamed to `path` (replacing an older folder) only if the
    block ends without error. On Linux an older one is exchanged atomically; elsewhere `path` is
    missing for a moment, and if the writer is killed then, the next writer repairs it. The files'
    contents are not fsynced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        if path.exists() and not _exchanged(temporary, path):
            old = path.with_name(f".tmp-old-{path.name}-{uuid.uuid4().hex[:8]}")
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        elif not path.exists():
            os.rename(temporary, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the replaced folder, or an unfinished one


def _exchanged(new: Path, path: Path) -> bool:
    """Exchange the two names atomically, so that `path` is never missing. Returns False where the
    system or the file system does not support it.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or an old C library
        return False
    return bool(
        rename(_HERE, os.fsencode(new.absolute()), _HERE, os.fsencode(path.absolute()), _EXCHANGE)
        == 0
    )


def _sweep(path: Path) -> None:
    """Remove what killed writers of this file or folder left; where a writer was killed between the
    two renames of a folder, the older folder gets its name back.
    """
    for old in path.parent.glob(f".tmp-old-{glob.escape(path.name)}-????????"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)
    for leftover in path.parent.glob(f".tmp-{glob.escape(path.name)}-????????"):
        with contextlib.suppress(OSError):  # its writer may be active
            if time.time() - leftover.stat().st_mtime < _ABANDONED_S:
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _flush(path: Path) -> None:
    """fsync a file, or a folder's directory entries, where the file system supports it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a JSON value: the same for equal values, whatever the order of their
    keys.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
