"""The files of a `source:` entry: which they are, of which form, and their identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.core.artifacts import file_digest, fingerprint
from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.files import listing, remembered
from recsys_spark.datasets.forms.source import FORMS, Entry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Stored:
    """One of them, as `blocks` reads it."""

    name: str
    url: str
    size_bytes: int


@dataclass(frozen=True)
class Files:
    """Files of one form. local: the folder on this machine, None for a store behind a URL."""

    form: str  # of FORMS
    folder: str
    names: tuple[str, ...]  # below the folder, sorted
    sizes: tuple[int, ...]
    changed: tuple[int, ...]  # times of change, in the store's own unit
    local: Path | None

    @property
    def stored(self) -> list[Stored]:
        folder = self.folder.rstrip("/")
        return [
            Stored(name, f"{folder}/{name}", size)
            for name, size in zip(self.names, self.sizes, strict=True)
        ]

    @property
    def paths(self) -> list[Path]:
        """Of files on this machine."""
        return [] if self.local is None else [self.local / name for name in self.names]

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def states(self) -> dict[str, tuple[int, int]]:
        """{name: (bytes, time of change)}."""
        return dict(zip(self.names, zip(self.sizes, self.changed, strict=True), strict=True))

    def identity(self, runs: Path) -> str:
        """Fingerprint of names, sizes and bytes; behind a URL of the times of change in place of
        the bytes.
        """
        if self.local is None:
            states: list[str] = [str(time) for time in self.changed]
        else:
            states = remembered.facts(self.paths, "sha256", file_digest, runs)
        return fingerprint(list(zip(self.names, self.sizes, states, strict=True)))


def find(spark: SparkSession, entry: Entry) -> Files:
    """The files that an entry means. Raises DataError where there is none, ConfigError where they
    are not of one form.
    """
    assert entry.files is not None, "an entry of files"
    if listing.is_url(entry.files):
        root, states = listing.remote(spark, entry.files)
        names, sizes = tuple(states), tuple(size for size, _ in states.values())
        changed = tuple(time for _, time in states.values())
        return Files(_form(entry, names), root, names, sizes, changed, None)
    folder, found = listing.local(entry.files)
    stats = [(folder / name).stat() for name in found]
    return Files(
        _form(entry, tuple(found)),
        os.path.abspath(folder),
        tuple(found),
        tuple(stat.st_size for stat in stats),
        tuple(stat.st_mtime_ns for stat in stats),
        folder,
    )


def _form(entry: Entry, names: tuple[str, ...]) -> str:
    """`format`, which all must fit that have a known ending, else the one of all endings."""
    by_ending = {ending: form for form, endings in FORMS.items() for ending in endings}
    forms = {name: by_ending.get(_ending(name)) for name in names}
    wanted = entry.format or forms[names[0]]
    others = [
        name
        for name, form in forms.items()
        if form != wanted and (form is not None or entry.format is None)
    ]
    if wanted is None or others:
        raise ConfigError(
            f"files {entry.files}",
            found=f"{(others or list(names))[0]}",
            expected=f"files of format {wanted} alone"
            if wanted
            else f"an ending of {', '.join(by_ending)}",
            remedy=f"give a pattern that leaves it out, such as {entry.files}/*.{wanted}"
            if wanted
            else "set `format`",
        )
    return wanted


def _ending(name: str) -> str:
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in listing.COMPRESSED else path.suffix
