"""What the launcher shows of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys_spark.train.launcher import progress
from recsys_spark.train.ranks.beat import ACTIVITIES, Beat, Reading, read

SECOND = 10**9


def _reading(seconds: float, step: int, examples: int) -> Reading:
    return Reading(int(seconds * SECOND), 0, step // 10, 3, step % 10, 10, step, examples)


def _record(path: Path, **record: float) -> None:
    with open(path, "a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def test_a_beat_is_read_as_it_was_told(tmp_path: Path) -> None:
    assert read(tmp_path / "beat") is None
    beat = Beat(tmp_path / "beat")
    beat.tell(epoch=2, epochs=5, position=3, steps=10, step=23, examples=2300)
    reading = read(tmp_path / "beat")
    assert (
        reading is not None
        and reading[1:] == (0, 2, 5, 3, 10, 23, 2300, 0)
        and 0 <= reading.age_s < 10
    )
    beat.wait()
    waiting = read(tmp_path / "beat")
    assert waiting is not None and waiting[1:] == (1, 2, 5, 3, 10, 23, 2300, 0)
    beat.say("validating")
    between = read(tmp_path / "beat")
    assert between is not None and ACTIVITIES[between.activity] == "validating"
    beat.tell(epoch=3, epochs=5, position=0, steps=10, step=30, examples=3000)
    again = read(tmp_path / "beat")
    assert again is not None and ACTIVITIES[again.activity] == "training"


def test_rate_and_time_left_by_hand(tmp_path: Path) -> None:
    lines = progress.Lines("m", tmp_path / "metrics.jsonl")
    for reading in (
        _reading(1, 2, 200),
        _reading(2, 4, 400),
        _reading(2, 4, 400),
        _reading(3, 6, 600),
    ):
        lines.show(reading)
    assert (lines.rate.steps_per_s, lines.rate.examples_per_s) == (2.0, 200.0)
    assert lines.left_s(_reading(3, 6, 600)) == 12.0, "24 of 30 steps at 2 a second"
    lines.show(_reading(9, 48, 4800))
    assert lines.rate.steps_per_s == 7.0, "of the last seconds alone: steps 6 to 48"


def test_lines_are_those_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = tmp_path / "metrics.jsonl"
    _record(metrics, epoch=0, rmse=0.9)
    caplog.set_level("INFO", "recsys_spark")
    with progress.Lines("mf_bias", metrics) as lines:  # a resumed run: epoch 0 was shown before
        _record(metrics, epoch=1, rmse=0.87654321)
        lines.show(_reading(1, 20, 200))
        _record(metrics, epoch=2, rmse=0.86)
    assert [record.getMessage() for record in caplog.records] == [
        "model=mf_bias epoch=1 rmse=0.876543",
        "model=mf_bias epoch=2 rmse=0.86",
    ]


def test_a_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    metrics = tmp_path / "metrics.jsonl"
    bar = progress.make("neumf", metrics)
    assert isinstance(bar, progress.Bar)
    with bar:
        _record(
            metrics,
            epoch=0,
            step=10,
            train_loss=0.5,
            **{"ndcg@10": 0.25},
            seconds=1.0,
            examples_per_s=9.0,
            lr=0.1,
        )
        for second in (1, 2):
            bar.show(_reading(second, 10 + second * 2, 400_000 * second))
    shown = capsys.readouterr().err
    for words in ("neumf", "epoch 2/3", "400,000 examples/s", "0:08 left", "ndcg@10 0.2500"):
        assert words in shown
