"""Generates playlists in the format of the Million Playlist Dataset, of any size, with a planted
cause: every playlist has a taste, which its title's words tell and most of its tracks have.

Tracks come ten to an artist, artists have one taste each, and the tracks of a taste are wanted
unequally: track j of n with the density j**(-2/3). A track is followed by one of the same artist
with a chance of a quarter. With `signal` 0 tracks have nothing to do with the title or with each
other. A slice depends on the seed and its number alone, and is written before the next is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from recsys_spark.core import log
from recsys_spark.core.artifacts import new_folder, write_text
from recsys_spark.core.errors import ConfigError
from recsys_spark.core.seeds import derive
from recsys_spark.datasets.files.folder import GENERATED

logger = log.get(__name__)

SLICE = 1000  # playlists of a file
FEWEST, MOST = 5, 250  # tracks of a playlist, as in the set
CHALLENGE_FIRST = 1_000_000  # pid of the first playlist of the challenge set
OF_ARTIST, OF_ALBUM = 10, 5  # tracks
TASTES = 40
OWN, SAME_ARTIST, AGAIN = 0.85, 0.25, 0.02
_DAY, _FIRST_DAY = 86_400, 14_976  # 2011-01-02
_SYLLABLES = ("ka", "lo", "mi", "ru", "ten", "sa", "vel", "dor", "pi", "nu")
_DECORATED = ("{}", "{}!!", "~ {} ~", "{} 2017", "my {}", "{} :)")
# Known tracks, with a title, at random: of the organisers' ten scenarios
_SCENARIOS = (
    *((0, True, False), (1, True, False), (5, True, False), (5, False, False)),
    *((10, True, False), (10, False, False), (25, True, False), (25, True, True)),
    *((100, True, False), (100, True, True)),
)


def generate(
    folder: Path,
    *,
    playlists: int = 10_000,
    tracks: int = 20_000,
    challenge: int = 0,
    signal: float = 1.0,
    seed: int = 1,
) -> None:
    """Writes `mpd.slice.*.json`, and `challenge_set.json` of so many playlists (a multiple of ten)
    with what was withheld of them in `withheld.jsonl`, into the new folder `folder`, completely or
    not at all. Raises ConfigError for impossible sizes.
    """
    _require_possible(folder, playlists, tracks, challenge, signal)
    entries = 0
    with new_folder(folder) as staging:
        for first in range(0, playlists, SLICE):
            last = min(playlists, first + SLICE) - 1
            drawn = _drawn(range(first, last + 1), tracks, signal, seed)
            with open(staging / f"mpd.slice.{first}-{last}.json", "w", encoding="utf-8") as out:
                entries += _write(out, {"slice": f"{first}-{last}", "version": "v1"}, drawn)
        if challenge:
            asked = _challenge(challenge, tracks, signal, seed)
            with open(staging / "challenge_set.json", "w", encoding="utf-8") as out:
                _write(out, None, (question for question, _ in asked))
            asked = _challenge(challenge, tracks, signal, seed)
            with open(staging / "withheld.jsonl", "w", encoding="utf-8") as out:
                out.writelines(json.dumps(answer) + "\n" for _, answer in asked)
        facts = {"playlists": playlists, "tracks": tracks, "signal": signal, "seed": seed}
        pattern = "**/mpd.slice.*.json"
        counts = {f"{pattern} (users)": playlists, f"{pattern} (interactions)": entries}
        note = {"what": "made up by recsys_spark", **facts, "rows": counts}
        write_text(staging / GENERATED, json.dumps(note, indent=1) + "\n")
    logger.info(log.fields(event="generated", folder=folder, entries=entries, **facts))


def _require_possible(
    folder: Path, playlists: int, tracks: int, challenge: int, signal: float
) -> None:
    fewest = TASTES * OF_ARTIST * 10
    for name, value, expected, fits in (
        ("playlists", playlists, "1 to 1,000,000", 1 <= playlists <= CHALLENGE_FIRST),
        (
            "tracks",
            tracks,
            f"{fewest} or more, a multiple of {TASTES * OF_ARTIST}",
            tracks >= fewest and tracks % (TASTES * OF_ARTIST) == 0,
        ),
        ("challenge", challenge, "a multiple of 10", challenge >= 0 and challenge % 10 == 0),
        ("signal", signal, "0 to 1", 0 <= signal <= 1),
    ):
        if not fits:
            raise ConfigError(f"generated set, {name}", found=value, expected=expected)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {folder}",
            found="files in it",
            expected="a new or empty folder",
            remedy="name another, or remove it",
        )


def _write(out: TextIO, info: dict[str, str] | None, playlists: Iterator[dict[str, Any]]) -> int:
    """One playlist after the other; returns the number of their tracks."""
    top: dict[str, Any] = (
        {"info": info | {"generated_on": "2017-12-03 08:41:42.057563"}}
        if info
        else {"date": "2018-01-16 08:47:28.198015", "version": "v1"}
    )
    out.write(json.dumps(top, indent=1)[:-2] + ',\n "playlists": [')
    entries = 0
    for number, playlist in enumerate(playlists):
        entries += len(playlist["tracks"])
        out.write(("," if number else "") + "\n  " + json.dumps(playlist))
    out.write("\n ]\n}")
    return entries


def _drawn(
    pids: range, tracks: int, signal: float, seed: int, fewest: int = FEWEST
) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(derive(seed, "playlists", pids.start))
    for pid in pids:
        taste = int(TASTES * draw.random() ** 2)
        length = int(np.clip(draw.lognormal(3.9, 0.8), fewest, MOST))
        chosen = _tracks(draw, taste, length, tracks, signal)
        told = taste if draw.random() < signal else int(draw.integers(TASTES))
        yield _playlist(pid, _title(draw, told), chosen, draw)


def _tracks(
    draw: np.random.Generator, taste: int, length: int, tracks: int, signal: float
) -> list[int]:
    """In order; now and then one again."""
    chosen: list[int] = []
    met: set[int] = set()
    of_taste = tracks // TASTES
    while len(chosen) < length:
        u = draw.random(4)
        if chosen and u[0] < SAME_ARTIST * signal:
            track = chosen[-1] // OF_ARTIST * OF_ARTIST + int(u[1] * OF_ARTIST)
        else:
            own = u[1] < OWN * signal
            place = int(of_taste * u[2] ** 3)
            kind = taste if own else int(TASTES * u[3] ** 2)
            artist = kind + TASTES * (place // OF_ARTIST)
            track = artist * OF_ARTIST + place % OF_ARTIST
        if track not in met or draw.random() < AGAIN:
            chosen.append(track)
            met.add(track)
    return chosen


def _title(draw: np.random.Generator, taste: int) -> str:
    """One of three words that tell the taste, written in one of many ways."""
    number = taste * 3 + int(draw.integers(3))
    word = "".join(_SYLLABLES[number // base % 10] for base in (1, 10, 100))
    title = _DECORATED[int(draw.integers(len(_DECORATED)))].format(word)
    return title.upper() if draw.random() < 0.2 else title


def _playlist(pid: int, name: str, tracks: list[int], draw: np.random.Generator) -> dict[str, Any]:
    rows = [_track(place, track) for place, track in enumerate(tracks)]
    return {
        "name": name,
        "collaborative": "true" if draw.random() < 0.02 else "false",
        "pid": pid,
        "modified_at": _DAY * (_FIRST_DAY + int(draw.integers(2500))),
        "num_tracks": len(rows),
        "num_albums": len({row["album_uri"] for row in rows}),
        "num_followers": 1 + int(draw.pareto(2.0)),
        "tracks": rows,
        "num_edits": 1 + int(draw.integers(60)),
        "duration_ms": sum(row["duration_ms"] for row in rows),
        "num_artists": len({row["artist_uri"] for row in rows}),
    }


def _track(place: int, track: int) -> dict[str, Any]:
    artist, album = track // OF_ARTIST, track // OF_ALBUM
    return {
        "pos": place,
        "artist_name": f"Artist {artist}",
        "track_uri": f"spotify:track:T{track:021d}",
        "artist_uri": f"spotify:artist:A{artist:021d}",
        "track_name": f"Song {track}",
        "album_uri": f"spotify:album:B{album:021d}",
        "duration_ms": 150_000 + track * 7919 % 200_000,
        "album_name": f"Album {album}",
    }


def _challenge(
    number: int, tracks: int, signal: float, seed: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each playlist what is known of it by its scenario, and the other tracks."""
    each = number // len(_SCENARIOS)
    for place, (known, titled, random) in enumerate(_SCENARIOS):
        first = CHALLENGE_FIRST + place * each
        # At least one track is withheld
        for playlist in _drawn(range(first, first + each), tracks, signal, seed, known + FEWEST):
            draw = np.random.default_rng(derive(seed, "known", playlist["pid"]))
            rows = playlist["tracks"]
            order = draw.permutation(len(rows)) if random else range(len(rows))
            given = sorted(int(at) for at in order[:known])
            question = {
                **({"name": playlist["name"]} if titled else {}),
                "num_holdouts": len(rows) - known,
                "pid": playlist["pid"],
                "num_tracks": len(rows),
                "tracks": [rows[at] for at in given],
                "num_samples": known,
            }
            others = [row for at, row in enumerate(rows) if at not in set(given)]
            yield question, {"pid": playlist["pid"], "tracks": others}
