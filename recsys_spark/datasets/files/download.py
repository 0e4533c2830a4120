"""Downloads a data set's zip from its publisher: resumable, checked, and unpacked completely or not
at all.
"""

from __future__ import annotations

import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Callable

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from recsys_spark.core import log
from recsys_spark.core.artifacts import file_digest, new_folder
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import spec
from recsys_spark.datasets.files.spec import Dataset, Download

logger = log.get(__name__)

TIMEOUT_S = 15.0  # for a connection, and for each block of a running transfer
ATTEMPTS = 5  # consecutive failures, without a byte in between, before giving up
_BLOCK = 1 << 18
# Text of ratings unpacks to 4 to 6 times the size of its zip; a zip of zeros to 1,000 times
UNPACKS_TO_AT_MOST = 30


class NoNetwork(DataError):
    """The publisher cannot be reached."""


def download(name: str, to: Path, *, url: str | None = None) -> Path:
    """The folder `to/<name>`, downloaded and unpacked if it does not exist. url: a mirror to use
    instead of the publisher's URL.

    An interrupted transfer stays as `<name>.zip.part` and is resumed by the next call. Raises
    NoNetwork, or DataError for a wrong file.
    """
    dataset = spec.find(name)
    folder = to / name
    if folder.is_dir() and any(folder.iterdir()):
        logger.info(log.fields(event="download", dataset=name, folder=folder, what="there already"))
        return folder
    if dataset.register:
        raise ConfigError(
            f"data set {name}",
            found="a set that may not be passed on",
            expected=f"your own copy, from {dataset.register}",
            remedy="register there, unpack it, and point `data:` of the ingest step (or "
            f"RECSYS_DATA/{name}) at its folder",
        )
    if dataset.download is None:
        raise ConfigError(
            f"data set {name}",
            found="no address to fetch it from",
            expected="a set that its publisher serves as a zip",
        )
    archive = to / f"{name}.zip"
    if not archive.exists():
        to.mkdir(parents=True, exist_ok=True)
        fetch(url or dataset.download.url, archive, dataset.download)
    unpack(archive, dataset, folder)
    archive.unlink()
    return folder


def fetch(url: str, archive: Path, expected: Download) -> None:
    """Downloads `url` to `archive`, which gets its name only when it is complete and checked."""
    part = archive.with_name(archive.name + ".part")
    with _progress(archive.name) as tell:
        breaks = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _transfer(url, part, expected, tell)
                break
            except (http.client.HTTPException, ConnectionError, TimeoutError) as problem:
                gained = (part.stat().st_size if part.exists() else 0) > before
                breaks = 0 if gained else breaks + 1
                logger.warning(
                    log.fields(
                        event="transfer_broken",
                        problem=problem,
                        have_bytes=part.stat().st_size if part.exists() else 0,
                    )
                )
                if breaks >= ATTEMPTS:
                    raise NoNetwork(
                        url,
                        found=f"a connection that breaks: {problem}",
                        expected="a file",
                        remedy="run the same command again: it goes on where it stopped",
                    ) from None
                time.sleep(min(2.0, 0.1 * 2**breaks))
    try:
        require_right(part, expected, url)
    except DataError:
        part.unlink()  # a wrong file must not be resumed
        raise
    part.replace(archive)


def require_right(archive: Path, expected: Download, source: str) -> None:
    """Raises DataError unless size and SHA-256 are as recorded; without a record, unless the file
    is a zip.
    """
    again = (
        "delete it and run `recsys-spark download` again; if it stays so, fetch the zip "
        "by hand and unpack it under ./data"
    )
    size = archive.stat().st_size
    if expected.size_bytes is not None and size != expected.size_bytes:
        raise DataError(
            f"{archive} from {source}",
            found=f"{size:,} bytes",
            expected=f"{expected.size_bytes:,} bytes",
            remedy=again,
        )
    if expected.sha256 and (digest := file_digest(archive)) != expected.sha256:
        raise DataError(
            f"{archive} from {source}",
            found=f"SHA-256 {digest}",
            expected=expected.sha256,
            remedy=again,
        )
    if not zipfile.is_zipfile(archive):
        with open(archive, "rb") as source_file:
            start = source_file.read(16)
        raise DataError(
            f"{archive} from {source}",
            found=f"{size:,} bytes that begin with {start!r}",
            expected="a whole zip file",
            remedy=again,
        )


