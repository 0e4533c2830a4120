"""Spotify's Million Playlist Dataset, of the RecSys Challenge 2018, and the part of it that is
public as lines: C.-W. Chen, P. Lamere, M. Schedl, H. Zamani. RecSys Challenge 2018: Automatic Music
Playlist Continuation. RecSys 2018, doi:10.1145/3240323.3240342.

A playlist is the query: session_id is its pid, and so is user_id, for it is nobody's. A track may
stand in a playlist several times, so an event is known by its place (`step`), too. Times are those
of the whole playlist. The lines have other pids than the slices: the two do not go into one lake.
Counts are those of the organisers' own statistics; they are checked where all slices are there.
"""

from __future__ import annotations

from typing import Any

from recsys_spark.core import columns as c
from recsys_spark.datasets.files.spec import Dataset, File
from recsys_spark.datasets.forms.playlists import PLAYLIST

# As the organisers compare titles: `(?U)` for white space of all scripts
_TITLE = (
    "nullif(trim(regexp_replace(regexp_replace(lower(name), "
    "'[.,/#!$%\\\\^*;:{}=_`~()@]', ' '), '(?U)\\\\s+', ' ')), '')"
)
_REGISTER = (
    "https://www.aicrowd.com/challenges/spotify-million-playlist-dataset-challenge, which has "
    "withdrawn the download: Spotify Research may be asked for it"
)


def _files(
    pattern: str,
    *,
    playlists: int | None = None,
    entries: int | None = None,
    tracks: int | None = None,
    of_files: int | None = None,
    part: str = "",
) -> tuple[File, ...]:
    """part: of a split that the organisers made."""
    shared = {"form": "playlists", "of_files": of_files}
    return (
        File(
            pattern,
            "users",
            ("pid", *_FIELDS),
            mapped={"user_id": "pid"},
            fields={"title": _TITLE} | {name: name for name in _FIELDS},
            rows=playlists,
            mark='"pid"',
            **shared,  # type: ignore[arg-type]
        ),
        File(
            pattern,
            "items",
            ("track_uri", "track_name", "artist_uri", "artist_name", *_OF_TRACK),
            mapped={"item_id": "track_uri", "title": "track_name"},
            fields={
                "artist": "artist_name",
                "artist_id": "coalesce(artist_uri, artist_name)",
                "album": "album_name",
                "album_id": "album_uri",
                "duration_ms": "duration_ms",
            },
            repeats=True,
            rows=tracks,
            mark='"track_uri"',
            **shared,  # type: ignore[arg-type]
        ),
        File(
            pattern,
            "interactions",
            ("pid", "track_uri", "modified_at", "pos"),
            mapped={
                "user_id": "pid",
                "session_id": "pid",
                "item_id": "track_uri",
                "ts": "modified_at",
                "position": "pos",
                "step": "pos",
            },
            fields={c.PART: f"'{part}'"} if part else {},
            rows=entries,
            mark='"track_uri"',
            **shared,  # type: ignore[arg-type]
        ),
    )


# The last two are the challenge set's
_FIELDS = (*PLAYLIST[1:], "num_samples", "num_holdouts")
_OF_TRACK = ("album_uri", "album_name", "duration_ms")


def _dataset(name: str, files: tuple[File, ...], generator: str = "") -> Dataset:
    return Dataset(
        name,
        files,
        integer_ids=False,
        one_per_pair=False,
        unknown_ids="keep",  # tracks and playlists come from the very rows
        follows=True,
        stepped=True,
        register=_REGISTER,
        generator=generator,
    )


_SLICES: dict[str, Any] = {
    "pattern": "**/mpd.slice.*.json",
    "playlists": 1_000_000,
    "entries": 66_346_428,
    "tracks": 2_262_292,
    "of_files": 1000,
}
_CHALLENGE_SET: dict[str, Any] = {"pattern": "**/challenge_set.json", "part": c.TEST_FOLD_IN}

_ALL = (
    _dataset("spotify-mpd", _files(**_SLICES), generator="playlists"),
    # With the playlists to be answered: what is known of them is their part test_fold_in. A track
    # of both is counted with the challenge set
    _dataset(
        "spotify-mpd-challenge",
        (*_files(**_SLICES | {"tracks": None}, part=c.TRAIN), *_files(**_CHALLENGE_SET)),
    ),
    _dataset(
        "spotify-mpd-popular",
        _files("mpd_popular_playlists.jsonl", playlists=5_365, entries=519_521, tracks=169_802),
    ),
)
DATASETS = {dataset.name: dataset for dataset in _ALL}
