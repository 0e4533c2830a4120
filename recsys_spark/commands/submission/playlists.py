"""Answers of the RecSys Challenge 2018 (Spotify): a line `team_info,main,NAME,EMAIL`, then a line a
playlist of the challenge set, `pid, uri, uri ...` with 500 tracks, best first. Blank lines and
those that begin with # are left out.

The organisers' check (RecsysChallengeTools, verify_submission.py) refuses another first line, a pid
that is no number or not of the set, another number of tracks than 500, a track twice, one that the
playlist is known to have, one that is no `spotify:track:` and 22 characters, and missing playlists.
Ours also refuses a playlist twice, and tracks that neither the slices beside the challenge set nor
that set itself has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.commands.submission import _answers
from recsys_spark.core import columns as c
from recsys_spark.core.artifacts import new_file
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import heads, listing
from recsys_spark.datasets.forms import playlists as forms
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.challenge import playlists as metrics
from recsys_spark.metrics.challenge.playlists import PLACES

TEAM, TRACKS = "team_info", ("main", "creative")
_URI = re.compile(r"spotify:track:[^:]{22}")
_IN_SLICE = re.compile(rb'"(spotify:track:[^":]{22})"')
Row = tuple[int, int, list[str]]  # line, pid, tracks


def write(lake: Lake, step: str, answer: Path) -> dict[str, int]:
    """The lists of the last completed run of `step` as an answer file; {what: count}. A playlist of
    the challenge set that is no query of the split, for nothing but its title is known, gets the
    tracks that most playlists have. The first line has no true name: it is to be filled in.

    Raises ConfigError for a step without lists of 500 tracks.
    """
    run = _scored(lake, step)
    lists = lake.read(c.RECOMMENDATIONS, run.output_versions[c.RECOMMENDATIONS])
    lists = lists.where((F.col(c.RUN_ID) == run.run_id) & (F.col(c.RANK) <= PLACES))
    ranked = F.sort_array(F.collect_list(F.struct(c.RANK, c.ITEM_ID)))
    rows = lists.groupBy(c.QUERY_ID).agg(ranked[c.ITEM_ID].alias("tracks"))
    counts = {"playlists": 0, "popular": 0}
    with new_file(answer) as path, open(path, "w", encoding="utf-8") as file:
        file.write(f"{TEAM},main,NAME,EMAIL\n")
        for row in rows.orderBy(F.col(c.QUERY_ID).cast("long")).toLocalIterator():
            if len(row.tracks) != PLACES:
                raise ConfigError(
                    f"step {step}",
                    found=f"{len(row.tracks)} tracks for playlist {row.query_id}",
                    expected=f"{PLACES}",
                    remedy="score with k: 500, and on a catalogue that has so many",
                )
            file.write(", ".join([row.query_id, *row.tracks]) + "\n")
            counts["playlists"] += 1
        unlisted = _unlisted(lake, rows)
        popular = _popular(lake) if unlisted else []  # one count of all events for all of them
        for pid in unlisted:
            counts["popular"] += 1
            file.write(", ".join([pid, *popular]) + "\n")
    return counts


def _scored(lake: Lake, step: str) -> Run:
    run = _answers.last_scored(lake, step)
    if run is None or c.RECOMMENDATIONS not in run.output_versions:
        raise ConfigError(
            f"step {step}",
            found="no completed run of stage score that made lists",
            expected="a score step of a model that ranks, with k: 500",
            remedy="run it first, or name another",
        )
    return run


def _unlisted(lake: Lake, rows: DataFrame) -> list[str]:
    """pids of the challenge set, which alone says how many tracks it gives, without a list: those
    of which no track is known.
    """
    if not lake.exists(c.USERS):
        return []
    asked = lake.read(c.USERS).where(F.col("fields").getItem("num_samples") == "0")
    lacking = asked.join(rows, F.col(c.USER_ID) == F.col(c.QUERY_ID), "left_anti")
    return [row[0] for row in lacking.select(c.USER_ID).orderBy(c.USER_ID).collect()]


def _popular(lake: Lake) -> list[str]:
    counts = lake.read(c.INTERACTIONS).groupBy(c.ITEM_ID).count()
    most = counts.orderBy(F.desc("count"), c.ITEM_ID).limit(PLACES).collect()
    return [row[c.ITEM_ID] for row in most]


def check(answer: Path, data: Path) -> dict[str, int]:
    """Raises DataError, with the lines of the answer and what is wrong with them. data: the
    challenge set, or a folder that has it at any depth; slices there say which tracks there are.
    """
    path = _challenge_set(data)
    known = {
        one.record["pid"]: {track["track_uri"] for track in one.record["tracks"]}
        for one in forms.read(path.name, path)
        if one.reason is None
    }
    problems = _answers.Problems(answer)
    met: dict[int, int] = {}
    first_met: dict[str, int] = {}  # the line of each track
    for line, pid, tracks in _rows(answer, problems):
        if pid not in known:
            problems.add(line, f"playlist {pid}, which is not in the challenge set")
        elif pid in met:
            problems.add(line, f"playlist {pid} again, after line {met[pid]}")
        for problem in _wrong(tracks, known.get(pid, set())):
            problems.add(line, f"playlist {pid}: {problem}")
        met.setdefault(pid, line)
        for track in tracks:
            first_met.setdefault(track, line)
    for pid in sorted(known.keys() - met.keys()):
        problems.add(None, f"no line for playlist {pid}")
    slices = _slices(data) if data.is_dir() else []
    given = set().union(*known.values())
    for track in _not_in(slices, set(first_met) - given) if slices else ():
        problems.add(first_met[track], f"{track}, which no playlist has")
    problems.require_none(f"{PLACES} new tracks for each of {len(known):,} playlists")
    return {"playlists": len(met), "slices": len(slices)}


def score(answer: Path, truth: Path) -> dict[str, float]:
    """The organisers' figures of an answer, without credit for artists, of whom an answer says
    nothing. truth: the withheld tracks as playlists, in a slice or in lines (.jsonl).
    """
    problems = _answers.Problems(answer)
    answers = {pid: tracks for _, pid, tracks in _rows(answer, problems)}
    problems.require_none(f"lines of a pid and {PLACES} tracks")
    withheld = {
        one.record["pid"]: {track["track_uri"] for track in one.record["tracks"]}
        for one in forms.read(truth.name, truth)
        if one.reason is None
    }
    number: dict[str, int] = {}
    targets = [[number.setdefault(t, len(number) + 1) for t in s] for s in withheld.values()]
    items = np.zeros((len(withheld), PLACES), np.int64)
    for row, pid in enumerate(withheld):
        for place, track in enumerate(answers.get(pid, [])[:PLACES]):
            items[row, place] = number.setdefault(track, len(number) + 1)
    indptr = np.concatenate([[0], np.cumsum([len(each) for each in targets])])
    values = metrics.from_lists(items, indptr, np.concatenate(targets))
    means = {name: float(value.mean()) for name, value in values.items()}
    return means | {"playlists": len(withheld), "missing": len(withheld.keys() - answers.keys())}


def _rows(answer: Path, problems: _answers.Problems) -> Iterator[Row]:
    """The lines of playlists whose pid is a number."""
    named = False
    for line, text in _answers.lines(answer, problems):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        fields = text.split(",")
        if not named:
            named = True
            if problem := _wrong_team(fields):
                problems.add(line, problem)
            if fields[0].strip() == TEAM:
                continue
        pid, *tracks = (field.strip() for field in fields)
        if not re.fullmatch(r"[+-]?\d+", pid):
            problems.add(line, f"{pid[:40]!r} in place of a pid")
            continue
        yield line, int(pid), tracks
    if not named:
        problems.add(None, f"no line {TEAM}")


def _wrong_team(fields: list[str]) -> str:
    if not fields[0].startswith(TEAM):
        return f"{fields[0][:40]!r} in place of {TEAM}"
    if not set(fields[1:3]) & set(TRACKS):
        given = ",".join(fields[1:3])
        return f"{given[:40]!r}, where one of the two is {' or '.join(TRACKS)}, without blanks"
    return ""


def _wrong(tracks: list[str], known: set[str]) -> Iterator[str]:
    if len(tracks) != PLACES:
        yield f"{len(tracks)} tracks, not {PLACES}"
    if again := len(tracks) - len(set(tracks)):
        yield f"{again} tracks more than once"
    if seeds := [track for track in tracks if track in known]:
        yield f"{seeds[0]}, which the playlist is known to have"
    if strange := [track for track in tracks if not _URI.fullmatch(track)]:
        yield f"{strange[0][:60]!r} in place of spotify:track: and 22 characters"


def _challenge_set(data: Path) -> Path:
    if data.is_file():
        return data
    named = [path for ending in ("", *listing.COMPRESSED) for path in _below(data, ending)]
    if not named:
        raise DataError(
            f"folder {data}",
            found="no challenge_set.json",
            expected="the playlists that are to be continued",
            remedy="name the file, or a folder that has it",
        )
    return named[0]


def _below(data: Path, ending: str) -> list[Path]:
    return sorted(data.rglob(f"challenge_set.json{ending}"))


def _slices(data: Path) -> list[Path]:
    return sorted(
        path
        for ending in ("", *listing.COMPRESSED)
        for path in data.rglob(f"mpd.slice.*.json{ending}")
    )


def _not_in(slices: list[Path], tracks: set[str]) -> list[str]:
    """Those of the tracks that no slice has, sorted; reads until all are found."""
    for path in slices:
        if not tracks:
            break
        with heads.whole(path) as source:
            tracks = tracks - {uri.decode() for uri in _IN_SLICE.findall(source.read())}
    return sorted(tracks)