def unpack(archive: Path, dataset: Dataset, folder: Path) -> None:
    """Unpacks the data set's folder in the zip to `folder`, completely or not at all. Raises
    DataError for a damaged zip or one of other content.
    """
    assert dataset.download is not None
    require_right(archive, dataset.download, "an earlier download")
    inside = dataset.download.folder
    try:
        with zipfile.ZipFile(archive) as packed, new_folder(folder) as unpacked:
            members = [
                member
                for member in packed.infolist()
                if PurePosixPath(member.filename).parts[:1] == (inside,)
            ]
            if not members:
                roots = (
                    ", ".join(
                        sorted({PurePosixPath(name).parts[0] for name in packed.namelist()})[:5]
                    )
                    or "nothing"
                )
                raise DataError(
                    str(archive),
                    found=f"a zip of {roots}",
                    expected=f"a zip of {inside}/",
                    remedy="delete it and download again",
                )
            _require_room(archive, sum(member.file_size for member in members), folder)
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(
                        str(archive),
                        found=f"a member named {member.filename!r}",
                        expected=f"names below {inside}/",
                        remedy="do not use this file: fetch it from its publisher",
                    )
                target = unpacked.joinpath(*path.parts[1:])
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading to the end of the stated size checks the CRC
                with (
                    packed.open(member) as source,
                    open(target, "wb") as out,
                ):
                    shutil.copyfileobj(source, out, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise DataError(
            str(archive),
            found=f"a damaged zip ({problem})",
            expected="a whole one",
            remedy="delete it and download again",
        ) from None


def _require_room(archive: Path, size: int, folder: Path) -> None:
    """Raises DataError if the zip would unpack to an implausible size, or to more than fits."""
    most, free = UNPACKS_TO_AT_MOST * archive.stat().st_size, shutil.disk_usage(folder.parent).free
    if size > most:
        raise DataError(
            str(archive),
            found=f"a zip that unpacks to {size:,} bytes",
            expected=f"at most {most:,}, {UNPACKS_TO_AT_MOST} times its own size",
            remedy="do not use this file: fetch it from its publisher",
        )
    if size > free:
        raise DataError(
            str(archive),
            found=f"{free:,} bytes free beside {folder}",
            expected=f"{size:,} to unpack it",
            remedy="free space there, then run the same command again",
        )


def _transfer(
    url: str, part: Path, expected: Download, tell: Callable[[int, int | None], None]
) -> None:
    """Appends the missing bytes to `part`. Raises HTTPException or OSError when the connection
    breaks.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            if have and reply.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0  # a server that cannot resume sends the file from the start
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length else None
            if (
                total is not None
                and expected.size_bytes is not None
                and total != expected.size_bytes
            ):
                part.unlink(missing_ok=True)
                raise DataError(
                    url,
                    found=f"a file of {total:,} bytes",
                    expected=f"{expected.size_bytes:,} bytes",
                    remedy="the publisher serves another file than "
                    "the one on record: fetch it by hand and check it",
                )
            with open(part, "ab" if have else "wb") as out:
                tell(have, total)
                while block := reply.read(_BLOCK):
                    out.write(block)
                    have += len(block)
                    tell(have, total)
            if total is not None and have < total:
                raise ConnectionError(f"{have:,} of {total:,} bytes came")
    except urllib.error.HTTPError as problem:
        if problem.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all bytes are present; the check of the file follows
        raise DataError(
            url,
            found=f"HTTP {problem.code} {problem.reason}",
            expected="a file",
            remedy="see whether the publisher has moved it, or put the unpacked set under ./data",
        ) from None
    except urllib.error.URLError as problem:
        raise NoNetwork(
            url,
            found=f"no connection ({problem.reason})",
            expected="a server that answers",
            remedy="check the network, or put the unpacked set under ./data or $RECSYS_DATA",
        ) from None


class _progress:
    """A progress bar on a terminal, else a log line at every tenth. Called with (bytes received,
    total bytes).
    """

    def __init__(self, name: str) -> None:
        self.name, self.tenth = name, -1
        self.bar: Progress | None = None

    def __enter__(self) -> Callable[[int, int | None], None]:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns)
            self.task = self.bar.add_task(self.name, total=None)
            self.bar.start()
        return self.tell

    def tell(self, have: int, total: int | None) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=have, total=total)
        elif total and 10 * have // total != self.tenth:
            self.tenth = 10 * have // total
            logger.info(log.fields(event="download", file=self.name, bytes=have, of_bytes=total))

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
