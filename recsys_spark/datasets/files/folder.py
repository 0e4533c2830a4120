"""The raw files of a data set: their location, checks that they are complete, their identity
(names, sizes, digests).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_spark.core import log
from recsys_spark.core.artifacts import file_digest, fingerprint
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import described, heads, listing, remembered
from recsys_spark.datasets.files.spec import Dataset, File

logger = log.get(__name__)

# file in a generated folder with the generator's arguments and the rows of each file
GENERATED = "generated.json"


@dataclass(frozen=True)
class Raw:
    """One file on disk, with the description of its kind in the data set."""

    path: Path
    name: str  # path relative to the data folder, as in the table quarantine
    file: File

    @property
    def url(self) -> str:
        """The absolute path, by which Spark reads the file."""
        return os.path.abspath(self.path)

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


def locate(dataset: Dataset, data: str | None, root: Path = Path("data")) -> Path | None:
    """The data folder: `data` if given, else $RECSYS_DATA/<name>, else <root>/<name>; None when
    none of them exists.

    Raises DataError when `data` is given but missing or empty.
    """
    names = [dataset.name] + ([dataset.download.folder] if dataset.download else [])
    if data is not None:
        folder = Path(data).expanduser()
        if not folder.is_dir() or not any(folder.iterdir()):
            problem = "an empty folder" if folder.is_dir() else "no such folder"
            raise DataError(
                f"data folder {data}",
                found=problem,
                expected=f"the files of {dataset.name}: {_wanted(dataset)}",
                remedy="correct `data=`, or leave it out to use RECSYS_DATA or ./data",
            )
        return folder
    variable = os.environ.get("RECSYS_DATA")
    if variable:
        base = Path(variable).expanduser()
        if not base.is_dir():
            raise DataError(
                f"RECSYS_DATA={variable}",
                found="no such folder",
                expected=f"a folder that holds {dataset.name}/",
                remedy="correct the variable, or unset it",
            )
        for name in names:
            if (base / name).is_dir():
                return base / name
    for name in names:
        if (root / name).is_dir():
            return root / name
    return None


def files(dataset: Dataset, folder: Path) -> list[Raw]:
    """The data set's files in this folder, sorted by kind and by path without endings: `a.dat`,
    `a-2.dat`, `b.dat`, `b/a.dat`.

    A file for several tables is listed once for each. Raises DataError when a required file is
    missing, or a file matches two kinds for one table.
    """
    raw_files: list[Raw] = []
    of_kind: dict[tuple[str, str], File] = {}  # {(table, name): kind}
    for file in dataset.files:
        paths = _matching(file, folder)
        relative = {path.relative_to(folder).as_posix(): path for path in paths}
        names = {name: relative[name] for name in listing.readable(folder, relative)}
        if file.required and not names:
            existing = (
                ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
            )
            raise DataError(
                f"data folder {folder}",
                found=f"no {file.pattern} ({existing})",
                expected=f"the files of {dataset.name}: {_wanted(dataset)}",
                remedy="correct `files` of the step, or point `data` at the folder that has them"
                if file.own
                else "point `data=` or RECSYS_DATA at the "
                f"unpacked set, or run `recsys-spark download {dataset.name}`",
            )
        for name in sorted(names):
            other = of_kind.setdefault((file.table, name), file)
            if other is not file:
                raise DataError(
                    f"{folder}, {name}",
                    found=f"a file of {other.pattern} and one of {file.pattern}",
                    expected="different names in different kinds of files",
                    remedy="change the patterns or the names",
                )
        raws = [Raw(path, name, file) for name, path in names.items()]
        raw_files += sorted(raws, key=lambda raw: (raw.name.split(".")[0], raw.name))
    if not any(raw.file.table == "interactions" for raw in raw_files):
        raise DataError(
            f"data folder {folder}",
            found="no file with events",
            expected=", ".join(file.pattern for file in dataset.files),
            remedy="point `data=` at the folder that holds them",
        )
    return raw_files


def _matching(file: File, folder: Path) -> list[Path]:
    return [
        path
        for ending in ("", *listing.COMPRESSED)
        for path in folder.glob(file.pattern + ending)
        if path.is_file()
    ]


def require_whole(raws: list[Raw], runs: Path | None = None) -> None:
    """Raises DataError, naming the file, unless every file has a line, ends with a line break and
    has its header: truncated files are rejected here.

    A compressed file is read completely, and is whole where its checksum is right; the result is
    cached in the folder `runs`. A user's own file may end without a line break, which the log says.
    """
    paths = list({raw.path for raw in raws})
    ends = dict(zip(paths, remembered.facts(paths, "last_byte", _last_byte, runs), strict=True))
    for raw in raws:
        _require_end(raw, ends[raw.path])
        if raw.file.header:
            _require_header(raw)
    for file in {id(raw.file): raw.file for raw in raws if raw.file.own}.values():
        described.require_fits(file, {raw.name: raw.path for raw in raws if raw.file is file})


def _require_end(raw: Raw, last_byte: str) -> None:
    if last_byte == "":
        raise DataError(
            str(raw.path),
            found="an empty file",
            expected=f"{raw.file.form} of this data set"
            if raw.file.form
            else "lines of " + raw.file.separator.join(raw.file.columns),
            remedy=f"take it away, or {_again(raw)}",
        )
    if last_byte in "\r\n" or raw.path.suffix in listing.COMPRESSED or raw.file.form:
        return
    if raw.file.own:
        logger.warning(
            log.fields(
                event="open_end",
                file=raw.path,
                meaning="the last line has no end; it is read, but was the file cut short?",
            )
        )
        return
    raise DataError(
        str(raw.path),
        found="a last line without its end",
        expected="a newline at the end of the file",
        remedy="the file was cut short: fetch it again; if it is whole, add a newline to its end",
    )


def _require_header(raw: Raw) -> None:
    first = _first_line(raw.path)
    text = first.decode("utf-8-sig", errors="replace").strip("\r\n")
    width = len(described.fields_of(text, raw.file.separator, quoted=raw.file.quoted))
    if width != len(raw.file.columns) or first[:1].isdigit():
        raise DataError(
            f"{raw.path}, line 1",
            found=f"{text[:80]!r}, split by {raw.file.separator!r} into {width}",
            expected=f"a header with {len(raw.file.columns)} "
            f"names, for {', '.join(raw.file.columns)}",
            remedy="set `separator` and `columns` as the file has them, or `header: false`"
            if raw.file.own
            else "check that this is the file of this data set",
        )


def _again(raw: Raw) -> str:
    return "write it again" if raw.file.own else "fetch the file again"


def header_of(raw: Raw) -> tuple[str, str]:
    """The first line, unchanged and without its byte order mark."""
    line = _first_line(raw.path).decode("utf-8", errors="replace").strip("\r\n")
    return line, line.removeprefix("\ufeff")


def identity(raws: list[Raw], runs: Path | None = None) -> str:
    """Fingerprint of the files' names, sizes and bytes, independent of the folder's path. runs: the
    folder with the cache of digests of unchanged files.
    """
    paths = {raw.name: raw.path for raw in raws}
    digests = remembered.facts(list(paths.values()), "sha256", file_digest, runs)
    return fingerprint(
        [
            [name, path.stat().st_size, digest]
            for (name, path), digest in zip(paths.items(), digests, strict=True)
        ]
    )


def estimated_rows(raw: Raw) -> int:
    """Estimate from the length of the first lines; a compressed file is assumed to unpack to four
    times its size.
    """
    with heads.opened(raw.path) as source:
        lines = source.readlines(1 << 16)
    size = raw.size_bytes * (4 if raw.path.suffix in listing.COMPRESSED else 1)
    if raw.file.mark:
        marks = sum(line.count(raw.file.mark.encode()) for line in lines)
        return round(size * marks / max(1, sum(map(len, lines))))
    return round(size * len(lines) / max(1, sum(map(len, lines))))


def generated(folder: Path) -> dict[str, Any] | None:
    """The generator's notes in the folder; None if it is not a generated one."""
    note = folder / GENERATED
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else None


def expected_rows(dataset: Dataset, folder: Path) -> dict[str, int]:
    """{label of a kind of files: rows}, for kinds with a known number of rows."""
    note = generated(folder)
    if note is not None:
        return {str(pattern): int(rows) for pattern, rows in note["rows"].items()}
    return {
        file.label: file.rows
        for file in dataset.files
        if file.rows is not None and file.of_files in (None, len(_matching(file, folder)))
    }


def _wanted(dataset: Dataset) -> str:
    return ", ".join(file.pattern for file in dataset.files if file.required)


def _first_line(path: Path) -> bytes:
    with heads.opened(path) as source:
        return source.readline(1 << 20)


def _last_byte(path: Path) -> str:
    """The last byte; empty for an empty file. Of a compressed file all is read, which shows whether
    it is whole.
    """
    if path.suffix not in listing.COMPRESSED:
        with open(path, "rb") as source:
            source.seek(max(0, path.stat().st_size - 1))
            return source.read(1).decode("latin-1")
    last = b""
    with heads.whole(path) as source:
        while block := source.read(1 << 20):
            last = block[-1:]
    return last.decode("latin-1")
