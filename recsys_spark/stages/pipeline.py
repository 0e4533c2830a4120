"""Run steps in order, skip what is done, record what completed.

A step's key is the fingerprint of its configuration and of the runs it builds on, so equal keys mean equal results; its run id
is made from the key. A step that was killed runs again under the same id and replaces what it had written. Only a
completed step gets a row in `runs`, and readers take the table versions which that row names.
"""

from __future__ import annotations

import fcntl
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import recsys_spark
from recsys_spark.core import artifacts, log
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.lake import session
from recsys_spark.lake.tables import Lake
from recsys_spark.stages.context import Context, Outcome
from recsys_spark.stages.steps import Pipeline, Step, missing, references

logger = log.get(__name__)


@dataclass(frozen=True)
class Event:
    """What a listener hears of a step. kind: `start`, `done`, `skipped`, `planned`."""

    kind: str
    step: str
    stage: str
    run_id: str
    seconds: float = 0.0
    facts: dict[str, Any] | None = None


Listener = Callable[[Event], None]


def open_lake(pipeline: Pipeline) -> Lake:
    return Lake(session.session(pipeline.env.spark, f"recsys_spark {pipeline.name}"), pipeline.env.lake)


def run(pipeline: Pipeline, steps: list[Step], *, lake: Lake, listener: Listener, force: bool = False) -> dict[str, Run]:
    """Run the steps in order; a step whose key has a completed run is skipped. Returns {step: its completed run}."""
    done = completed(lake)
    runs: dict[str, Run] = {}
    for step in steps:
        key = step_key(step, pipeline.seed, runs)
        earlier = done.get(key)
        if earlier is not None and Path(earlier.run_dir).is_dir() and not force:
            runs[step.name] = earlier
            listener(Event("skipped", step.name, step.job.stage, earlier.run_id, facts=earlier.summary))
            continue
        runs[step.name] = execute(pipeline, step, runs, lake=lake, key=key, run_id=run_id_of(step.name, key), listener=listener)
    return runs


def kept(pipeline: Pipeline, steps: list[Step], *, lake: Lake) -> dict[str, Run]:
    """{step: its completed run} of the steps that `run` would skip. Runs nothing."""
    done = completed(lake)
    runs: dict[str, Run] = {}
    for step in steps:
        if all(name in runs for name in step.needs):
            earlier = done.get(step_key(step, pipeline.seed, runs))
            if earlier is not None and Path(earlier.run_dir).is_dir():
                runs[step.name] = earlier
    return runs


def dry_run(pipeline: Pipeline, steps: list[Step], *, lake: Lake, listener: Listener) -> None:
    """Say of each step whether it is done, what it would cost where its inputs exist, or what it waits for. Starts no work."""
    done = completed(lake)
    runs: dict[str, Run] = {}
    for step in steps:
        waits = [name for name in step.needs if name not in runs]
        if waits:
            listener(Event("planned", step.name, step.job.stage, "", facts={"waits_for": ", ".join(waits)}))
            continue
        absent = missing(step)
        if absent:
            listener(Event("planned", step.name, step.job.stage, "", facts={"raw_files": absent}))
            continue
        key = step_key(step, pipeline.seed, runs)
        if key in done:
            runs[step.name] = done[key]
            listener(Event("skipped", step.name, step.job.stage, done[key].run_id, facts=done[key].summary))
            continue
        run_id = run_id_of(step.name, key)
        ctx = _context(pipeline, step, runs, lake, run_id, Path(pipeline.env.runs) / run_id)
        facts = step.module.plan(ctx, step.job) if hasattr(step.module, "plan") else {}
        listener(Event("planned", step.name, step.job.stage, run_id, facts=facts))


def execute(pipeline: Pipeline, step: Step, inputs: dict[str, Run], *, lake: Lake, key: str, run_id: str, listener: Listener) -> Run:
    """Run one step, whatever is done already, and record it."""
    run_dir = Path(pipeline.env.runs).absolute() / run_id
    with only_runner(run_dir):
        ctx = _context(pipeline, step, inputs, lake, run_id, run_dir)
        listener(Event("start", step.name, step.job.stage, run_id))
        artifacts.write_text(run_dir / "job.json", step.job.model_dump_json(indent=1) + "\n")
        outcome: Outcome = step.module.run(ctx, step.job)
        record = Run(
            run_id=run_id, pipeline=pipeline.name, step=step.name, stage=step.job.stage, key=key,
            config=step.job.model_dump(mode="json"), upstream={name: inputs[name].run_id for name in step.needs},
            input_versions=dict(ctx.read_versions), output_versions=outcome.tables, shard_fingerprint=outcome.shard_fingerprint,
            run_dir=str(run_dir), code_version=code_version(), seed=pipeline.seed,
            started_at=ctx.now, ended_at=time.time(), summary=outcome.summary,
        )
        lake.add_run(record)
        artifacts.write_model(run_dir / "run.json", record)
    listener(Event("done", step.name, step.job.stage, run_id, record.ended_at - record.started_at, outcome.summary))
    return record


def context(pipeline: Pipeline, step: Step, inputs: dict[str, Run], *, lake: Lake) -> Context:
    """That in which `run` would execute the step, once what it needs is done; its run folder is made."""
    run_id = run_id_of(step.name, step_key(step, pipeline.seed, inputs))
    run_dir = Path(pipeline.env.runs).absolute() / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    return _context(pipeline, step, inputs, lake, run_id, run_dir)


def completed(lake: Lake) -> dict[str, Run]:
    """{key: the last completed run}."""
    return {run.key: run for run in sorted(lake.runs(), key=lambda run: run.ended_at)}


def step_key(step: Step, seed: int, inputs: dict[str, Run]) -> str:
    """Fingerprint of the job, the seed, the runs it builds on and, where the stage reads raw files, of those."""
    named = references(step.job)
    job = step.job.model_dump(mode="json", exclude=set(named))
    upstream = {field: [inputs[name].run_id for name in names] for field, names in named.items()}
    source = step.module.source_fingerprint(step.job) if hasattr(step.module, "source_fingerprint") else ""
    return artifacts.fingerprint({"job": job, "seed": seed, "upstream": upstream, "source": source})


def run_id_of(name: str, key: str) -> str:
    return f"{name}-{key[:10]}"


@contextmanager
def only_runner(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's lock: two processes never work in one run folder. The lock ends with its process."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecsysError(f"run folder {run_dir}", found="another process is working in it",
                              remedy="wait until it ends, or stop it") from None
        yield


def code_version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    checkout = Path(recsys_spark.__file__).parent.parent
    if not (checkout / ".git").exists():  # installed: a repository around it would be somebody else's
        return recsys_spark.__version__
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return recsys_spark.__version__
    return f"{recsys_spark.__version__}+{commit}"


def _context(pipeline: Pipeline, step: Step, inputs: dict[str, Run], lake: Lake, run_id: str, run_dir: Path) -> Context:
    return Context(
        spark=lake.spark, lake=lake, env=pipeline.env, pipeline=pipeline.name, step=step.name, run_id=run_id, run_dir=run_dir,
        inputs={name: inputs[name] for name in step.needs}, seed=pipeline.seed, now=time.time(),
    )
