"""Which steps count as done, with a lake that is a list of runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import psutil
import pytest

from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.pipeline import keys, memory, runner
from recsys_spark.pipeline.context import Job, Outcome, StepOf
from recsys_spark.pipeline.steps import Pipeline, Step

STEP = {"stage": "toy"}


class Recorded:
    """Stands for a lake: the runs that were recorded."""

    def __init__(self) -> None:
        self.recorded: list[Run] = []
        self.spark = None

    def runs(self) -> list[Run]:
        return [run for run in self.recorded if run.state == "done"]

    def add_run(self, run: Run) -> None:
        self.recorded = [other for other in self.recorded if other.run_id != run.run_id]
        self.recorded.append(run)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(
        name="t", env={"lake": "none", "runs": str(tmp_path / "runs")}, steps={"toy": STEP}
    )


def step(**module: Any) -> Step:
    module = {"run": lambda ctx, job: Outcome()} | module
    return Step("toy", SimpleNamespace(**module), Job(**STEP), ())  # type: ignore[arg-type]


def kinds(pipeline: Pipeline, toy: Step, lake: Recorded, how: Any = runner.run) -> list[str]:
    heard: list[str] = []
    how(pipeline, [toy], lake=lake, listener=lambda event: heard.append(event.kind))
    return heard


def test_a_step_is_done_until_its_stage_counts_up_its_version(
    pipeline: Pipeline, monkeypatch
) -> None:
    lake = Recorded()
    assert kinds(pipeline, step(), lake) == ["start", "done"]
    assert kinds(pipeline, step(), lake) == ["skipped"]
    assert kinds(pipeline, step(STAGE_VERSION=1), lake) == ["skipped"]  # 1 where it has none
    assert kinds(pipeline, step(STAGE_VERSION=2), lake) == ["start", "done"]
    monkeypatch.setattr(keys, "VERSION", keys.VERSION + 1)  # of what stages hand on
    assert kinds(pipeline, step(), lake) == ["start", "done"]
    assert len({run.run_id for run in lake.recorded}) == 3


class Fitted(Job):
    of: Annotated[tuple[str, ...], StepOf("toy")]


def chain(source: str, **fitted: Any) -> list[Step]:
    """raw (of this source) <- toy model (with these settings) and, beside it, raw <- lists."""
    module = {"run": lambda ctx, job: Outcome()}
    raw = step(source_fingerprint=lambda job, runs: source)
    model = Step(
        "model", SimpleNamespace(**module), Fitted(**STEP, of=["rows"], **fitted), ("rows",)
    )
    rows = Step("rows", SimpleNamespace(**module), Fitted(**STEP, of=["toy"]), ("toy",))
    both = ("model", "toy")
    lists = Step("lists", SimpleNamespace(**module), Fitted(**STEP, of=both), both)
    return [raw, rows, model, lists]


def ran(pipeline: Pipeline, chained: list[Step], lake: Recorded, **how: Any) -> list[str]:
    heard: list[str] = []
    listener = lambda event: heard.append(event.step) if event.kind == "done" else None  # noqa: E731
    runner.run(pipeline, chained, lake=lake, listener=listener, **how)
    return heard


def test_a_run_stands_for_its_step_for_so_many_days(pipeline: Pipeline) -> None:
    """And what only that step needs is not run; other settings, or a forced step, run at once."""
    lake, whole = Recorded(), ["toy", "rows", "model", "lists"]
    assert ran(pipeline, chain("day 1", every_days=7), lake) == whole
    assert ran(pipeline, chain("day 1", every_days=7), lake) == []
    assert ran(pipeline, chain("day 2", every_days=7), lake) == ["toy", "lists"]
    assert set(runner.kept(pipeline, chain("day 2", every_days=7), lake=lake)) == {
        *("toy", "model", "lists")
    }
    assert ran(pipeline, chain("day 2", every_days=1e-9), lake) == ["rows", "model", "lists"]
    assert ran(pipeline, chain("day 3", every_days=7), lake, force=["rows"]) == [
        *("toy", "rows", "lists")
    ]
    assert ran(pipeline, chain("day 4", every_days=7), lake, force=["model"]) == whole
    other = pipeline.model_copy(update={"seed": 2})
    assert ran(other, chain("day 4", every_days=7), lake) == whole
    shutil.rmtree(next(run.run_dir for run in lake.runs()[::-1] if run.step == "model"))
    assert ran(other, chain("day 5", every_days=7), lake) == whole


def test_without_its_run_folder_a_run_is_no_longer_done_in_a_dry_run_either(
    pipeline: Pipeline,
) -> None:
    lake, toy = Recorded(), step()
    runner.run(pipeline, [toy], lake=lake, listener=lambda event: None)  # type: ignore[arg-type]
    assert kinds(pipeline, toy, lake, runner.dry_run) == ["skipped"]
    assert list(runner.kept(pipeline, [toy], lake=lake)) == ["toy"]  # type: ignore[arg-type]
    folder = Path(lake.recorded[0].run_dir)
    folder.rename(folder.with_name("away"))
    assert kinds(pipeline, toy, lake, runner.dry_run) == ["planned"]
    assert runner.kept(pipeline, [toy], lake=lake) == {}  # type: ignore[arg-type]
    assert kinds(pipeline, toy, lake) == ["start", "done"]


def test_what_is_kept_is_asked_without_fetching_raw_files(pipeline: Pipeline) -> None:
    def fetch(job: Job) -> str:
        raise AssertionError("this would download")

    toy = step(missing=lambda job: "would be downloaded", source_fingerprint=fetch)
    assert runner.kept(pipeline, [toy], lake=Recorded()) == {}  # type: ignore[arg-type]


def test_two_processes_do_not_work_in_one_run_folder(tmp_path: Path) -> None:
    with runner.only_runner(tmp_path / "run"):
        with pytest.raises(RecsysError, match="another process is working in it"):
            with runner.only_runner(tmp_path / "run"):
                pass


def test_a_failure_is_recorded_until_the_same_run_completes(pipeline: Pipeline) -> None:
    def refuse(ctx: Any, job: Job) -> Outcome:
        raise RecsysError("raw file x", found="nothing\nin it")

    lake, events = Recorded(), []
    with pytest.raises(RecsysError, match="raw file x"):
        runner.run(pipeline, [step(run=refuse)], lake=lake, listener=events.append)  # type: ignore[arg-type]
    assert [event.kind for event in events] == ["start", "failed"]
    (failure,) = lake.recorded
    assert (failure.state, failure.problem) == ("failed", "raw file x: found nothing in it")
    assert runner.kept(pipeline, [step()], lake=lake) == {}  # type: ignore[arg-type]
    assert kinds(pipeline, step(), lake) == ["start", "done"]
    assert [(run.run_id, run.state) for run in lake.recorded] == [(failure.run_id, "done")]


def test_a_lake_that_takes_no_record_does_not_hide_why_a_step_failed(pipeline: Pipeline) -> None:
    class Full(Recorded):
        def add_run(self, run: Run) -> None:
            raise OSError("no space left")

    def refuse(ctx: Any, job: Job) -> Outcome:
        raise RecsysError("the disk")

    with pytest.raises(RecsysError, match="the disk"):
        runner.run(pipeline, [step(run=refuse)], lake=Full(), listener=print)  # type: ignore[arg-type]


def test_a_forced_step_runs_again_under_its_id(pipeline: Pipeline) -> None:
    lake, events = Recorded(), []
    for force in ((), ("other",), ("toy",)):
        runner.run(pipeline, [step()], lake=lake, listener=events.append, force=force)  # type: ignore[arg-type]
    assert [event.kind for event in events] == ["start", "done", "skipped", "start", "done"]
    assert len({event.run_id for event in events}) == 1


def test_the_memory_of_a_step_is_that_of_its_processes_too(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    held = 200_000_000
    code = f"held = b'x' * {held}; print(flush=True); input()"

    def run(ctx: Any, job: Job) -> Outcome:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout
        child.stdout.readline()
        time.sleep(0.2)  # some looks long
        child.communicate(b"\n")
        return Outcome(summary={"rows": 3})

    lake = Recorded()
    kinds(pipeline, step(run=run), lake)
    [record] = lake.recorded
    assert record.summary["rows"] == 3
    assert record.summary["peak_memory_bytes"] > psutil.Process().memory_info().rss / 2 + held
