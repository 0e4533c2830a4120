"""The raw files of a data set: where they lie, whether they are whole, what they are (names, sizes, digests)."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_spark.core.artifacts import file_digest, fingerprint
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.spec import Dataset, File

GENERATED = "generated.json"  # in a folder that the generator wrote: its arguments and the rows of each file


@dataclass(frozen=True)
class Raw:
    """One file on disk and what its data set says of its kind."""

    path: Path
    name: str  # relative to the data folder, as quarantine names it
    file: File


def locate(dataset: Dataset, data: str | None, root: Path = Path("data")) -> Path | None:
    """The folder: `data` when it is named, else $RECSYS_DATA/<name>, else <root>/<name>; None when none of them exists.

    Raises DataError when a folder is named and is missing, or holds nothing.
    """
    names = [dataset.name] + ([dataset.download.folder] if dataset.download else [])
    if data is not None:
        folder = Path(data).expanduser()
        if not folder.is_dir() or not any(folder.iterdir()):
            found = "an empty folder" if folder.is_dir() else "no such folder"
            raise DataError(f"data folder {data}", found=found, expected=f"the files of {dataset.name}: {_wanted(dataset)}",
                            remedy="correct `data=`, or leave it out to use RECSYS_DATA or ./data")
        return folder
    variable = os.environ.get("RECSYS_DATA")
    if variable:
        base = Path(variable).expanduser()
        if not base.is_dir():
            raise DataError(f"RECSYS_DATA={variable}", found="no such folder", expected=f"a folder that holds {dataset.name}/",
                            remedy="correct the variable, or unset it")
        for name in names:
            if (base / name).is_dir():
                return base / name
    for name in names:
        if (root / name).is_dir():
            return root / name
    return None


def files(dataset: Dataset, folder: Path) -> list[Raw]:
    """The set's files in this folder, by kind and name without endings: `a.dat`, `a-2.dat`, `b.dat`.

    Raises DataError when a required one is missing, or one is of two kinds.
    """
    found: list[Raw] = []
    of_kind: dict[str, File] = {}  # by name alone, for so a row's file is known later
    for file in dataset.files:
        paths = {*folder.glob(file.pattern), *folder.glob(file.pattern + ".gz")}
        if file.required and not paths:
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
            raise DataError(f"data folder {folder}", found=f"no {file.pattern} ({there})",
                            expected=f"the files of {dataset.name}: {_wanted(dataset)}",
                            remedy=f"point `data=` or RECSYS_DATA at the unpacked set, or run `recsys-spark download {dataset.name}`")
        for name in sorted(path.name for path in paths):
            if of_kind.setdefault(name, file) is not file:
                raise DataError(f"{folder}, {name}", found=f"a file of {of_kind[name].pattern} and one of {file.pattern}",
                                expected="different names in different kinds of files", remedy="change the patterns or the names")
        raws = [Raw(path, str(path.relative_to(folder)), file) for path in paths]
        found += sorted(raws, key=lambda raw: (raw.path.name.split(".")[0], raw.path.name))
    if not any(raw.file.table == "interactions" for raw in found):
        raise DataError(f"data folder {folder}", found="no file with events", expected=", ".join(file.pattern for file in dataset.files),
                        remedy="point `data=` at the folder that holds them")
    return found


def require_whole(raws: list[Raw]) -> None:
    """Every file has a line, ends with one, and has its header. Raises DataError naming the file: a cut one never gets further."""
    for raw in raws:
        first, last_byte = _ends(raw.path)
        if last_byte == b"":
            raise DataError(str(raw.path), found="an empty file", expected="lines of " + raw.file.separator.join(raw.file.columns),
                            remedy="fetch the file again")
        if last_byte not in b"\r\n":
            raise DataError(str(raw.path), found="a last line without its end", expected="a newline at the end of the file",
                            remedy="the file was cut short: fetch it again; if it is whole, add a newline to its end")
        if raw.file.header:
            width = len(first.decode("utf-8-sig", errors="replace").strip("\r\n").split(raw.file.separator))
            if width != len(raw.file.columns) or first[:1].isdigit():
                raise DataError(f"{raw.path}, line 1", found=repr(first[:80].decode("utf-8", errors="replace")),
                                expected=f"a header with {len(raw.file.columns)} names, for {', '.join(raw.file.columns)}",
                                remedy="check that this is the file of this data set, or set `header: false`")


def header_of(raw: Raw) -> tuple[str, str]:
    """The first line, as it is and without a byte order mark."""
    line = _ends(raw.path, first_only=True)[0].decode("utf-8", errors="replace").strip("\r\n")
    return line, line.removeprefix("\ufeff")


def identity(raws: list[Raw]) -> str:
    """Fingerprint of the files' names, sizes and bytes, wherever the folder lies."""
    return fingerprint([[raw.name, raw.path.stat().st_size, file_digest(raw.path)] for raw in raws])


def estimated_rows(raw: Raw) -> int:
    """From the length of the first lines; a compressed file is taken to unpack fourfold."""
    with gzip.open(raw.path, "rb") if raw.path.suffix == ".gz" else open(raw.path, "rb") as source:
        lines = source.readlines(1 << 16)
    size = raw.path.stat().st_size * (4 if raw.path.suffix == ".gz" else 1)
    return round(size * len(lines) / max(1, sum(map(len, lines))))


def generated(folder: Path) -> dict[str, Any] | None:
    """What the generator wrote of itself, if this folder is its work."""
    note = folder / GENERATED
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else None


def expected_rows(dataset: Dataset, folder: Path) -> dict[str, int]:
    """{file pattern: rows} where it is known how many lines there must be."""
    note = generated(folder)
    if note is not None:
        return {str(pattern): int(rows) for pattern, rows in note["rows"].items()}
    return {file.pattern: file.rows for file in dataset.files if file.rows is not None}


def _wanted(dataset: Dataset) -> str:
    return ", ".join(file.pattern for file in dataset.files if file.required)


def _ends(path: Path, first_only: bool = False) -> tuple[bytes, bytes]:
    """The first line and the last byte; a compressed file is read through, which finds one that is cut."""
    try:
        if path.suffix != ".gz":
            with open(path, "rb") as plain:
                first = plain.readline(1 << 20)
                if first:
                    plain.seek(-1, os.SEEK_END)
                return first, plain.read(1)
        with gzip.open(path, "rb") as packed:
            first = packed.readline(1 << 20)
            last = first[-1:]
            while not first_only and (block := packed.read(1 << 20)):
                last = block[-1:]
            return first, last
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(str(path), found=f"a damaged gzip file ({problem})", expected="a whole one",
                        remedy="fetch the file again") from None
