"""A training that lost a worker goes on by itself: how often, on how many ranks, and what is never
tried again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.core import config
from recsys_spark.core.contracts import TrainJob, Workers
from recsys_spark.core.errors import CheckpointError, ConfigError, RecsysError, WorkerError
from recsys_spark.stages.bridge import launch_spark
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch
from recsys_spark.train.launcher.supervise import supervise
from recsys_spark.train.ranks import watch
from tests import shardsets, training
from tests.distributed import ranks


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """The launcher's log lines that hold some words."""
    caplog.set_level("INFO", "recsys_spark")
    return lambda words: [
        record.getMessage() for record in caplog.records if words in record.getMessage()
    ]


def _with(job: TrainJob, **settings: Any) -> TrainJob:
    return job.model_copy(
        update={"workers": job.workers.model_copy(update={"backoff_s": 0.01, **settings})}
    )


def _killer(job: TrainJob, *, rank: int, steps: list[int]) -> threading.Thread:
    """SIGKILL to the rank's process group once so many steps are done, once for each number; each
    waits for the ranks to live again.
    """

    def kill() -> None:
        for step in steps:
            ranks.wait(lambda step=step: ranks.steps(job) >= step and rank in ranks.processes(job))
            os.killpg(ranks.processes(job)[rank], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_killed_workers_are_replaced_and_the_numbers_stay(
    rows: tuple[Path, Any], tmp_path: Path, told: Callable[[str], list[str]]
) -> None:
    whole = training.job(
        tmp_path / "whole", *rows, num_workers=2, epochs=12, patience=12, checkpoint_steps=5
    )
    assert training.train_on_ranks(whole) == [entry.DONE] * 2
    job = _with(
        whole.model_copy(update={"run_dir": str(tmp_path / "run"), "run_id": "run"}), restarts=2
    )
    thread = _killer(job, rank=1, steps=[17, 60])
    assert launch.launch(job).steps == 12 * 14
    thread.join(10)
    assert len(told("event=restart")) == 2 and "killed by SIGKILL" in told("event=restart")[0]
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )


@pytest.mark.soak
def test_goes_on_with_the_workers_left_and_grows_back(
    rows: tuple[Path, Any], tmp_path: Path, told: Callable[[str], list[str]]
) -> None:
    whole = training.job(tmp_path / "whole", *rows, epochs=150, patience=150, checkpoint_steps=5)
    training.train_here(whole)
    job = _with(
        training.job(
            tmp_path / "run",
            *rows,
            engine="torch",
            num_workers=2,
            epochs=150,
            patience=150,
            checkpoint_steps=5,
        ),
        restarts=1,
        min_workers=1,
    )
    thread = _killer(job, rank=0, steps=[17])
    assert launch.launch(job).steps == 150 * 14
    thread.join(10)
    assert ["num_workers=1" in line for line in told("event=restart")] == [True]
    assert told("event=grow") == ["event=grow num_workers=2"]
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        < 1e-10
    )


class Attempts:
    """What happens at each attempt, in turn: an error that it raises, or whether it ends
    trained.
    """

    def __init__(self, *outcomes: RecsysError | bool) -> None:
        self.outcomes, self.numbers = iter(outcomes), list[int]()

    def __call__(self, job: TrainJob, enough: Callable[[], bool]) -> bool:
        self.numbers.append(job.workers.num_workers)
        outcome = next(self.outcomes)
        if isinstance(outcome, RecsysError):
            raise outcome
        return outcome


def _lost(step: int) -> watch.Lost:
    problem = watch.Lost(
        "worker 1 of 4",
        found="killed by SIGKILL",
        expected="to train to the end",
        remedy="look into it",
    )
    problem.step = step
    return problem


@pytest.fixture
def job(rows: tuple[Path, Any], tmp_path: Path) -> TrainJob:
    return _with(training.job(tmp_path, *rows, num_workers=4), restarts=3)


def test_a_loss_at_the_same_step_three_times_in_a_row_is_given_up(job: TrainJob) -> None:
    job = _with(job, restarts=9)
    with pytest.raises(
        WorkerError, match=r"killed by SIGKILL, after step 9, 3 times in a row: given up"
    ):
        supervise(job, Attempts(_lost(7), _lost(9), _lost(9), _lost(9), True))
    with pytest.raises(WorkerError, match="before the first step, 3 times in a row"):
        supervise(job, Attempts(_lost(0), _lost(0), _lost(0), True))
    supervise(job, Attempts(_lost(9), _lost(9), _lost(7), _lost(9), _lost(9), True))


