"""Ranks that torchrun or horovodrun starts: for real, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import CheckpointError, ConfigError
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import beat, placement
from recsys_spark.train.ranks.placement import Rank
from recsys_spark.train.saves import checkpoint
from tests import shardsets, training
from tests.distributed import ranks

ENTRY = "recsys_spark.train.entry"
BIN = Path(sys.executable).parent
STARTERS = {
    "torch": [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "-m", ENTRY],
    "horovod": [
        BIN / "horovodrun",
        "-np",
        "2",
        "--network-interface",
        "lo",
        sys.executable,
        "-m",
        ENTRY,
    ],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


def _start(engine: str, path: Path, **more: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    return subprocess.Popen(
        [*map(str, STARTERS[engine]), str(path)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def alone(rows: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    training.train_here(training.job(folder, *rows))
    return folder


@pytest.mark.parametrize("engine", ["torch", "horovod"])
def test_the_same_numbers(engine: str, rows: tuple[Path, Any], alone: Path, tmp_path: Path) -> None:
    # Prepared for one rank: who starts them says how many there are
    job = training.job(tmp_path, *rows)
    started = _start(engine, launch.prepare(job))
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 0, output[-3000:]
    assert training.difference(training.weights(tmp_path), training.weights(alone)) < 1e-10
    assert (tmp_path / "rank-1.beat").exists()
    assert launch.launch(job).steps == 3 * 14, "the result of this job"


def test_a_rank_that_hangs_is_named_by_the_others(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(
        tmp_path,
        *rows,
        engine="torch",
        num_workers=2,
        timeout_s=10.0,
        epochs=100_000,
        patience=100_000,
    )
    started = _start("torch", launch.prepare(job))
    try:
        hung = _hang(job)
        ranks.wait(entry.error_file(job, 0).exists, 60)
        os.kill(hung, signal.SIGKILL)  # torchrun would wait half a minute for it to obey
        output, _ = started.communicate(timeout=90)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode != 0
    assert "worker 1 of 2: found silent for" in output and "workers.timeout_s=10" in output
    assert "worker 1 of 2" in (tmp_path / "rank-0.error.json").read_text()


def test_a_file_stops_ranks_that_no_signal_reaches(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(
        tmp_path, *rows, engine="torch", num_workers=2, epochs=100_000, patience=100_000
    )
    started = _start("torch", launch.prepare(job))
    try:
        ranks.wait(lambda: ranks.steps(job) >= 20)
        entry.stop_file(job).touch()
        output, _ = started.communicate(timeout=90)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode != 0 and f"exitcode  : {entry.STOPPED}" in output, output[-3000:]
    assert checkpoint.verify(checkpoint.folders(tmp_path)[-1]).step > 20
    assert not entry.stop_file(job).exists(), "the next start goes on"


def _hang(job: TrainJob) -> int:
    """Stop rank 1 in its own work, not in a collective; its process id."""
    ranks.wait(lambda: ranks.steps(job, 1) > 3)
    hung = next(
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if _is_rank(folder, Path(job.run_dir), "1")
    )
    while True:
        os.kill(hung, signal.SIGSTOP)
        time.sleep(0.05)
        reading = beat.read(entry.beat_file(job, 1))
        if reading and reading.phase == beat.WORKING:
            return hung
        os.kill(hung, signal.SIGCONT)
        time.sleep(0.003)


def _is_rank(folder: Path, run: Path, rank: str) -> bool:
    try:
        facts = (folder / "cmdline").read_text() + "\0" + (folder / "environ").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{run / entry.JOB}\0" in facts and f"\0LOCAL_RANK={rank}\0" in facts


def _placed(job: TrainJob, here: Rank, **settings: Any) -> Any:
    return placement.placed(
        job.model_copy(update={"workers": job.workers.model_copy(update=settings)}), here
    ).workers


def test_who_a_rank_is() -> None:
    run = {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1"}
    elastic = {"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}
    ours = {"RECSYS_SPARK_RANK": "1", "RECSYS_SPARK_SIZE": "2"}
    assert placement.here(run) == Rank(3, 4, 1, placement.HOROVODRUN)
    assert placement.here(elastic) == Rank(2, 8, 0, placement.TORCHRUN)
    assert placement.here({**elastic, **ours, "HOROVOD_RANK": "0"}) == Rank(
        1, 2, 1, placement.LAUNCHER
    )
    assert placement.here({}) == Rank()
    with pytest.raises(ConfigError, match="environment variable WORLD_SIZE: found none"):
        placement.here({"RANK": "1"})


def test_the_engine_follows_who_started(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(tmp_path, *rows)
    torchrun, horovodrun = Rank(0, 2, 0, placement.TORCHRUN), Rank(0, 2, 0, placement.HOROVODRUN)
    assert _placed(job, torchrun).engine == "torch" and _placed(job, horovodrun).engine == "horovod"
    assert _placed(job, torchrun).num_workers == 2
    assert _placed(job, Rank(0, 1, 0, placement.TORCHRUN)).engine == "single"
    for here, engine, said in (
        (torchrun, "horovod", "that torchrun started; expected torch"),
        (horovodrun, "torch", "that horovodrun started; expected horovod"),
        (torchrun, "single", "single with workers.num_workers=2"),
    ):
        with pytest.raises(ConfigError, match=said):
            _placed(job, here, engine=engine)


def test_a_gpu_for_each_rank_or_none(
    rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training.job(tmp_path, *rows)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        _placed(job, Rank(), device="auto").device == "cpu"
        and _placed(job, Rank(), device="cuda").device == "cuda"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _placed(job, Rank(), device="auto").device == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [placement.gpu("cuda", rank) for rank in (0, 1)] == [0, 1] and placement.gpu(
        "cpu", 5
    ) == 0
    with pytest.raises(
        ConfigError,
        match=r"cuda with 2 GPUs on this host, none for its rank 2.*workers\.device=auto",
    ):
        placement.gpu("cuda", 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert placement.gpu("cuda", 3) == 0, "it is shown this one alone"


def test_what_cannot_be_trained_is_not_prepared(rows: tuple[Path, Any], tmp_path: Path) -> None:
    job = training.job(tmp_path, *rows, epochs=1)
    launch.prepare(job)
    training.train_here(job)
    with pytest.raises(CheckpointError, match="the result of another job"):
        launch.prepare(job.model_copy(update={"seed": 9}))


def test_no_job_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", ENTRY, str(tmp_path / "gone.json")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (
        done.returncode == entry.USER_ERROR
        and "gone.json" in done.stderr
        and "Traceback" not in done.stderr
    )
