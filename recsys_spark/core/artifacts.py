"""Files that are whole or absent: atomic writes, checksums, fingerprints.

A file is written beside its place and renamed; a folder is written as `.tmp-*` and renamed when its last file is
on disk. A reader therefore never sees a half-written one, and leftovers of a killed writer are recognised by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Iterator, TypeVar

from pydantic import BaseModel, ValidationError

from recsys_spark.core.errors import RecsysError

M = TypeVar("M", bound=BaseModel)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a temporary file beside `path`; it takes that name (replacing an older one) only if the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step (write beside, fsync, rename)."""
    with new_file(path) as beside, open(beside, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def write_model(path: Path, model: BaseModel) -> None:
    write_text(path, model.model_dump_json(indent=1) + "\n")


def read_model(path: Path, kind: type[M], *, error: type[RecsysError], remedy: str) -> M:
    """Parse a JSON contract. Raises `error`, naming the file and the first wrong field."""
    if not path.exists():
        raise error(str(path), found="no such file", expected=f"a {kind.__name__} in JSON", remedy=remedy)
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise error(f"{path}, {where}", found=repr(first.get("input"))[:80], expected=first["msg"], remedy=remedy) from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; it takes the name `path` (replacing an older one) only if the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            old = path.with_name(f".tmp-old-{path.name}-{uuid.uuid4().hex[:8]}")
            os.rename(path, old)
            os.rename(beside, path)
            shutil.rmtree(old)
        else:
            os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a JSON value: the same for equal values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
