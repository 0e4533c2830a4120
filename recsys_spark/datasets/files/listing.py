"""Which files a path, a folder or a pattern means: each is read, left out with a word, or refused.

Spark itself leaves out names that begin with `_` or `.` and says nothing.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Iterable

from py4j.protocol import Py4JJavaError

from recsys_spark.core import log
from recsys_spark.core.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = log.get(__name__)

COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
# What Spark and its committers leave beside data
_MARKERS = re.compile(r"_(SUCCESS|committed_.*|started_.*|metadata|common_metadata)|\..*\.crc")
_MAGIC = re.compile(r"[*?\[{]")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/")
SHOWN = 5  # names in a message


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def readable(folder: str | Path, names: Iterable[str]) -> list[str]:
    """Those of these paths below `folder` that hold data, sorted. Spark's markers are left out,
    and hidden files and those in hidden folders, which the log says.

    Raises DataError for a name that begins with an underscore, which Spark would not read, and for
    the folder of a Delta table, whose files are not its rows.
    """
    kept, hidden, unread = [], [], []
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        if "_delta_log" in parts:
            raise DataError(
                f"data folder {folder}",
                found="a Delta table, whose files also hold rows that were deleted",
                expected="plain files",
                remedy=f"read it as a table: `table: {folder}`",
            )
        if _MARKERS.fullmatch(parts[-1]):
            continue
        if any(part.startswith(".") for part in parts):
            hidden.append(name)
        elif parts[-1].startswith("_"):
            unread.append(name)
        else:
            kept.append(name)
    if unread:
        raise DataError(
            f"data folder {folder}",
            found=f"{_some(unread)}, which Spark does not read",
            expected="names that do not begin with an underscore",
            remedy="rename them, or give a pattern that leaves them out",
        )
    if hidden:
        logger.warning(log.fields(event="left_out", folder=folder, hidden=_some(hidden)))
    return kept


def local(path: str) -> tuple[Path, list[str]]:
    """(folder, paths below it) of the files that `path` means on this machine: a file, a folder
    with all below it, or a pattern below a folder. Raises DataError where there is none,
    PermissionError for a folder that may not be listed.
    """
    place = Path(path).expanduser()
    if place.is_dir() and not os.access(place, os.R_OK | os.X_OK, effective_ids=True):
        # Else it would look empty
        raise PermissionError(errno.EACCES, "no permission to list it", str(place))
    if place.is_file():
        folder, paths = place.parent, [place]
    elif place.is_dir():
        folder, paths = place, [each for each in place.rglob("*") if each.is_file()]
    else:
        folder, pattern = _folder_and_pattern(place)
        paths = [each for each in folder.glob(pattern) if each.is_file()] if pattern else []
    names = readable(folder, [each.relative_to(folder).as_posix() for each in paths])
    if not names:
        raise _none(path, "no such file" if not _MAGIC.search(path) else "no file of this name")
    return folder, names


def remote(spark: SparkSession, url: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """(folder, {path below it: (bytes, time of change in ms)}) of the files that a URL means, by
    Hadoop's client of that store. Raises DataError where there is none, or none that can be read.
    """
    jvm = spark._jvm
    assert jvm is not None, "a classic session has a JVM"
    path_class = jvm.org.apache.hadoop.fs.Path
    try:
        pattern = path_class(url)
        store = pattern.getFileSystem(spark._jsc.hadoopConfiguration())
        matches = list(store.globStatus(pattern) or [])
        folder = url
        while _MAGIC.search(folder) or (matches and matches[0].isFile() and folder == url):
            folder = folder.rstrip("/").rpartition("/")[0]
        files = []
        for match in matches:
            walk = store.listFiles(match.getPath(), True) if match.isDirectory() else None
            while walk is not None and walk.hasNext():
                files.append(walk.next())
            files += [match] if walk is None else []
    except Py4JJavaError as problem:
        raise _none(url, f"{_cause(problem)}") from None
    root = store.makeQualified(path_class(folder)).toString().rstrip("/")
    states = {
        status.getPath().toString().removeprefix(root + "/"): (
            int(status.getLen()),
            int(status.getModificationTime()),
        )
        for status in files
    }
    kept = readable(url, states)
    if not kept:
        raise _none(url, "no file of this name")
    return root, {name: states[name] for name in kept}


def _folder_and_pattern(path: Path) -> tuple[Path, str]:
    """The folders that there are, as they are named, and the rest, which is a pattern."""
    folder = Path(path.anchor) if path.is_absolute() else Path()
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for place, part in enumerate(parts):
        if not (folder / part).is_dir():
            return folder, "/".join(parts[place:])
        folder = folder / part
    return folder, ""


def _none(path: str, found: str) -> DataError:
    return DataError(
        f"files {path}",
        found=found,
        expected="a file, a folder or a pattern with at least one file",
        remedy="correct `files`; a path is from the folder in which the command runs",
    )


def _cause(problem: Exception) -> str:
    """The last cause in words, without Java's names."""
    text = str(getattr(problem, "java_exception", problem)).splitlines()[0]
    return re.sub(r"^[\w.$]+(Exception|Error): ", "", text)[:160]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
