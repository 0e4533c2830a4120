"""A pipeline file -> validated steps. Everything here happens before Spark starts.

    name: ml-1m
    seed: 1
    env: {lake: out/ml-1m/lake, runs: out/ml-1m/runs}
    steps:
      ingest: {stage: ingest, dataset: ml-1m}
      prepare: {stage: prepare, source: ingest}     # `source` names an earlier step
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Iterable

from pydantic import Field

from recsys_spark.core import config
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.stages.context import Env, Job, StepName


class Pipeline(Settings):
    """A pipeline file, merged. `data` holds what a data set's fragment gives; steps refer to it as ${data...}."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(1, ge=0)
    env: Env
    data: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Step:
    """One entry under `steps:`, validated by the Job class of its stage."""

    name: str
    module: ModuleType
    job: Job
    needs: tuple[str, ...]  # names of the steps that its references lead to


def stage_names() -> list[str]:
    """Every file in this folder that holds a `Job` and a `run` is a stage; the file name is its name."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if "\ndef run(ctx: Context" in file.read_text(encoding="utf-8"))


def load(path: str | Path, arguments: Iterable[str] = ()) -> tuple[Pipeline, dict[str, Step]]:
    """Read and validate a pipeline file. Raises ConfigError naming file, dotted key, value and the nearest valid name."""
    pipeline = config.validate(Pipeline, config.load(path, arguments), source=str(path))
    steps: dict[str, Step] = {}
    for name, values in pipeline.steps.items():
        steps[name] = _step(name, values, earlier=steps, source=str(path))
    return pipeline, steps


def parse(stage: str, values: dict[str, Any], *, source: str, key: str) -> tuple[ModuleType, Job]:
    """The stage's module and its validated job."""
    known = stage_names()
    if stage not in known:
        raise ConfigError(f"{source}, {key}.stage", found=repr(stage), expected=f"one of {', '.join(known)}{nearest(stage, known)}")
    module = importlib.import_module(f"recsys_spark.stages.{stage}")
    return module, config.validate(module.Job, values, source=source, key=key)


def references(job: Job) -> dict[str, tuple[str, ...]]:
    """{field: step names} for every field of the job that is marked as naming steps."""
    found: dict[str, tuple[str, ...]] = {}
    for name, field in type(job).model_fields.items():
        if any(isinstance(mark, StepName) for mark in field.metadata):
            value = getattr(job, name)
            found[name] = (value,) if isinstance(value, str) else tuple(value or ())
    return found


def closure(steps: dict[str, Step], wanted: Iterable[str]) -> list[Step]:
    """The wanted steps and all that they need, in the order of the file."""
    needed: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name not in needed:
            needed.add(name)
            queue.extend(steps[name].needs)
    return [step for name, step in steps.items() if name in needed]


def select(steps: dict[str, Step], *, stage: str | None = None, names: Iterable[str] = (), source: str = "the pipeline") -> list[str]:
    """Names of the steps to run: the given ones, else all of one stage, else all. Raises ConfigError when there is none."""
    names = list(names)
    for name in names:
        if name not in steps:
            raise ConfigError(f"step {name!r}", found=f"not in {source}", expected=f"one of {', '.join(steps)}{nearest(name, steps)}")
        if stage and steps[name].job.stage != stage:
            raise ConfigError(f"step {name!r}", found=f"stage {steps[name].job.stage}", expected=f"a step of stage {stage}")
    chosen = names or [name for name, step in steps.items() if stage in (None, step.job.stage)]
    if not chosen:
        stages = sorted({step.job.stage for step in steps.values()})
        raise ConfigError(source, found=f"no step of stage {stage}", expected=f"one of {', '.join(stages)}",
                          remedy=f"add a step with `stage: {stage}`")
    return chosen


def missing(step: Step) -> str:
    """What of its raw files has to be fetched or made first; empty: nothing. Raises DataError for a named folder that is not there."""
    return str(step.module.missing(step.job)) if hasattr(step.module, "missing") else ""


def _step(name: str, values: dict[str, Any], *, earlier: dict[str, Step], source: str) -> Step:
    if not isinstance(values, dict) or "stage" not in values:
        raise ConfigError(f"{source}, missing key steps.{name}.stage", expected=f"one of {', '.join(stage_names())}")
    module, job = parse(str(values["stage"]), values, source=source, key=f"steps.{name}")
    needs: list[str] = []
    for field, targets in references(job).items():
        for target in targets:
            if target not in earlier:
                known = ", ".join(earlier) or "there is none"
                raise ConfigError(f"{source}, steps.{name}.{field}", found=repr(target),
                                  expected=f"the name of an earlier step: {known}{nearest(target, earlier)}")
            needs.append(target)
    return Step(name, module, job, tuple(dict.fromkeys(needs)))
