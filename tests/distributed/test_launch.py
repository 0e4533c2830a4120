"""The launcher with real processes: ranks that die, hang or are stopped; nothing runs on, and the
next call goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import CheckpointError, ConfigError, ShardError, WorkerError
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import beat, owner, watch
from recsys_spark.train.saves import checkpoint
from tests import shardsets, training
from tests.distributed import ranks

LONG = {"epochs": 100_000, "patience": 100_000}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


def _when(job: TrainJob, steps: int, deed: Callable[[], None]) -> threading.Thread:
    """Do it, in the background, when rank 0 has done so many steps."""

    def wait_and_do() -> None:
        ranks.wait(lambda: ranks.steps(job) >= steps)
        deed()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def test_a_dead_worker_ends_the_others_and_the_next_call_goes_on(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    whole = training.job(
        tmp_path / "whole", *rows, num_workers=2, epochs=8, patience=8, checkpoint_steps=5
    )
    assert training.train_on_ranks(whole) == [entry.DONE] * 2
    job = whole.model_copy(update={"run_dir": str(tmp_path / "run"), "run_id": "run"})
    ended: list[float] = []

    def kill() -> None:
        os.kill(ranks.processes(job)[1], signal.SIGKILL)
        ended.append(time.monotonic())

    thread = _when(job, 17, kill)
    with pytest.raises(WorkerError) as told:
        launch.launch(job)
    assert time.monotonic() - ended[0] < 10
    thread.join()
    assert not ranks.processes(job), "no rank runs on"
    message = str(told.value)
    assert (
        "worker 1 of 2: found killed by SIGKILL" in message
        and "rank-1.log" in message
        and "run again to go on from step-" in message
    )
    result = launch.launch(job)
    assert result.steps == 8 * 14
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )

    started = time.monotonic()
    assert launch.launch(job) == result, "a finished run is returned as it is"
    assert time.monotonic() - started < 1


def test_a_silent_worker_is_named(
    rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training.job(tmp_path, *rows, engine="torch", num_workers=2, timeout_s=300.0, **LONG)
    stopped: list[float] = []

    def clock() -> float:  # once the worker is stopped, silence counts a hundredfold
        now = time.monotonic()
        return now + 99 * (now - stopped[0]) if stopped else now

    monkeypatch.setattr(watch, "Silence", partial(watch.Silence, clock=clock))

    def stop() -> None:
        worker = ranks.processes(job)[1]
        while True:  # in its own work, not in a collective
            os.kill(worker, signal.SIGSTOP)
            time.sleep(0.05)
            reading = beat.read(entry.beat_file(job, 1))
            if reading and reading.phase == beat.WORKING:
                break
            os.kill(worker, signal.SIGCONT)
            time.sleep(0.003)
        stopped.append(time.monotonic())

    thread = _when(job, 3, stop)
    with pytest.raises(WorkerError) as told:
        launch.launch(job)
    thread.join()
    assert stopped, "not before"
    assert "worker 1 of 2: found silent for 3" in str(
        told.value
    ) and "workers.timeout_s=300" in str(told.value)
    assert "rank-1.log" in str(told.value)
    assert not ranks.processes(job)


def test_ctrl_c_saves_and_a_killed_launcher_leaves_no_orphan(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    job = training.job(tmp_path / "run", *rows, num_workers=2, **LONG)
    artifacts.write_model(tmp_path / "job.json", job)
    script = (
        "from pathlib import Path; from recsys_spark.core.contracts import TrainJob; from "
        "recsys_spark.train.launcher import launch; "
        f"job = Path({str(tmp_path / 'job.json')!r}).read_text(); "
        "launch.launch(TrainJob.model_validate_json(job))"
    )

    def begin() -> subprocess.Popen[str]:
        entry.beat_file(job, 0).unlink(missing_ok=True)
        # A group of its own, as a shell gives to what it starts: Ctrl-C reaches the launcher, not
        # its ranks.
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    launcher = begin()
    ranks.wait(lambda: ranks.steps(job) > 20)
    os.killpg(launcher.pid, signal.SIGINT)
    _, output = launcher.communicate(timeout=60)
    assert "KeyboardInterrupt" in output and launcher.returncode != 0
    assert not ranks.processes(job)
    saved = checkpoint.folders(tmp_path / "run")[-1]
    manifest = checkpoint.verify(saved)
    assert manifest.step > 20

    launcher = begin()
    ranks.wait(lambda: ranks.steps(job) > manifest.step + 3)
    assert len(ranks.processes(job)) == 2
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    ranks.wait(lambda: not ranks.processes(job), 10)
    assert launcher.stderr is not None
    launcher.stderr.close()


def test_sigterm_of_a_worker_saves_and_says_how_to_go_on(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    job = training.job(tmp_path, *rows, **LONG)
    thread = _when(job, 5, lambda: os.kill(ranks.processes(job)[0], signal.SIGTERM))
    with pytest.raises(WorkerError) as told:
        launch.launch(job)
    thread.join()
    newest = checkpoint.folders(tmp_path)[-1]
    checkpoint.verify(newest)
    assert "SIGTERM" in str(told.value) and f"run again to go on from {newest.name}" in str(
        told.value
    )

    # The folder now holds an unfinished job: another one is refused by the rank, in the rank's own
    # words.
    with pytest.raises(CheckpointError, match="job_digest"):
        launch.launch(job.model_copy(update={"seed": 2}))


def _refused(job: TrainJob, error: type[Exception]) -> str:
    with pytest.raises(error) as told:
        launch.launch(job)
    assert not list(Path(job.run_dir).glob("rank-*")), "no rank was started"
    return str(told.value)


def test_too_many_workers(rows: tuple[Path, Any], tmp_path: Path) -> None:
    message = _refused(training.job(tmp_path / "a", *rows, num_workers=3), ShardError)
    assert (
        "workers.num_workers: found 3; expected a divisor of the 64 virtual shards: 1, 2, 4, 8"
        in message
    )
    # 6 rows in the virtual shards 0..5
    few = shardsets.pointwise(tmp_path / "few", num_users=2, per_user=4)
    message = _refused(
        training.job(tmp_path / "b", tmp_path / "few", few, num_workers=8), ShardError
    )
    assert (
        "found 6 row groups, none for worker 6" in message
        and "each of 8 workers" in message
        and "smaller row groups" in message
    )


def test_engines_that_cannot_be(rows: tuple[Path, Any], tmp_path: Path) -> None:
    assert "workers.num_workers=2" in _refused(
        training.job(tmp_path / "a", *rows, engine="single", num_workers=2), ConfigError
    )
    job = training.job(tmp_path / "b", *rows)
    spark = job.model_copy(update={"workers": job.workers.model_copy(update={"launch": "spark"})})
    assert (
        "workers.launch: found spark; expected local: this process has no Spark session"
        in _refused(spark, ConfigError)
    )


def test_other_shards_than_the_jobs(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(tmp_path / "a", *rows)
    message = _refused(job.model_copy(update={"shard_fingerprint": "0" * 64}), ShardError)
    assert "000000000000" in message and job.shard_fingerprint[:12] in message


@pytest.mark.parametrize("engine", ["horovod", "torch"])
def test_no_free_port(
    engine: str, rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: Any, **__: Any) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("horovod.runner.http.http_server.RendezvousHTTPServer.__init__", taken)
    monkeypatch.setattr("torch.distributed.TCPStore", taken)
    message = _refused(training.job(tmp_path, *rows, engine=engine, num_workers=2), WorkerError)
    assert (
        "port" in message
        and "127.0.0.1" in message
        and "Address already in use" in message
        and "workers.num_workers=1" in message
    )


def test_two_launchers_in_one_folder(rows: tuple[Path, Any], tmp_path: Path) -> None:
    with owner.alone(tmp_path):
        assert "another process" in _refused(training.job(tmp_path, *rows), WorkerError)


def test_the_result_of_another_job_is_not_taken(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(tmp_path, *rows, epochs=1)
    training.train_here(job)
    artifacts.write_model(tmp_path / entry.JOB, job)
    assert launch.launch(job).epochs == 1
    message = _refused(job.model_copy(update={"seed": 5, "run_id": "other"}), CheckpointError)
    assert (
        str(tmp_path) in message
        and "the result of another job" in message
        and "empty run folder" in message
    )
