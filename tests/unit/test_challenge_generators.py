"""Made-up sessions and tweets: the true format, the same for a seed, a cause that is asked for."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys_spark.cli.commands import app
from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.generators import trivago, twitter
from recsys_spark.datasets.trivago import ACTIONS, COLUMNS
from recsys_spark.datasets.twitter import COLUMNS as TWEET_COLUMNS
from recsys_spark.datasets.twitter import SEPARATOR, TARGETS, UNLABELLED


def sessions(path: Path) -> dict[str, list[dict[str, str]]]:
    rows = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["session_id"]].append(row)
    return rows


def test_sessions_have_the_true_format(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(
        app,
        ["generate", str(tmp_path / "a"), "--like", "trivago", "--sessions", "300", "--seed", "3"],
    )
    assert outcome.exit_code == 0, outcome.output
    trivago.generate(tmp_path / "b", sessions=300, items=3883, seed=3)
    for name in ("train.csv", "test.csv", "groundtruth.csv", "item_metadata.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train, test = (sessions(tmp_path / "a" / f"{name}.csv") for name in ("train", "test"))
    assert len(train) == 240 and len(test) == 60 and not train.keys() & test.keys()
    for rows in (*train.values(), *test.values()):
        assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
        assert {row["action_type"] for row in rows} <= set(ACTIONS) and list(rows[0]) == list(
            COLUMNS
        )
        times = [int(row["timestamp"]) for row in rows]
        assert times == sorted(times)
        shown, prices = (rows[-1][name].split("|") for name in ("impressions", "prices"))
        assert len(shown) == len(set(shown)) == len(prices) <= 25
    assert all(
        rows[-1]["reference"] in rows[-1]["impressions"].split("|") for rows in train.values()
    )
    assert not any(rows[-1]["reference"] for rows in test.values())
    with pytest.raises(ConfigError, match="files in it"):
        trivago.generate(tmp_path / "a", sessions=300)


def test_the_cause_of_clicks_is_what_was_asked_for(tmp_path: Path) -> None:
    """With the last item alone, and nothing else, that one is clicked; without any cause the place
    tells nothing.
    """
    only, none = trivago.Cause(last=1.0, place=0, price=0), trivago.Cause(last=0, place=0, price=0)
    trivago.generate(tmp_path / "only", sessions=400, cause=only)
    for rows in sessions(tmp_path / "only" / "train.csv").values():
        met = [row["reference"] for row in rows if row["action_type"].startswith("interaction")]
        assert not met or rows[-1]["reference"] == met[-1]
    trivago.generate(tmp_path / "none", sessions=2000, cause=none)
    clicks = [rows[-1] for rows in sessions(tmp_path / "none" / "train.csv").values()]
    places = [
        (row["impressions"].split("|").index(row["reference"]) + 0.5)
        / row["impressions"].count("|")
        for row in clicks
        if row["impressions"].count("|") == 24
    ]
    assert sum(places) / len(places) == pytest.approx(12.5 / 24, abs=0.03)  # of 1,300 uniform ones


def test_tweets_have_the_true_format(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(
        app,
        ["generate", str(tmp_path / "a"), "--like", "twitter", "--tweets", "300", "--users", "50"],
    )
    assert outcome.exit_code == 0, outcome.output
    twitter.generate(tmp_path / "b", tweets=300, users=50)
    for name in ("train.tsv", "test.tsv", "groundtruth.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train, test, truth = (
        [line.split(SEPARATOR) for line in (tmp_path / "a" / name).read_text().splitlines()]
        for name in ("train.tsv", "test.tsv", "groundtruth.tsv")
    )
    assert {len(row) for row in (*train, *truth)} == {24} and {len(row) for row in test} == {20}
    assert [row[: len(UNLABELLED)] for row in truth] == test
    tweets = [{row[2] for row in rows} for rows in (train, test)]
    assert not tweets[0] & tweets[1] and len(tweets[0] | tweets[1]) == 300
    pairs = [(row[2], row[TWEET_COLUMNS.index("enaging_user_id")]) for row in (*train, *test)]
    assert len(set(pairs)) == len(pairs)
    for row in (*train, *truth):
        assert all(not time or int(time) > int(row[8]) for time in row[-len(TARGETS) :])
    assert all(part.isdecimal() for row in train for part in row[0].split("\t"))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["generate", str(tmp_path / "a"), "--like", "spotfy"])
    assert isinstance(outcome.exception, ConfigError) and "trivago" in str(outcome.exception)
