"""A pipeline file -> validated steps. Everything here happens before Spark starts.

name: ml-1m
seed: 1
env: {lake: out/ml-1m/lake, runs: out/ml-1m/runs}
steps:
  ingest: {stage: ingest, dataset: ml-1m}
  prepare: {stage: prepare, source: ingest}     # `source` names an earlier step
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Iterable

from pydantic import Field

from recsys_spark.core import config, plugins
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.pipeline import production
from recsys_spark.pipeline.context import Env, Job, StepOf
from recsys_spark.pipeline.production import Production

STAGES = "recsys_spark.stages"  # by name: no layer imports one above it


class Pipeline(Settings):
    """A pipeline file, merged. `data` holds what a data set's fragment gives; steps refer to it as
    ${data...}.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(1, ge=0)
    env: Env
    data: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(min_length=1)
    production: Production | None = None


@dataclass(frozen=True)
class Step:
    """One entry under `steps:`, validated by the Job class of its stage."""

    name: str
    module: ModuleType
    job: Job
    needs: tuple[str, ...]  # names of the steps that its references lead to


def stage_names() -> list[str]:
    """Every file right in `stages/` is a stage, with a `Job` and a `run`, and gives it its name."""
    return plugins.names(STAGES)


def read(path: str | Path, arguments: Iterable[str] = ()) -> Pipeline:
    """A pipeline file whose steps are not validated yet."""
    return config.validate(Pipeline, config.load(path, arguments), source=str(path))


def load(
    path: str | Path, arguments: Iterable[str] = (), *, in_production: bool = False
) -> tuple[Pipeline, dict[str, Step]]:
    """Read and validate a pipeline file; `in_production` adds the steps that publish what it chose.
    Raises ConfigError naming file, dotted key, value and the nearest valid name, or steps that do
    not fit together.
    """
    pipeline = read(path, arguments)
    extra = _of_production(pipeline, str(path), in_production)
    steps: dict[str, Step] = {}
    for name, values in (pipeline.steps | extra).items():
        steps[name] = _step(name, values, earlier=steps, source=str(path))
        require_fitting(steps[name], steps, f"{path}, steps.{name}")
    return pipeline, steps


def _of_production(pipeline: Pipeline, source: str, wanted: bool) -> dict[str, dict[str, Any]]:
    if not wanted:
        return {}
    if pipeline.production is None:
        scored = [name for name, step in pipeline.steps.items() if step.get("stage") == "score"]
        raise ConfigError(
            f"{source}, production",
            found="nothing",
            expected="the step whose model was chosen, by its validation figures",
            remedy=f"add `production: {{score: STEP}}`, with one of {', '.join(scored) or 'none'}",
        )
    return production.added(pipeline.steps, pipeline.production, source)


def require_fitting(step: Step, steps: dict[str, Step], where: str) -> None:
    """Raises ConfigError where a step does not fit what it names, as far as the configuration alone
    says it: what a stage would refuse after hours of training is refused when the file is read.

    A stage that has more to ask than the stages of what it names does so in a function
    `check_steps(step, steps, where)`.
    """
    for field, stages in _named_stages(step.job).items():
        for name in references(step.job)[field]:
            if (stage := steps[name].job.stage) not in stages:
                raise ConfigError(
                    f"{where}.{field}",
                    found=f"{name}, a step of stage {stage}",
                    expected=f"one of stage {', '.join(stages)}",
                )
    if hasattr(step.module, "check_steps"):
        step.module.check_steps(step, steps, where)


def parse(stage: str, values: dict[str, Any], *, source: str, key: str) -> tuple[ModuleType, Job]:
    """The stage's module and its validated job."""
    known = stage_names()
    if stage not in known:
        raise ConfigError(
            f"{source}, {key}.stage",
            found=repr(stage),
            expected=f"one of {', '.join(known)}{nearest(stage, known)}",
        )
    module = plugins.load(STAGES, stage)
    return module, config.validate(module.Job, values, source=source, key=key)


def references(job: Job) -> dict[str, tuple[str, ...]]:
    """{field: step names} for every field of the job that is marked as naming steps."""
    names: dict[str, tuple[str, ...]] = {}
    for field in _named_stages(job):
        value = getattr(job, field)
        names[field] = (value,) if isinstance(value, str) else tuple(value or ())
    return names


