"""A real Spark standalone cluster, one master and two workers on this machine: ranks on its
executors.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.core.contracts import MANIFEST, ShardSet, TrainJob
from recsys_spark.datasets.generators import synthetic
from recsys_spark.stages.bridge import launch_spark
from recsys_spark.train import entry
from recsys_spark.train.saves import checkpoint
from tests import shardsets, training
from tests.distributed import ranks

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "deploy/standalone/cluster.sh"


def _on_cluster(folder: Path, *command: str, **more: str) -> str:
    environment = {
        **os.environ,
        "CLUSTER_DIR": str(folder / "cluster"),
        "BIN": str(Path(sys.executable).parent),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    done = subprocess.run(
        [CLUSTER, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    said = done.stdout + done.stderr
    logs = {path.name: path.read_text()[-800:] for path in folder.rglob("rank-*.log")}
    assert done.returncode == 0, f"{said[-3000:]}\n{logs}"
    alive = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder / "cluster").encode() in _read(path)
    ]
    assert not alive, "a daemon lives on"
    return said


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _executors_ranks(job: TrainJob) -> list[int]:
    """Process ids. A rank on an executor bears no sign but its words, which go to the run
    folder.
    """
    logs = {entry.log_file(job, rank) for rank in range(job.workers.num_workers)}
    return [
        int(said.parts[2]) for said in Path("/proc").glob("[0-9]*/fd/1") if said.readlink() in logs
    ]


def test_horovod_on_the_sessions_own_executors(spark: SparkSession, tmp_path: Path) -> None:
    """Spark's local mode: the shortest way through horovod.spark.run."""
    made = shardsets.pointwise(tmp_path / "rows")
    job = training.job(tmp_path / "run", tmp_path / "rows", made, num_workers=2)
    job = job.model_copy(update={"workers": job.workers.model_copy(update={"launch": "spark"})})
    result = launch_spark.train(spark, job)
    training.train_here(training.job(tmp_path / "alone", tmp_path / "rows", made))
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "alone")
        )
        < 1e-10
    )
    assert launch_spark.train(spark, job) == result, "a finished run is returned as it is"
    assert not list((tmp_path / "run").glob(".probe-*"))


@pytest.mark.parametrize(
    ("engine", "frozen"),
    [("horovod", False), ("horovod", True), pytest.param("torch", False, marks=pytest.mark.soak)],
)
def test_sigterm_of_the_driver_saves_and_says_how_to_go_on(
    engine: str, frozen: bool, tmp_path: Path
) -> None:
    """Frozen: the ranks no longer answer, horovod.spark kills them, and the last checkpoint before
    is what is left.
    """
    made = shardsets.pointwise(tmp_path / "rows")
    job = training.job(
        tmp_path / "run",
        tmp_path / "rows",
        made,
        engine=engine,
        num_workers=2,
        epochs=100_000,
        patience=100_000,
        checkpoint_steps=10,
    )
    job = job.model_copy(
        update={"workers": job.workers.model_copy(update={"launch": "spark", "restarts": 2})}
    )
    (tmp_path / "job.json").write_text(job.model_dump_json())
    with open(tmp_path / "said", "wb") as said:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.spark.stopped_driver", str(tmp_path / "job.json")],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        ranks.wait(lambda: ranks.steps(job) >= 20 or driver.poll() is not None, 120)
        if frozen:
            for process in _executors_ranks(job):
                os.kill(process, signal.SIGSTOP)
        done = ranks.steps(job)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 0, (tmp_path / "said").read_text()[-3000:]
    finally:
        driver.kill()
    newest = checkpoint.folders(tmp_path / "run")[-1]
    assert checkpoint.verify(newest).step >= (10 if frozen else done), "the ranks saved"
    told = (tmp_path / "said").read_text()
    assert "found SIGTERM or Ctrl-C" in told and f"run again to go on from {newest.name}" in told, (
        told[-3000:]
    )
    assert "event=restart" not in told


@pytest.mark.soak
@pytest.mark.parametrize(("engine", "epochs"), [("torch", 3), ("horovod", 60)])
def test_ranks_on_executors(engine: str, epochs: int, tmp_path: Path) -> None:
    """The numbers of one rank, also where one of Horovod's was killed on the way, the other went on
    and was joined by a new one; a finished job again; too few slots, no GPU.
    """
    command = (
        sys.executable,
        "-m",
        "tests.spark.on_cluster",
        tmp_path,
        tmp_path / "cluster",
        engine,
        epochs,
    )
    said = _on_cluster(tmp_path, "--", *map(str, command))
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["steps"] == told["again"] == epochs * 14
    made = ShardSet.model_validate_json((tmp_path / "rows" / MANIFEST).read_text())
    training.train_here(
        training.job(tmp_path / "alone", tmp_path / "rows", made, epochs=epochs, patience=epochs)
    )
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "alone")
        )
        < 1e-10
    )
    log = (tmp_path / "run/rank-0.log").read_text()
    assert (log.count("event=resume") == 2) == ("event=grow" in said) == (engine == "horovod"), (
        f"{said}\n{log}"
    )
    assert told["four"].startswith(
        "ConfigError workers.num_workers: found 4, and Spark has fewer task slots"
    )
    assert told["cuda"].startswith(
        "ConfigError workers.device: found cuda, and spark.task.resource.gpu.amount is not set"
    )


def test_what_an_executor_lacks(tmp_path: Path) -> None:
    mine = tmp_path / ".probe-abc"
    probe = launch_spark._prober(str(mine), str(tmp_path))
    assert "No such file" in probe(iter([0]))[0][1] and ".probe-abc" in probe(iter([0]))[0][1]
    mine.write_text("xyz")
    assert "another file" in probe(iter([0]))[0][1]
    mine.write_text("abc")
    assert MANIFEST in probe(iter([0]))[0][1], "no shards"
    (tmp_path / MANIFEST).touch()
    assert probe(iter([1]))[0][1] == "" and (tmp_path / ".probe-abc-1").exists()


@pytest.mark.soak
def test_the_whole_path(spark: SparkSession, tmp_path: Path) -> None:
    """Ingest, ALS, export, training on executors by both engines, scores."""
    synthetic.generate(spark, tmp_path / "data/ml-1m", users=200, items=150, ratings=8_000, seed=1)
    _on_cluster(
        tmp_path,
        "deploy/standalone/pipeline.yaml",
        RECSYS_DATA=str(tmp_path / "data"),
        RECSYS_OUT=str(tmp_path / "out"),
    )
    runs = {
        path.parent.name.rsplit("-", 1)[0]: json.loads(path.read_text())
        for path in tmp_path.glob("out/standalone/runs/*/run.json")
    }
    assert {
        "ingest",
        "als",
        "rows",
        "neumf",
        "gmf",
        "score_als",
        "score_neumf",
        "score_gmf",
    } <= runs.keys()
    assert [runs[name]["summary"]["engine"] for name in ("neumf", "gmf")] == ["horovod", "torch"]
    assert all(runs[name]["summary"]["num_workers"] == 2 for name in ("neumf", "gmf"))
    assert all(
        runs[f"score_{name}"]["summary"]["rows"] == 200 * 20 for name in ("als", "neumf", "gmf")
    )
