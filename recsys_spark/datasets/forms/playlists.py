"""Playlists in JSON: slices of the Million Playlist Dataset, its challenge set, and lines of one
playlist each. A file is read by one task, a playlist at a time.

A slice is `{"info": ..., "playlists": [...]}`. What follows a place where the JSON breaks cannot be
read: where the file's name says which playlists it has (`mpd.slice.0-999.json`), each one that is
lost is a row of its own, so that the budget counts it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.files.spec import File
from recsys_spark.datasets.forms import blocks
from recsys_spark.datasets.forms.blocks import Stored
from recsys_spark.datasets.forms.scan import (
    AT,
    BLOCK,
    CUT,
    ELSEWHERE,
    ENCODING,
    HEADER,
    MISSING_KEY,
    RECORD,
    TWICE,
    UNKNOWN_KEY,
    WRONG_COUNT,
    Scan,
    inner,
)

PLAYLIST = (
    *("pid", "name", "description", "collaborative", "modified_at"),
    *("num_tracks", "num_albums", "num_artists", "num_followers", "num_edits", "duration_ms"),
)
TRACK = (
    *("pos", "track_uri", "track_name", "artist_uri", "artist_name"),
    *("album_uri", "album_name", "duration_ms"),
)
# Keys of the challenge set and of the set in lines
_FURTHER = frozenset({"tracks", "num_holdouts", "num_samples", "slice"})
_KNOWN, _KNOWN_OF_TRACK = _FURTHER.union(PLAYLIST), frozenset(TRACK)
_RANGE = re.compile(r"\.(\d+)-(\d+)\.json")
_LIST, _BLANK = re.compile(r'"playlists"\s*:\s*\['), re.compile(r"[ \t\r\n]*")
_SHOWN = 300  # characters of a record in the table quarantine
_ROWS = 10_000  # of a record batch


class Read(NamedTuple):
    """A playlist of a file, or the reason why there is none at its place. text: how it begins."""

    record: Any
    text: str
    reason: str | None = None


class Rows(NamedTuple):
    """Rows of one playlist, by column."""

    raw: list[str]
    reasons: list[str | None]
    columns: list[list[str | None]]


def scan(spark: SparkSession, file: File, files: Sequence[Stored]) -> Scan:
    """A row a playlist for the table of users, a row an entry for those of events and items. Raises
    DataError for slices that have playlists in common.
    """
    require_disjoint([stored.name for stored in files])
    named = [(stored.name, stored.url) for stored in files]
    rows_of = _of_playlists if file.table == c.USERS else _of_entries
    wanted = file.columns

    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                name, path = named[number]
                yield from _batches(name, rows_of(name, Path(path), wanted), wanted)

    numbers = spark.range(0, len(named), 1, len(named))
    rows: DataFrame = numbers.mapInArrow(parse, _schema(wanted))
    return blocks.scanned(file, files, rows)


def require_disjoint(names: Sequence[str]) -> None:
    """Raises DataError for two files whose names say that they have a playlist in common: which of
    two lists with one pid is the right one, nobody could say.
    """
    ranges = sorted((_range(name), name) for name in names if _range(name))
    for (before, name), (after, other) in zip(ranges, ranges[1:], strict=False):
        first = after[0]
        if first <= before[1]:
            raise DataError(
                f"files {name} and {other}",
                found=f"playlist {first} in both, as their names say",
                expected="slices that have no playlist in common",
                remedy="take one of them away",
            )


def _range(name: str) -> tuple[int, ...]:
    """The first and the last pid of a slice."""
    named = _RANGE.search(name)
    return tuple(map(int, named.groups())) if named else ()


def read(name: str, path: Path) -> Iterator[Read]:
    """The playlists of a file in order, those that cannot be used with the reason. name: says which
    pids there are, and whether the file is of lines.
    """
    of_name, seen, met = _range(name), set[int](), set[str]()
    records = _lines if ".jsonl" in name else _elements
    for playlist in records(path):
        if playlist.reason is None:
            playlist = playlist._replace(reason=_reason(playlist.record, seen, of_name))
        if playlist.reason is None:
            seen.add(playlist.record["pid"])
        if isinstance(playlist.record, dict):
            met.add(str(playlist.record.get("pid")))
        if playlist.reason == CUT and of_name:
            lost = [pid for pid in range(of_name[0], of_name[1] + 1) if str(pid) not in met]
            yield from (
                Read(None, f"playlist {pid}, lost after: {playlist.text}", CUT) for pid in lost
            )
        else:
            yield playlist


def _reason(record: Any, seen: set[int], of_name: tuple[int, ...]) -> str | None:
    if not isinstance(record, dict):
        return RECORD
    pid, tracks = record.get("pid"), record.get("tracks")
    if not isinstance(pid, int) or isinstance(pid, bool) or not isinstance(tracks, list):
        return MISSING_KEY
    if not _KNOWN.issuperset(record):
        return UNKNOWN_KEY
    if pid in seen:
        return TWICE
    if of_name and not of_name[0] <= pid <= of_name[1]:
        return ELSEWHERE
    # The challenge set says how many of the tracks it gives
    number = record.get("num_samples", record.get("num_tracks", len(tracks)))
    return None if number == len(tracks) else WRONG_COUNT


def _elements(path: Path) -> Iterator[Read]:
    """The elements of the list `playlists`."""
    text, broken = _text(path)
    start = _LIST.search(text)
    if start is None:
        yield Read(None, text[:_SHOWN], RECORD)
        return
    decoder, at = json.JSONDecoder(), start.end()
    while True:
        at = _after_blanks(text, at)
        if text[at : at + 1] == "]":
            return
        try:
            record, end = decoder.raw_decode(text, at)
            after = _after_blanks(text, end)
            if text[after : after + 1] not in (",", "]"):
                raise ValueError("neither a comma nor the end of the list")
        except ValueError:
            yield Read(None, text[at : at + _SHOWN], CUT)
            return
        wrong = ENCODING if broken and "\ufffd" in text[at:end] else None
        yield Read(record, text[at : at + _SHOWN], wrong)
        at = after + (text[after] == ",")


def _lines(path: Path) -> Iterator[Read]:
    with heads.whole(path) as source:
        for line in source:
            if not line.strip():
                continue
            text, wrong = line.decode("utf-8", errors="replace"), None
            try:
                record = json.loads(line)
            except UnicodeDecodeError:
                record, wrong = None, ENCODING
            except ValueError:
                record, wrong = None, RECORD
            yield Read(record, text[:_SHOWN], wrong)


def _text(path: Path) -> tuple[str, bool]:
    """(all of it, whether bytes had to be replaced)."""
    with heads.whole(path) as source:
        content = source.read()
    try:
        return content.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return content.decode("utf-8-sig", errors="replace"), True


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANK.match(text, at)
    return blanks.end() if blanks else at


def _of_playlists(name: str, path: Path, wanted: Sequence[str]) -> Iterator[Rows]:
    for playlist in read(name, path):
        record = {} if playlist.reason else playlist.record
        yield Rows(
            [playlist.text], [playlist.reason], [[_as_text(record.get(key))] for key in wanted]
        )


def _of_entries(name: str, path: Path, wanted: Sequence[str]) -> Iterator[Rows]:
    """The tracks of the playlists that can be used; the others are reported as playlists."""
    for playlist in read(name, path):
        if playlist.reason:
            continue
        pid, tracks = str(playlist.record["pid"]), playlist.record["tracks"]
        shared = {"pid": pid, "modified_at": _as_text(playlist.record.get("modified_at", 0))}
        reasons = [_reason_of_track(track) for track in tracks]
        raw = [
            f"playlist {pid}: {json.dumps(track)[:_SHOWN]}"
            if reason
            else f"playlist {pid}, entry {place}: {track['track_uri']}"
            for place, (track, reason) in enumerate(zip(tracks, reasons, strict=True))
        ]
        usable = [{} if reason else track for track, reason in zip(tracks, reasons, strict=True)]
        columns = [
            [shared[key]] * len(tracks)
            if key in shared
            else [
                _as_text(track.get(key, place if key == "pos" else None))
                for place, track in enumerate(usable)
            ]
            for key in wanted
        ]
        yield Rows(raw, reasons, columns)


def _reason_of_track(track: Any) -> str | None:
    if not isinstance(track, dict):
        return RECORD
    uri = track.get("track_uri")
    if not isinstance(uri, str) or not uri.strip():
        return MISSING_KEY
    return None if _KNOWN_OF_TRACK.issuperset(track) else UNKNOWN_KEY


def _as_text(value: Any) -> str | None:
    """Numbers as they are written."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if type(value) is int else json.dumps(value)  # four times as fast