def test_a_loss_on_spark_tells_its_step_too(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it all losses would seem to come before the first step."""
    lost_at, attempts = [4, 0, 5, 6], list[int]()

    def codes(made: TrainJob, gpus: bool) -> list[int | None]:
        if step := lost_at[len(attempts)]:  # at the second attempt no rank gives a sign of life
            watch.beat.Beat(entry.beat_file(made, 1)).tell(0, 1, step, 10, step, 0)
        attempts.append(step)
        raise _lost(0)

    for name, does in (("_reached", lambda *_: []), ("_gpus", lambda *_: False), ("_codes", codes)):
        monkeypatch.setattr(launch_spark, name, does)
    with pytest.raises(WorkerError, match="killed by SIGKILL, after 3 restarts") as told:
        launch.launch(job, partial(launch_spark._attempt, None))
    assert isinstance(told.value, watch.Lost) and told.value.step == 6 and attempts == lost_at


def test_restarts_are_bounded(job: TrainJob) -> None:
    attempts = Attempts(*map(_lost, (1, 2, 3, 4)))
    with pytest.raises(WorkerError, match="killed by SIGKILL, after 3 restarts"):
        supervise(job, attempts)
    assert attempts.numbers == [4] * 4
    with pytest.raises(WorkerError, match="found killed by SIGKILL; "):
        supervise(_with(job, restarts=0), Attempts(_lost(1)))


def test_fewer_ranks_are_divisors_and_all_come_back(job: TrainJob) -> None:
    attempts = Attempts(_lost(1), _lost(2), False, _lost(3), True)
    supervise(_with(job, min_workers=1), attempts)
    assert attempts.numbers == [4, 2, 1, 4, 2]
    attempts = Attempts(_lost(1), _lost(2), True)
    supervise(_with(job, min_workers=2), attempts)
    assert attempts.numbers == [4, 2, 2]


@pytest.mark.parametrize(
    "error",
    [ConfigError("a"), CheckpointError("b"), RecsysError("loss"), WorkerError("no library")],
)
def test_an_error_of_the_users_is_never_tried_again(job: TrainJob, error: RecsysError) -> None:
    attempts = Attempts(error, True)
    with pytest.raises(type(error)):
        supervise(job, attempts)
    assert len(attempts.numbers) == 1


def test_pauses_double_up_to_a_minute(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("recsys_spark.train.launcher.supervise.time.sleep", pauses.append)
    supervise(_with(job, restarts=9, backoff_s=4.0), Attempts(*map(_lost, range(7)), True))
    assert pauses == [4, 8, 16, 32, 60, 60, 60]


def test_more_at_least_than_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_workers is at most num_workers=2, not 4"):
        config.validate(
            Workers, {"num_workers": 2, "min_workers": 4}, source="a.yaml", key="workers"
        )


def test_who_is_silent_by_hand(tmp_path: Path) -> None:
    now = [0.0]
    silence = watch.Silence([tmp_path / str(rank) for rank in range(3)], clock=lambda: now[0])
    beats = [watch.beat.Beat(tmp_path / str(rank)) for rank in (0, 1)]
    silence.look()
    beats[0].wait()
    beats[1].work()
    now[0] = 4.0
    silence.look()
    now[0] = 9.0
    assert silence.silent(10.0) is None
    now[0] = 13.0
    assert silence.silent(10.0) is None, "ranks 0 and 1 spoke 9 s ago"
    now[0] = 15.0
    assert silence.silent(10.0) == (2, 15.0), "never seen"
    silence.paths[2] = silence.paths[1]
    silence.look()
    now[0] = 30.0
    beats[1].wait()
    silence.look()
    now[0] = 45.0
    assert silence.silent(10.0) == (0, 41.0), "all only wait: the longest silent"
    beats[1].tell(0, 1, 7, 10, 7, 70)
    silence.look()
    assert silence.silent(10.0) is None and silence.step == 7
