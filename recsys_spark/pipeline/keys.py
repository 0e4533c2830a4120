"""A step's key, and the completed run that stands for the step.

The key is the fingerprint of the step's configuration and of the runs it builds on, so equal keys
mean equal results.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from recsys_spark.core import artifacts
from recsys_spark.core.contracts import VERSION, Run
from recsys_spark.pipeline.steps import Pipeline, Step, references

DAY_S = 86_400


class Recorded(Protocol):
    """A lake, of which only the completed runs are asked."""

    def runs(self) -> list[Run]: ...


def completed(lake: Recorded) -> dict[str, Run]:
    """{key: the last completed run}."""
    return {run.key: run for run in sorted(lake.runs(), key=lambda run: run.ended_at)}


def finished(done: dict[str, Run], key: str) -> Run | None:
    """The run that stands for a step with this key: completed, and its run folder is there."""
    run = done.get(key)
    return run if run is not None and Path(run.run_dir).is_dir() else None


def standing(
    pipeline: Pipeline, steps: list[Step], lake: Recorded, force: Collection[str] = ()
) -> dict[str, Run]:
    """{step: the run that stands for it}, of those that are run every so many days: the last one,
    completed since, of the same settings, seed and versions.
    """
    rare = [step for step in steps if step.job.every_days and step.name not in force]
    recorded = lake.runs() if rare else []
    stand = {}
    for step in rare:
        since = time.time() - step.job.every_days * DAY_S
        for run in reversed(recorded):
            if (run.pipeline, run.step) != (pipeline.name, step.name) or run.ended_at <= since:
                continue
            # What it was built on may differ, all else that its key is made of may not
            same = run.key == _key(step, pipeline, run.upstream)
            if same and Path(run.run_dir).is_dir():
                stand[step.name] = run
                break
    return stand


def needed(steps: list[Step], standing: Collection[str], force: Collection[str] = ()) -> list[Step]:
    """The steps without those that only standing ones need."""
    needs: set[str] = set(force)
    wanted = []
    named = {name for step in steps for name in step.needs}
    for step in reversed(steps):
        if step.name in needs or step.name not in named:
            wanted.append(step)
            needs |= set() if step.name in standing else set(step.needs)
    return wanted[::-1]


def step_key(step: Step, pipeline: Pipeline, inputs: dict[str, Run]) -> str:
    """Fingerprint of the job, the seed, the runs it builds on, where the stage reads raw files of
    those, and of the versions of the contracts and of the stage.

    A stage whose results change for an equal job counts up its constant STAGE_VERSION (1 where it
    has none): then its earlier runs, and all that build on them, no longer stand for new ones.
    """
    return _key(step, pipeline, {name: inputs[name].run_id for name in step.needs})


def _key(step: Step, pipeline: Pipeline, run_ids: Mapping[str, str]) -> str:
    """run_ids: {step: its run}, of those that this one builds on."""
    named = references(step.job)
    # When a step is run changes nothing of what it gives
    job = step.job.model_dump(mode="json", exclude={*named, "every_days"})
    upstream = {field: [run_ids.get(name) for name in names] for field, names in named.items()}
    source = (
        step.module.source_fingerprint(step.job, Path(pipeline.env.runs))
        if hasattr(step.module, "source_fingerprint")
        else ""
    )
    versions = {"contracts": VERSION, "stage": getattr(step.module, "STAGE_VERSION", 1)}
    return artifacts.fingerprint(
        {
            "job": job,
            "seed": pipeline.seed,
            "upstream": upstream,
            "source": source,
            "versions": versions,
        }
    )


def run_id_of(name: str, key: str) -> str:
    return f"{name}-{key[:10]}"