def _schema(wanted: Sequence[str]) -> str:
    places = {c.SOURCE_FILE: "string", BLOCK: "long", AT: "long", c.RAW: "string"}
    places |= {c.REASON: "string", HEADER: "boolean"}
    columns = {inner(name): kind for name, kind in places.items()} | dict.fromkeys(wanted, "string")
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _batches(name: str, rows: Iterator[Rows], wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    places = [inner(name) for name in (c.SOURCE_FILE, BLOCK, AT, c.RAW, c.REASON, HEADER)]
    start = 0
    while part := _some(rows):
        raw = [text for playlist in part for text in playlist.raw]
        reasons = [reason for playlist in part for reason in playlist.reasons]
        columns = [
            [value for playlist in part for value in playlist.columns[number]]
            for number in range(len(wanted))
        ]
        arrays = [
            _texts([name] * len(raw)),
            pa.array(np.zeros(len(raw), np.int64)),
            pa.array(np.arange(start, start + len(raw))),
            _texts(raw),
            _texts(reasons),
            pa.array(np.zeros(len(raw), np.bool_)),
            *map(_texts, columns),
        ]
        yield pa.RecordBatch.from_arrays(arrays, [*places, *wanted])
        start += len(raw)


def _some(rows: Iterator[Rows]) -> list[Rows]:
    """The next ones, of some 10,000 rows together."""
    part: list[Rows] = []
    count = 0
    while count < _ROWS and (playlist := next(rows, None)) is not None:
        part.append(playlist)
        count += len(playlist.raw)
    return part


def _texts(values: Sequence[str | None]) -> pa.Array:
    """JSON may have one half of a pair of surrogates, which no table can hold: it becomes `?`."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        whole = [None if text is None else text.encode("utf-8", "replace") for text in values]
        return pa.array([None if text is None else text.decode() for text in whole], pa.string())
