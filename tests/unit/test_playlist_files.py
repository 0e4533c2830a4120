"""Files of the RecSys Challenge 2018: playlists that are read or refused, generated ones, and the
answer file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.commands.submission import playlists as submission
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import download, spec
from recsys_spark.datasets.forms import playlists as forms
from recsys_spark.datasets.generators import playlists as generator


def track(number: int, pos: int = 0) -> dict[str, Any]:
    return {"pos": pos, "track_uri": f"spotify:track:{number:022d}", "track_name": f"Song {number}"}


def playlist(pid: int, *tracks: int, **more: Any) -> dict[str, Any]:
    rows = [track(number, pos) for pos, number in enumerate(tracks)]
    return {"pid": pid, "name": f"List {pid}", "num_tracks": len(rows), "tracks": rows} | more


def a_slice(path: Path, *playlists: Any) -> Path:
    whole = {"info": {"slice": "0-999"}, "playlists": playlists}
    path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    return path


def reasons(path: Path) -> list[tuple[Any, str | None]]:
    return [
        (one.record["pid"] if isinstance(one.record, dict) and "pid" in one.record else None,
         one.reason)
        for one in forms.read(path.name, path)
    ]  # fmt: skip


def test_what_makes_a_playlist_unusable(tmp_path: Path) -> None:
    good = playlist(0, 1, 2, 1)  # a track may come again
    bad: list[tuple[Any, str]] = [
        ({"pid": 1, "name": "no tracks"}, "missing_key"),
        ({"name": "no pid", "tracks": []}, "missing_key"),
        (playlist(2, 1, mood="calm"), "unknown_key"),
        (playlist(0, 3), "id_twice"),
        (playlist(8, 3), "id_of_another_file"),
        (playlist(3, 1, num_tracks=2), "wrong_number_of_entries"),
        ("no object", "not_a_record"),
    ]
    path = a_slice(tmp_path / "mpd.slice.0-7.json", good, *(row for row, _ in bad), playlist(4, 5))
    found = reasons(path)
    assert [reason for _, reason in found] == [None, *(reason for _, reason in bad), None]
    assert (found[0][0], found[-1][0]) == (0, 4)


@pytest.mark.parametrize("keep", [0.97, 0.5])
def test_of_a_slice_that_breaks_off_every_lost_playlist_is_a_row(
    tmp_path: Path, keep: float
) -> None:
    """What came whole stays; the name of the file says what is missing."""
    path = a_slice(tmp_path / "mpd.slice.10-19.json", *(playlist(pid, 1) for pid in range(10, 20)))
    text = path.read_text()
    path.write_text(text[: int(keep * len(text))])
    found = list(forms.read(path.name, path))
    whole = [one.record["pid"] for one in found if one.reason is None]
    lost = [one for one in found if one.reason]
    assert whole == list(range(10, 10 + len(whole))) and 0 < len(whole) < 10
    assert {one.reason for one in lost} == {"cut_short"} and len(whole) + len(lost) == 10
    assert lost[0].text.startswith(f"playlist {10 + len(whole)}, lost after:")


def test_bytes_that_are_not_utf8_spoil_their_playlist_alone(tmp_path: Path) -> None:
    path = a_slice(tmp_path / "mpd.slice.0-2.json", *(playlist(pid, 1) for pid in range(3)))
    path.write_bytes(path.read_bytes().replace(b"List 1", b"List \xff"))
    assert [reason for _, reason in reasons(path)] == [None, "wrong_encoding", None]


def test_what_is_no_slice_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "mpd.slice.0-0.json"
    path.write_text('{"info": {}}')
    assert reasons(path) == [(None, "not_a_record")]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    lines = [json.dumps(playlist(0, 1, slice=3)), '{"pid": 1, "tra', "", json.dumps(playlist(2, 1))]
    path.write_text("\n".join(lines) + "\n")
    assert reasons(path) == [(0, None), (None, "not_a_record"), (2, None)]


def test_slices_with_a_playlist_in_common_are_refused() -> None:
    forms.require_disjoint(["mpd.slice.0-999.json", "mpd.slice.1000-1999.json", "x.jsonl"])
    with pytest.raises(DataError, match="found playlist 900 in both, as their names say"):
        forms.require_disjoint(["mpd.slice.900-950.json.gz", "b/mpd.slice.0-999.json"])


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    """JSON may name one half of a pair; no table can hold it."""
    path = a_slice(tmp_path / "mpd.slice.0-0.json", playlist(0, 1, name="\ud83d"))
    wanted = ("pid", "name")
    [batch] = forms._batches(path.name, forms._of_playlists(path.name, path, wanted), wanted)
    assert batch.select(wanted).to_pylist() == [{"pid": "0", "name": "?"}]


def test_who_may_not_pass_a_set_on_says_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"aicrowd\.com.*withdrawn.*point `data:`"):
        download.download("spotify-mpd", tmp_path)
    assert spec.find("spotify-mpd-popular").files[0].rows == 5_365


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mpd") / "set"
    generator.generate(folder, playlists=30, tracks=4000, challenge=10, seed=2)
    return folder


def test_generated_files_are_read_without_a_fault(made: Path, tmp_path: Path) -> None:
    rows = list(forms.read("mpd.slice.0-29.json", made / "mpd.slice.0-29.json"))
    assert [one.record["pid"] for one in rows] == list(range(30))
    asked = list(forms.read("challenge_set.json", made / "challenge_set.json"))
    assert not any(one.reason for one in [*rows, *asked])
    samples = [(len(one.record["tracks"]), "name" in one.record) for one in asked]
    assert samples == [
        *((0, True), (1, True), (5, True), (5, False), (10, True)),
        *((10, False), (25, True), (25, True), (100, True), (100, True)),
    ]
    withheld = list(forms.read("withheld.jsonl", made / "withheld.jsonl"))
    for question, answer in zip(asked, withheld, strict=True):
        assert question.record["pid"] == answer.record["pid"]
        assert question.record["num_holdouts"] == len(answer.record["tracks"]) > 0
    generator.generate(tmp_path / "again", playlists=30, tracks=4000, challenge=10, seed=2)
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
               for path in made.iterdir())  # fmt: skip
    with pytest.raises(ConfigError, match="generated set, tracks: found 4001"):
        generator.generate(tmp_path / "odd", tracks=4001)


@pytest.fixture(scope="module")
def right(made: Path) -> list[str]:
    """The lines of an answer that is right."""
    known = {
        one.record["pid"]: {row["track_uri"] for row in one.record["tracks"]}
        for one in forms.read("challenge_set.json", made / "challenge_set.json")
    }
    slices = (made / "mpd.slice.0-29.json").read_text()
    tracks = [f"spotify:track:T{number:021d}" for number in range(4000)]
    tracks = [uri for uri in tracks if uri in slices]
    lines = ["# ours", "", "team_info,main,recsys_spark,someone@example.org"]
    for pid, seeds in known.items():
        new = [uri for uri in tracks if uri not in seeds][:500]
        lines.append(", ".join([str(pid), *new]))
    return lines


@pytest.fixture
def answer(right: list[str], tmp_path: Path) -> Callable[..., Path]:
    """The right answer with what `change` does to its lines."""

    def write(change: Callable[[list[str]], None]) -> Path:
        changed = list(right)
        change(changed)
        path = tmp_path / "answer.csv"
        path.write_text("\n".join(changed) + "\n")
        return path

    return write


def _replaced(line: int, old: str, new: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)

    return change


def _shorter(line: int) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        lines[line - 1] = lines[line - 1].rpartition(",")[0]

    return change


def _with_seed(lines: list[str]) -> None:
    """Line 13 is of the last scenario: what line 4, of which no track is known, has and it has not
    are its own.
    """
    seeds = set(lines[3].split(", ")[1:]) - set(lines[12].split(", "))
    lines[12] = lines[12].rpartition(", ")[0] + f", {min(seeds)}"


def test_a_right_answer_passes(made: Path, answer: Callable[..., Path]) -> None:
    counts = submission.check(answer(lambda lines: None), made)
    assert counts == {"playlists": 10, "slices": 1}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_replaced(3, "team_info", "team"), r"line 3: 'team' in place of team_info"),
        (_replaced(3, ",main", ", main"), r"line 3: ' main,recsys_spark', where one of the two"),
        (_replaced(4, "1000000", "one"), r"line 4: 'one' in place of a pid"),
        (_replaced(4, "1000000", "7"), r"line 4: playlist 7, which is not in the challenge set"),
        (_shorter(6), r"line 6: playlist 1000002: 499 tracks, not 500"),
        (
            lambda lines: lines.__setitem__(5, lines[5] + "," + lines[5].rpartition(", ")[2]),
            r"line 6: playlist 1000002: 501 tracks, not 500; .*1 tracks more than once",
        ),
        (_with_seed, r"line 13: playlist 1000009: spotify:track:\w+, which the playlist is known"),
        (_replaced(4, "spotify:track:T", "spotify:album:T"), r"in place of spotify:track: and 22"),
        (lambda lines: lines.pop(), r"no line for playlist 1000009"),
        # What the organisers let slip
        (
            lambda lines: lines.append(lines[-1]),
            r"line 14: playlist 1000009 again, after line 13",
        ),
        (
            _replaced(4, "spotify:track:T0", "spotify:track:X0"),
            r"line 4: spotify:track:X\w+, which no playlist has",
        ),
        (lambda lines: lines.clear(), r"no line team_info"),
        # Of 2019
        (
            lambda lines: lines.__setitem__(
                slice(None), ["user_id,session_id,timestamp,step,item_recommendations", "a,b,1,1,2"]
            ),
            r"line 1: 'user_id' in place of team_info; line 1: 'user_id' in place of a pid",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    made: Path, answer: Callable[..., Path], change: Callable[[list[str]], None], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        submission.check(answer(change), made)


def test_an_answer_is_scored(made: Path, answer: Callable[..., Path]) -> None:
    """The withheld tracks themselves, in any order, are a perfect answer."""
    withheld = {
        one.record["pid"]: [row["track_uri"] for row in one.record["tracks"]]
        for one in forms.read("withheld.jsonl", made / "withheld.jsonl")
    }

    def perfect(lines: list[str]) -> None:
        for at, line in enumerate(lines[3:-1], 3):
            pid, *tracks = line.split(", ")
            right = list(dict.fromkeys(withheld[int(pid)]))
            others = [uri for uri in tracks if uri not in right]
            lines[at] = ", ".join([pid, *[*right, *others][:500]])
        lines.pop()

    values = submission.score(answer(perfect), made / "withheld.jsonl")
    # Nine of ten are perfect, the last is missing
    assert values == pytest.approx(
        {"r_precision": 0.9, "playlist_ndcg": 0.9, "playlist_ndcg_rules": 0.9, "clicks": 5.1}
        | {"playlists": 10, "missing": 1}
    )