def _named_stages(job: Job) -> dict[str, tuple[str, ...]]:
    """{field that names steps: the stages that these may be of}."""
    return {
        name: mark.stages
        for name, field in type(job).model_fields.items()
        for mark in field.metadata
        if isinstance(mark, StepOf)
    }


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


def select(
    steps: dict[str, Step],
    *,
    stage: str | None = None,
    patterns: Iterable[str] = (),
    exclude: Iterable[str] = (),
    failed: Collection[str] = (),
    source: str = "the pipeline",
) -> list[str]:
    """Names of the steps to run: what the patterns match, else all of one stage, else all; without
    those that `exclude` matches and all that build on them. `failed`: steps for `state:failed`.
    Raises ConfigError when there is none.
    """
    patterns = list(patterns)
    chosen = dict.fromkeys(
        name for pattern in patterns for name in matching(steps, pattern, failed, source)
    )
    for name in chosen:
        if stage and steps[name].job.stage != stage:
            raise ConfigError(
                f"step {name!r}",
                found=f"stage {steps[name].job.stage}",
                expected=f"a step of stage {stage}",
            )
    if not patterns:
        chosen = dict.fromkeys(matching(steps, f"stage:{stage}", (), source) if stage else steps)
    left_out = {
        name
        for pattern in exclude
        for match in matching(steps, pattern, failed, source)
        for name in (match, *built_on(steps, match))
    }
    names = [name for name in chosen if name not in left_out]
    if not names:
        raise ConfigError(
            source,
            found="no step left to run" if left_out else "no step that failed last",
            expected="at least one",
            remedy="leave out --exclude" if left_out else "run it without state:failed",
        )
    return names


def matching(
    steps: dict[str, Step], pattern: str, failed: Collection[str], source: str
) -> list[str]:
    """The steps that a pattern matches: `name`, `name+` (it and all that build on it),
    `stage:NAME`, or `state:failed`. What a step needs comes along anyway, so that `+name` is
    `name`. Raises ConfigError.
    """
    if pattern == "state:failed":
        return [name for name in steps if name in failed]
    if pattern.startswith("stage:"):
        stage = pattern.removeprefix("stage:")
        stages = sorted({step.job.stage for step in steps.values()})
        if stage not in stages:
            raise ConfigError(
                source,
                found=f"no step of stage {stage}",
                expected=f"one of {', '.join(stages)}{nearest(stage, stages)}",
                remedy=f"add a step with `stage: {stage}`" if stage in stage_names() else "",
            )
        return [name for name, step in steps.items() if step.job.stage == stage]
    name = pattern.removeprefix("+").removesuffix("+")
    if name not in steps:
        raise ConfigError(
            f"step {name!r}",
            found=f"not in {source}",
            expected=f"one of {', '.join(steps)}{nearest(name, steps)}",
        )
    return [name, *(built_on(steps, name) if pattern.endswith("+") else ())]


def built_on(steps: dict[str, Step], name: str) -> list[str]:
    """The steps that need `name`, directly or through others, in the order of the file."""
    below = {name}
    for step in steps.values():  # a step stands after those that it needs
        if below.intersection(step.needs):
            below.add(step.name)
    return [other for other in steps if other in below and other != name]


def missing(step: Step) -> str:
    """What of its raw files has to be fetched or made first; empty: nothing. Raises DataError for a
    named folder that is not there.
    """
    return str(step.module.missing(step.job)) if hasattr(step.module, "missing") else ""


def _step(name: str, values: dict[str, Any], *, earlier: dict[str, Step], source: str) -> Step:
    if not isinstance(values, dict) or "stage" not in values:
        raise ConfigError(
            f"{source}, missing key steps.{name}.stage",
            expected=f"one of {', '.join(stage_names())}",
        )
    module, job = parse(str(values["stage"]), values, source=source, key=f"steps.{name}")
    needs: list[str] = []
    for field, targets in references(job).items():
        for target in targets:
            if target not in earlier:
                known = ", ".join(earlier) or "there is none"
                raise ConfigError(
                    f"{source}, steps.{name}.{field}",
                    found=repr(target),
                    expected=f"the name of an earlier step: {known}{nearest(target, earlier)}",
                )
            needs.append(target)
    return Step(name, module, job, tuple(dict.fromkeys(needs)))
