"""The status of each step, from records and locks alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys_spark.cli.commands import app
from recsys_spark.commands import status as statuses
from recsys_spark.core import locks
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.pipeline import keys, runner
from recsys_spark.pipeline.context import Outcome
from recsys_spark.pipeline.steps import Pipeline
from recsys_spark.stages import ingest
from tests.unit.test_commands import lake_of, run, said
from tests.unit.test_runner import STEP, Recorded, chain


class Attempted(Recorded):
    def attempts(self) -> list[Run]:
        return self.recorded


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(
        name="t", env={"lake": "none", "runs": str(tmp_path / "runs")}, steps={"toy": STEP}
    )


def of(*each: str) -> dict[str, str]:
    return dict(zip(("toy", "rows", "model", "lists"), each, strict=True))


def states(pipeline: Pipeline, lake: Attempted, source: str = "day 1") -> dict[str, str]:
    return {step.step: step.state for step in statuses.of(pipeline, chain(source), lake)}


def test_from_the_first_step_to_the_last(pipeline: Pipeline) -> None:
    lake, steps = Attempted(), chain("day 1")
    assert states(pipeline, lake) == of("ready", "waits", "waits", "waits")

    def fail(ctx: object, job: object) -> Outcome:
        raise RecsysError("table x", found="no\nmemory")

    steps[2].module.run = fail  # type: ignore[attr-defined]
    with pytest.raises(RecsysError):
        runner.run(pipeline, steps, lake=lake, listener=lambda event: None)
    assert states(pipeline, lake) == of("done", "done", "failed", "waits")
    failed = statuses.of(pipeline, chain("day 1"), lake)[2]
    assert "no memory" in failed.why and failed.run_id.startswith("model-")
    runner.run(pipeline, chain("day 1"), lake=lake, listener=lambda event: None)
    assert set(states(pipeline, lake).values()) == {"done"}
    assert states(pipeline, lake, "day 2")["toy"] == "ready"
    assert statuses.summary(statuses.of(pipeline, chain("day 2"), lake)) == "1 ready, 3 waits"


def test_a_step_under_way_runs_until_its_process_ends(pipeline: Pipeline) -> None:
    toy = chain("day 1")[0]
    run_id = keys.run_id_of("toy", keys.step_key(toy, pipeline, {}))
    folder = Path(pipeline.env.runs) / run_id
    code = (
        "import pathlib, sys; from recsys_spark.pipeline import runner\n"
        f"with runner.only_runner(pathlib.Path({str(folder)!r})): print('in', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    [first, *_] = statuses.of(pipeline, chain("day 1"), Attempted())
    assert (first.state, first.run_id) == ("running", run_id) and (first.seconds or -1) >= 0
    process.kill()
    process.wait()
    assert (
        not locks.is_held(folder / runner.LOCK) and states(pipeline, Attempted())["toy"] == "ready"
    )
    assert not locks.is_held(folder / "no such file")


def test_a_scheduler_gets_one_line_whatever_the_end_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real command; of the pipeline's engine only the lake and the steps are small ones."""
    file = tmp_path / "p.yaml"
    file.write_text(
        f"name: t\nenv: {{lake: {tmp_path}/lake, runs: {tmp_path}/r}}\nsteps:\n"
        f"  raw: {{stage: ingest, dataset: shop, data: {tmp_path}, delimited: {{files: '*.csv', "
        "separator: ',', header: true, columns: [user_id, item_id, ts]}}\n"
    )
    (tmp_path / "a.csv").write_text("user_id,item_id,ts\nu,i,1\n")
    monkeypatch.setattr(runner, "open_lake", lambda pipeline: Attempted())

    def line(expected: int) -> dict[str, Any]:
        outcome = CliRunner().invoke(app, ["run", str(file), "--json"])
        assert (outcome.exit_code, outcome.stdout.count("\n")) == (expected, 1), outcome.output
        return dict(json.loads(outcome.stdout))

    monkeypatch.setattr(ingest, "run", lambda ctx, job: Outcome())
    done = line(0)
    assert (done["state"], done["steps"][0]["state"]) == ("done", "done") and "problem" not in done

    def fail(ctx: object, job: object) -> Outcome:
        raise RecsysError("file x", found="nothing", remedy="make it")

    monkeypatch.setattr(ingest, "run", fail)
    failed = line(1)
    assert failed["problem"] == "file x: found nothing. To mend: make it"
    assert failed["resume"] == f"recsys-spark run {file}"
    [raw] = failed["steps"]
    assert (raw["step"], raw["state"]) == ("raw", "failed") and raw["run_id"].startswith("raw-")
    file.write_text("name: t\n")
    assert line(1)["steps"] == []


def test_the_command(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", run("raw", state="failed", problem="no memory"))
    (tmp_path / "p.yaml").write_text(
        f"name: t\nenv: {{lake: {lake}, runs: {tmp_path}/r}}\nsteps:\n"
        f"  raw: {{stage: ingest, dataset: shop, data: {tmp_path}, delimited: {{files: '*.csv', "
        "separator: ',', header: true, columns: [user_id, item_id, ts]}}\n"
        "  split: {stage: prepare, source: raw, rule: everything}\n"
    )
    (tmp_path / "a.csv").write_text("user_id,item_id,ts\nu,i,1\n")
    page = said("status", str(tmp_path / "p.yaml"))
    assert "1 failed, 1 waits" in page and "no memory" in page
    raw, split = json.loads(said("status", str(tmp_path / "p.yaml"), "--json"))
    assert (raw["state"], raw["why"]) == ("failed", "no memory")
    assert (split["state"], split["why"]) == ("waits", "raw")
