"""Checkpoints: whole or absent, verified, of this very job; what a resumed run equals."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import CheckpointError, RecsysError
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint, saver
from recsys_spark.train.saves.checkpoint import State
from tests import shardsets, training


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


def _stop_at(step: int) -> Any:
    asked = iter([False] * (step - 1) + [True] * 1000)
    return lambda: next(asked)


@pytest.fixture
def half(rows: tuple[Path, Any], tmp_path: Path) -> TrainJob:
    """Stopped in step 20 of 42, with an older checkpoint from the end of the first epoch."""
    made = training.job(tmp_path / "run", *rows)
    assert training.train_here(made, stop=_stop_at(20)) is None
    assert [path.name for path in checkpoint.folders(tmp_path / "run")] == [
        "step-00000014",
        "step-00000020",
    ]
    return made


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _refused(job: TrainJob) -> str:
    """The message; the run folder is as before."""
    before = _content(Path(job.run_dir))
    with pytest.raises(CheckpointError) as told:
        training.train_here(job)
    assert _content(Path(job.run_dir)) == before
    return str(told.value)


def test_state_survives_json_to_the_last_bit() -> None:
    state = State(sums={"a": (0.1 + 0.2, 1e-300)}, best_value=2 / 3, record={"x": 1 / 3})
    assert State.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optim.safetensors", "state.json", "model.json"]
)
def test_cut_short(name: str, half: TrainJob) -> None:
    path = Path(half.run_dir) / "checkpoints/step-00000020" / name
    size = path.stat().st_size
    os.truncate(path, size // 2)
    message = _refused(half)
    assert str(path) in message and f"{size // 2} bytes" in message and f"{size} bytes" in message
    assert f"remove the folder {path.parent}" in message and "resumes from step-00000014" in message
    shutil.rmtree(path.parent)
    assert training.train_here(half) is not None, "the remedy works"


def test_altered_or_missing_file(half: TrainJob) -> None:
    path = Path(half.run_dir) / "checkpoints/step-00000020/optim.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{path}: found SHA-256" in _refused(half)
    path.unlink()
    assert f"{path}: found no such file" in _refused(half)


def test_without_its_manifest(half: TrainJob) -> None:
    path = Path(half.run_dir) / "checkpoints/step-00000020/manifest.json"
    path.unlink()
    message = _refused(half)
    assert str(path) in message and "no such file" in message and "remove the folder" in message


def test_of_another_model(half: TrainJob) -> None:
    message = _refused(
        half.model_copy(update={"model": "neumf", "config": training.small("neumf")})
    )
    assert (
        "step-00000020, model: found mf_bias; expected neumf" in message
        and "empty run folder" in message
    )


def test_of_other_shards(half: TrainJob, tmp_path: Path) -> None:
    other = shardsets.pointwise(tmp_path / "other", seed=5)
    message = _refused(
        half.model_copy(
            update={"shards": str(tmp_path / "other"), "shard_fingerprint": other.fingerprint}
        )
    )
    assert (
        "shard_fingerprint" in message
        and half.shard_fingerprint[:40] in message
        and other.fingerprint[:40] in message
    )
    assert "empty run folder" in message


def test_of_another_job(half: TrainJob) -> None:
    message = _refused(
        half.model_copy(update={"train": half.train.model_copy(update={"batch_size": 51})})
    )
    assert "step-00000020, job_digest" in message and "empty run folder" in message


def test_where_it_runs_is_no_other_job(half: TrainJob) -> None:
    saving = {
        "keep": 7,
        "keep_every": 2,
        "checkpoint_steps": 3,
        "checkpoint_s": 0.5,
        "checkpoint_async": True,
    }
    train = half.train.model_copy(
        update={**saving, "reader": half.train.reader.model_copy(update={"prefetch": 9})}
    )
    moved = half.model_copy(
        update={
            "train": train,
            "workers": half.workers.model_copy(update={"num_workers": 4, "engine": "torch"}),
        }
    )
    assert checkpoint.digest(moved) == checkpoint.digest(half)
    assert checkpoint.digest(half.model_copy(update={"seed": 9})) != checkpoint.digest(half)


def test_keep_and_best(rows: tuple[Path, Any], tmp_path: Path) -> None:
    training.train_here(training.job(tmp_path, *rows, epochs=2, checkpoint_steps=4, keep=3))
    names = [path.name for path in checkpoint.folders(tmp_path)]
    assert (
        names == ["step-00000020", "step-00000024", "step-00000028"]
        or names[0] == "step-00000014"
        and len(names) == 4
    )
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


def test_kept_for_good_every_so_many_epochs(rows: tuple[Path, Any], tmp_path: Path) -> None:
    training.train_here(
        training.job(
            tmp_path,
            *rows,
            epochs=7,
            patience=7,
            checkpoint_steps=4,
            keep=1,
            keep_every=3,
            choose="last",
        )
    )
    assert [path.name for path in checkpoint.folders(tmp_path)] == [
        f"step-{14 * epoch:08d}" for epoch in (3, 6, 7)
    ]


def test_saving_by_the_clock_is_rank_0s_wish(
    half: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = half.model_copy(
        update={"train": half.train.model_copy(update={"checkpoint_s": 10.0, "keep": 9})}
    )
    now = [0.0]
    monkeypatch.setattr(saver.time, "monotonic", lambda: now[0])
    loop = Loop(timed, workers.Workers())
    tell = loop.workers.beat.tell

    def told(*facts: int) -> None:
        now[0] += (
            # a step takes so long: saves are due before the steps after the 3rd, 6th ... since the
            # last
            4.0
        )
        tell(*facts)

    monkeypatch.setattr(loop.workers.beat, "tell", told)
    assert loop.run() is not None
    steps = [int(path.name[-8:]) for path in checkpoint.folders(Path(timed.run_dir))]
    assert steps == [14, 20, 24, 28, 32, 36, 40, 42]
    assert not saver.Saver(timed, rank=1).due()
    now[0] += 100.0
    assert saver.Saver(timed).due() is False, "not at once"


def test_async_writes_the_state_of_its_step_while_the_weights_go_on(
    half: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = half.model_copy(
        update={"train": half.train.model_copy(update={"checkpoint_async": True})}
    )
    loop, go_on, original = Loop(apart, workers.Workers()), threading.Event(), saver.write
    before = {key: value.clone() for key, value in loop.model.state_dict().items()}
    monkeypatch.setattr(saver, "write", lambda *given: go_on.wait(10) and original(*given))
    loop.state.step = 21
    loop._save()
    for value in loop.model.state_dict().values():
        value.add_(1)
    loop.state.step = 22
    assert not (Path(half.run_dir) / "checkpoints/step-00000021").exists()
    go_on.set()
    loop._save()
    loop.parts.saver.wait()
    assert (
        training.difference(
            load_file(Path(half.run_dir) / "checkpoints/step-00000021/model.safetensors"), before
        )
        == 0.0
    )
    assert training.difference(training.weights(Path(half.run_dir)), before) == 1.0


def test_async_failure_is_told_by_the_next_save_or_the_end(
    half: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = half.model_copy(
        update={"train": half.train.model_copy(update={"checkpoint_async": True})}
    )

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    loop = Loop(apart, workers.Workers())
    with monkeypatch.context() as patch:
        patch.setattr(saver, "save_file", full)
        loop._save()
        with pytest.raises(CheckpointError, match="No space left on device"):
            loop._save()
    loop._save()
    loop.parts.saver.wait()
    with monkeypatch.context() as patch:
        patch.setattr(saver, "save_file", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            training.train_here(apart)
    assert training.train_here(apart) is not None


def test_full_disk_keeps_the_last_good_one(
    half: TrainJob, rows: tuple[Path, Any], tmp_path: Path
) -> None:
    before = _content(Path(half.run_dir))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(CheckpointError) as told:
            training.train_here(half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-00000028" in str(told.value) and os.strerror(errno.EFBIG) in str(told.value)
    assert _content(Path(half.run_dir)) == before, "nothing half-written is left"
    assert training.train_here(half) is not None
    whole = training.job(tmp_path / "whole", *rows)
    training.train_here(whole)
    assert (
        training.difference(
            training.weights(Path(half.run_dir)), training.weights(tmp_path / "whole")
        )
        == 0.0
    )


def test_full_disk_says_so(half: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saver, "save_file", full)
    with pytest.raises(CheckpointError) as told:
        training.train_here(half)
    assert "No space left on device" in str(told.value) and "free some space" in str(told.value)
    assert "step-00000020 is whole and the training resumes from it" in str(told.value)


def test_weights_that_are_not_finite_are_refused(half: TrainJob) -> None:
    loop = Loop(half, workers.Workers())
    with torch.no_grad():
        next(loop.model.parameters())[1, 0] = float("nan")
    before = _content(Path(half.run_dir))
    with pytest.raises(CheckpointError, match=r"not finite.*train\.optim\.lr"):
        loop._save()
    assert _content(Path(half.run_dir)) == before


# Killed at any moment. An audit hook counts what the process does to its run folder; at the n-th
# deed the process kills itself.
_DEEDS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def _train_until(job: TrainJob, deed: int, told: str) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _DEEDS and arguments and str(arguments[0]).startswith(job.run_dir):
            count += 1
            if count == deed:
                os.write(descriptor, f"{event} {Path(str(arguments[0])).name}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    descriptor = os.open(told, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(hook)
    training.train_here(job)
    os.write(descriptor, str(count).encode())
    os._exit(0)


def _process(job: TrainJob, deed: int, told: Path) -> tuple[int | None, str]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recsys_spark.train.entry", "horovod.torch", "tests.training"])
    told.unlink(missing_ok=True)
    process = context.Process(target=_train_until, args=(job, deed, str(told)))
    process.start()
    process.join(60)
    return process.exitcode, told.read_text()


@pytest.mark.parametrize(
    ("model", "config", "apart"),
    [("mf_bias", {"dim": 4}, False), ("neumf", {"dim": 4, "pretrain_epochs": 1}, True)],
    ids=["one phase", "three phases, saved off the steps"],
)
def test_killed_anywhere_and_resumed_is_the_uninterrupted_run(
    model: str, config: dict[str, Any], apart: bool, rows: tuple[Path, Any], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 60,
        "checkpoint_steps": 4,
        "dtype": "float32",
        "config": config,
        "checkpoint_async": apart,
    }
    code, deeds = _process(
        training.job(tmp_path / "whole", *rows, model, **settings), 0, tmp_path / "told"
    )
    assert code == 0
    expected = training.weights(tmp_path / "whole")
    lines = _lines(tmp_path / "whole")
    made = training.job(tmp_path / "run", *rows, model, **settings)
    draw, writing = random.Random(model), []
    for _ in range(7):
        code, what = _process(made, draw.randint(1, int(deeds) // 2), tmp_path / "told")
        if code == 0:
            break
        assert code == -signal.SIGKILL
        writing.append(what)
        for folder in checkpoint.folders(tmp_path / "run"):
            checkpoint.verify(folder)  # whole, whenever it came
    training.train_here(made)
    assert len(writing) >= 3, writing
    assert training.difference(training.weights(tmp_path / "run"), expected) == 0.0, (
        f"killed while at {writing}"
    )
    assert _lines(tmp_path / "run") == lines, f"killed while at {writing}"
    assert json.loads((tmp_path / "run/best.json").read_text()) == json.loads(
        (tmp_path / "whole/best.json").read_text()
    )
    assert not list((tmp_path / "run/checkpoints").glob(".tmp-*"))


def _lines(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without its timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "examples_per_s")}
        for line in lines
    ]


def test_errors_are_the_users(half: TrainJob) -> None:
    assert issubclass(CheckpointError, RecsysError) and CheckpointError("x").exit_code == 2
