"""Both ranks of a training killed at any moment, and resumed: every model ends at the weights of
the uninterrupted run, bit for bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import TrainJob
from recsys_spark.models import registry
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import beat, workers
from recsys_spark.train.saves import checkpoint
from tests import shardsets, training

DEEDS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
SHORT = ("bpr_mf",)  # the others in `make soak`
MODELS = [
    pytest.param(model, marks=[] if model in SHORT else [pytest.mark.soak])
    for model in registry.names()
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name of a layout, `click`, `user` or `item` -> (folder, shard set), made when it is asked
    for.
    """
    made: dict[str, tuple[Path, Any]] = {}

    def of(model: str) -> tuple[Path, Any]:
        kind = registry.find(model)
        rated = kind.layout == "profile" and kind.task == "rating"
        name = "click" if kind.task == "click" else kind.by_of({}) if rated else kind.layout
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write = {
                "click": lambda: shardsets.pointwise(folder, fields=True, clicks=True),
                "user": lambda: shardsets.ratings(folder, "user"),
                "item": lambda: shardsets.ratings(folder, "item"),
                "pointwise": lambda: shardsets.pointwise(folder, fields=True),
                "profile": lambda: shardsets.profile(folder),
                "pairs": lambda: shardsets.pairs(folder),
            }[name]
            made[name] = folder, write()
        return made[name]

    return of


def _rank(
    job: TrainJob,
    rank: int,
    environment: dict[str, str],
    leader: int,
    deed: int,
    told: str,
    together: Any,
) -> None:
    """Rank 0 counts what is done to the run folder and every step; at the n-th deed it kills the
    process group, which is both ranks.
    """
    os.environ.update({**environment, workers.RANK: str(rank), workers.SIZE: "2"})
    while True:
        try:
            os.setpgid(0, leader)
            break
        except PermissionError:  # the leader has not made its group yet
            time.sleep(0.01)
    together.wait(60)  # both are in the group: a kill meets both
    count, said = 0, os.open(told, os.O_WRONLY | os.O_CREAT)

    def do(what: str) -> None:
        nonlocal count
        count += 1
        if count == deed:
            os.write(said, what.encode())
            os.killpg(0, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in DEEDS and arguments and str(arguments[0]).startswith(job.run_dir):
            do(f"{event} {Path(str(arguments[0])).name}")

    if rank == 0:
        sys.addaudithook(hook)
        tell = beat.Beat.tell
        beat.Beat.tell = lambda self, *facts: (tell(self, *facts), do(f"step {facts[4]}"))[0]  # type: ignore[method-assign]
    code = entry.run_rank(str(Path(job.run_dir) / entry.JOB))
    if rank == 0:
        os.write(said, str(count).encode())
    os._exit(code)


def _run(job: TrainJob, engine: str, deed: int, told: Path) -> tuple[list[int | None], str]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recsys_spark.train.entry", "horovod.torch", "tests.training"])
    told.unlink(missing_ok=True)
    artifacts.write_model(Path(job.run_dir) / entry.JOB, job)
    with launch.meeting(engine, 2, job.workers.timeout_s) as meeting:
        ranks: list[Any] = []
        together = context.Barrier(2)
        for rank, environment in enumerate(meeting):
            leader = ranks[0].pid if ranks else 0
            ranks.append(
                context.Process(
                    target=_rank, args=(job, rank, environment, leader, deed, str(told), together)
                )
            )
            ranks[-1].start()
        for process in ranks:
            process.join(90)
            process.kill()
            process.join()
    return [process.exitcode for process in ranks], told.read_text() if told.exists() else ""


@pytest.mark.parametrize("model", MODELS)
def test_killed_anywhere(model: str, shards: Any, tmp_path: Path) -> None:
    draw = random.Random(model)
    engine, apart = draw.choice(
        [("horovod", False), ("torch", False), ("horovod", True), ("torch", True)]
    )
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 60,
        "checkpoint_steps": 3,
        "dtype": "float32",
        "engine": engine,
        "num_workers": 2,
        "checkpoint_async": apart,
    }
    codes, deeds = _run(
        training.job(tmp_path / "whole", *shards(model), model, **settings),
        engine,
        0,
        tmp_path / "told",
    )
    assert codes == [entry.DONE] * 2
    job, at = training.job(tmp_path / "run", *shards(model), model, **settings), []
    for _ in range(5):
        codes, what = _run(job, engine, draw.randint(1, int(deeds) // 2), tmp_path / "told")
        if codes == [entry.DONE] * 2:
            break
        assert codes == [-signal.SIGKILL] * 2, f"killed at {[*at, what]}"
        at.append(what)
        for folder in checkpoint.folders(tmp_path / "run"):
            checkpoint.verify(folder)  # whole, whenever it came
    assert _run(job, engine, 0, tmp_path / "told")[0] == [entry.DONE] * 2, f"killed at {at}"
    assert len(at) >= 2, at
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    ), f"killed at {at}"
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole"), f"killed at {at}"


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "examples_per_s")}
        for line in lines
    ]
