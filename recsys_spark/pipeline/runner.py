"""Run steps in order, skip what is done, record what completed.

A step's run id is made from its key (keys.py). A step that was killed runs again under the
same id and replaces what it had written. Only a completed step gets a row in `runs`, and readers
take the table versions which that row names.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

import recsys_spark
from recsys_spark.core import artifacts, locks, log
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError, first_line, in_one_line
from recsys_spark.lake import session
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import keys, memory
from recsys_spark.pipeline.context import Context, Outcome
from recsys_spark.pipeline.steps import Pipeline, Step, missing

logger = log.get(__name__)
LOCK = ".lock"  # in a run folder, held by the process that works there


@dataclass(frozen=True)
class Event:
    """What a listener hears of a step. kind: `start`, `done`, `skipped`, `planned`, `failed`."""

    kind: str
    step: str
    stage: str
    run_id: str
    seconds: float = 0.0
    facts: dict[str, Any] | None = None


Listener = Callable[[Event], None]


def open_lake(pipeline: Pipeline) -> Lake:
    env = pipeline.env
    spark = session.session(env.spark, f"recsys_spark {pipeline.name}")
    return Lake(spark, env.lake, Path(env.runs))


def run(
    pipeline: Pipeline,
    steps: list[Step],
    *,
    lake: Lake,
    listener: Listener,
    force: Collection[str] = (),
) -> dict[str, Run]:
    """Run the steps in order; a step whose key has a completed run is skipped, unless `force` names
    it, and so is one for which an earlier run stands, with what only such steps need. Returns
    {step: its completed run}.
    """
    done = keys.completed(lake)
    runs = keys.standing(pipeline, steps, lake, force)
    for step in keys.needed(steps, runs, force):
        key = "" if step.name in runs else keys.step_key(step, pipeline, runs)
        earlier = runs.get(step.name) or (None if step.name in force else keys.finished(done, key))
        if earlier is not None:
            runs[step.name] = earlier
            listener(_skipped(step, earlier))
            continue
        runs[step.name] = execute(
            pipeline,
            step,
            runs,
            lake=lake,
            key=key,
            run_id=keys.run_id_of(step.name, key),
            listener=listener,
        )
    return runs


def kept(pipeline: Pipeline, steps: list[Step], *, lake: keys.Recorded) -> dict[str, Run]:
    """{step: its completed run} of the steps that `run` would skip. Runs, downloads
    and generates nothing: a step whose raw files are not there is left out."""
    done = keys.completed(lake)
    runs = keys.standing(pipeline, steps, lake)
    for step in keys.needed(steps, runs):
        if step.name in runs:
            continue
        # The key of a step that reads raw files is made of their bytes
        if all(name in runs for name in step.needs) and not missing(step):
            earlier = keys.finished(done, keys.step_key(step, pipeline, runs))
            if earlier is not None:
                runs[step.name] = earlier
    return runs


def dry_run(pipeline: Pipeline, steps: list[Step], *, lake: Lake, listener: Listener) -> None:
    """Say of each step whether it is done, what it would cost where its inputs exist, or what it
    waits for. Starts no work.
    """
    done = keys.completed(lake)
    runs = keys.standing(pipeline, steps, lake)
    for step in keys.needed(steps, runs):
        if (stands := runs.get(step.name)) is not None:
            listener(_skipped(step, stands))
            continue
        waits = [name for name in step.needs if name not in runs]
        if waits:
            listener(
                Event(
                    "planned", step.name, step.job.stage, "", facts={"waits_for": ", ".join(waits)}
                )
            )
            continue
        absent = missing(step)
        if absent:
            listener(Event("planned", step.name, step.job.stage, "", facts={"raw_files": absent}))
            continue
        key = keys.step_key(step, pipeline, runs)
        if (earlier := keys.finished(done, key)) is not None:
            runs[step.name] = earlier
            listener(_skipped(step, earlier))
            continue
        run_id = keys.run_id_of(step.name, key)
        ctx = _context(pipeline, step, runs, lake, run_id, Path(pipeline.env.runs) / run_id)
        facts = step.module.plan(ctx, step.job) if hasattr(step.module, "plan") else {}
        listener(Event("planned", step.name, step.job.stage, run_id, facts=facts))


def execute(
    pipeline: Pipeline,
    step: Step,
    inputs: dict[str, Run],
    *,
    lake: Lake,
    key: str,
    run_id: str,
    listener: Listener,
) -> Run:
    """Run one step, whatever is done already, and record it; a failure too, before it is raised."""
    run_dir = Path(pipeline.env.runs).absolute() / run_id
    with only_runner(run_dir):
        ctx = _context(pipeline, step, inputs, lake, run_id, run_dir)
        listener(Event("start", step.name, step.job.stage, run_id, facts=_earlier(lake, step)))
        artifacts.write_text(run_dir / "job.json", step.job.model_dump_json(indent=1) + "\n")
        try:
            with memory.Peak() as peak:
                outcome: Outcome = step.module.run(ctx, step.job)
        except Exception as problem:
            failure = _record(pipeline, step, ctx, key, Outcome(), problem=in_one_line(problem))
            _keep_failure(lake, failure)
            took = failure.ended_at - failure.started_at
            facts = {"problem": failure.problem}
            listener(Event("failed", step.name, step.job.stage, run_id, took, facts))
            raise
        outcome.summary["peak_memory_bytes"] = peak.bytes
        record = _record(pipeline, step, ctx, key, outcome)
        lake.add_run(record)
        artifacts.write_model(run_dir / "run.json", record)
    listener(
        Event(
            "done",
            step.name,
            step.job.stage,
            run_id,
            record.ended_at - record.started_at,
            outcome.summary,
        )
    )
    return record


def _earlier(lake: Lake, step: Step) -> dict[str, Any]:
    """How long the step took when it last completed, whatever its settings were."""
    seconds = [run.ended_at - run.started_at for run in lake.runs() if run.step == step.name]
    return {"earlier_s": seconds[-1]} if seconds else {}


def _record(
    pipeline: Pipeline, step: Step, ctx: Context, key: str, outcome: Outcome, problem: str = ""
) -> Run:
    return Run(
        run_id=ctx.run_id,
        pipeline=pipeline.name,
        step=step.name,
        stage=step.job.stage,
        key=key,
        config=step.job.model_dump(mode="json"),
        upstream={name: run.run_id for name, run in ctx.inputs.items()},
        input_versions=dict(ctx.read_versions),
        output_versions=outcome.tables,
        shard_fingerprint=outcome.shard_fingerprint,
        run_dir=str(ctx.run_dir),
        code_version=code_version(),
        seed=pipeline.seed,
        started_at=ctx.now,
        ended_at=time.time(),
        state="failed" if problem else "done",
        problem=problem,
        summary=outcome.summary,
    )


def _keep_failure(lake: Lake, failure: Run) -> None:
    """Records a failure where the lake still takes one: why the step failed may be that it does
    not.
    """
    try:
        lake.add_run(failure)
    except (RecsysError, OSError, PySparkException, Py4JError) as problem:
        logger.warning(
            log.fields(event="failure_not_recorded", step=failure.step, why=first_line(problem))
        )


def context(pipeline: Pipeline, step: Step, inputs: dict[str, Run], *, lake: Lake) -> Context:
    """That in which `run` would execute the step, once what it needs is done; its run folder is
    made.
    """
    run_id = keys.run_id_of(step.name, keys.step_key(step, pipeline, inputs))
    run_dir = Path(pipeline.env.runs).absolute() / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    return _context(pipeline, step, inputs, lake, run_id, run_dir)


def _skipped(step: Step, run: Run) -> Event:
    return Event("skipped", step.name, step.job.stage, run.run_id, facts=run.summary)


@contextmanager
def only_runner(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's lock: two processes never work in one run folder. Raises RecsysError
    when another one does.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    busy = RecsysError(
        f"run folder {run_dir}",
        found="another process is working in it",
        remedy="wait until it ends, or stop it",
    )
    with locks.alone(run_dir / LOCK, busy=busy):
        yield


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    checkout = Path(recsys_spark.__file__).parent.parent
    if not (
        checkout / ".git"
    ).exists():  # installed: a repository around it would be somebody else's
        return recsys_spark.__version__
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return recsys_spark.__version__
    return f"{recsys_spark.__version__}+{commit}"


def _context(
    pipeline: Pipeline, step: Step, inputs: dict[str, Run], lake: Lake, run_id: str, run_dir: Path
) -> Context:
    return Context(
        spark=lake.spark,
        lake=lake,
        env=pipeline.env,
        pipeline=pipeline.name,
        step=step.name,
        run_id=run_id,
        run_dir=run_dir,
        inputs={name: inputs[name] for name in step.needs},
        seed=pipeline.seed,
        now=time.time(),
    )
