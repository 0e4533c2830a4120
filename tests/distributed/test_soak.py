"""One training under random kills: ranks, and the launcher itself. `make soak`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import TrainJob
from recsys_spark.train import entry
from recsys_spark.train.saves.record import RESULT
from tests import shardsets, training
from tests.distributed import ranks

KILLS, SEED = 20, 7
LAUNCH = (
    "import sys; from pathlib import Path; from recsys_spark.core import log; from "
    "recsys_spark.core.contracts import TrainJob; "
    "from recsys_spark.train.launcher import launch; log.configure(); "
    "launch.launch(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()))"
)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["torch", "horovod"])
def test_twenty_kills_in_one_training(engine: str, tmp_path: Path) -> None:
    made = shardsets.pointwise(tmp_path / "rows")
    settings = {
        "engine": engine,
        "num_workers": 2,
        "epochs": 120,
        "patience": 120,
        "checkpoint_steps": 9,
        "checkpoint_async": True,
        "keep_every": 50,
        "dtype": "float32",
        "choose": "last",
    }
    whole = training.job(tmp_path / "whole", tmp_path / "rows", made, "neumf", **settings)
    assert training.train_on_ranks(whole, limit_s=400) == [entry.DONE] * 2
    job = training.job(tmp_path / "run", tmp_path / "rows", made, "neumf", **settings)
    job = job.model_copy(
        update={"workers": job.workers.model_copy(update={"restarts": 1000, "backoff_s": 0.01})}
    )
    artifacts.write_model(tmp_path / "job.json", job)
    draw, killed, launcher, last = random.Random(SEED), list[str](), _start(tmp_path), 0
    try:
        while len(killed) < KILLS:
            # Beyond the kill before: again and again at one step would be given up
            goal = last + draw.randint(1, 60)
            ranks.wait(partial(_got_to, goal, job, launcher), 120)
            assert launcher.poll() is None, (
                f"it ended after {killed}: {(tmp_path / 'launcher.log').read_text()[-2000:]}"
            )
            last = ranks.steps(job)
            victim = draw.choice(["rank 0", "rank 1", "launcher"])
            if victim == "launcher":
                launcher.kill()
                launcher.wait()
                ranks.wait(lambda: not ranks.processes(job), 20)
                launcher = _start(tmp_path)
            else:
                os.killpg(ranks.processes(job)[int(victim[-1])], signal.SIGKILL)
            killed.append(f"{victim} at step {last}")
        assert launcher.wait(400) == 0
    finally:
        launcher.kill()
    assert (tmp_path / "run" / RESULT).exists()
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    ), killed


def _got_to(step: int, job: TrainJob, launcher: subprocess.Popen[bytes]) -> bool:
    return (
        launcher.poll() is not None or ranks.steps(job) >= step and len(ranks.processes(job)) == 2
    )


def _start(folder: Path) -> subprocess.Popen[bytes]:
    for rank in (0, 1):  # of the launcher before: a step it tells is not this one's
        entry.beat_file(
            TrainJob.model_validate_json((folder / "job.json").read_text()), rank
        ).unlink(missing_ok=True)
    with open(folder / "launcher.log", "ab") as said:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(folder / "job.json")],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
