"""Spotify's Million Playlist Dataset, of the RecSys Challenge 2018, and the part of it that is
public as lines: C.-W. Chen, P. Lamere, M. Schedl, H. Zamani. RecSys Challenge 2018: Automatic Music
Playlist Continuation. RecSys 2018, doi:10.1145/3240323.3240342.

A playlist is the query: session_id is its pid, and so is user_id, for it is nobody's. A track may
stand in a playlist several times, so an event is known by its place (`step`), too. Times are those
of the whole playlist. The lines have other pids than the slices: the two do not go into one lake.
Counts are those of the organisers' own statistics; they are checked where all slices are there.
"""

from __future__ import annotations

from recsys_spark.datasets.files.spec import Dataset, File
from recsys_spark.datasets.forms.playlists import PLAYLIST

_SLICES = 1000
# As the organisers compare titles: `(?U)` for white space of all scripts
_TITLE = (
    "nullif(trim(regexp_replace(regexp_replace(lower(name), "
    "'[.,/#!$%\\\\^*;:{}=_`~()@]', ' '), '(?U)\\\\s+', ' ')), '')"
)
_REGISTER = (
    "https://www.aicrowd.com/challenges/spotify-million-playlist-dataset-challenge, which has "
    "withdrawn the download: Spotify Research may be asked for it"
)


def _files(pattern: str, *, playlists: int, entries: int, tracks: int) -> tuple[File, ...]:
    of_files = None if pattern.endswith(".jsonl") else _SLICES
    shared = {"form": "playlists", "of_files": of_files}
    return (
        File(
            pattern,
            "users",
            PLAYLIST,
            mapped={"user_id": "pid"},
            fields={"title": _TITLE} | {name: name for name in PLAYLIST[1:]},
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
            rows=entries,
            mark='"track_uri"',
            **shared,  # type: ignore[arg-type]
        ),
    )


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


_ALL = (
    _dataset(
        "spotify-mpd",
        _files("**/mpd.slice.*.json", playlists=1_000_000, entries=66_346_428, tracks=2_262_292),
        generator="playlists",
    ),
    _dataset(
        "spotify-mpd-popular",
        _files("mpd_popular_playlists.jsonl", playlists=5_365, entries=519_521, tracks=169_802),
    ),
)
DATASETS = {dataset.name: dataset for dataset in _ALL}
