"""What the configuration of a pipeline says of its models and scores before anything has run: the
stages' `check_steps` asks this when the file is read.
"""

from __future__ import annotations

from typing import Any

from recsys_spark.baselines.fitting import registry as baselines
from recsys_spark.core.errors import ConfigError
from recsys_spark.etl import union
from recsys_spark.metrics.tasks import of_lists
from recsys_spark.pipeline.steps import Step

Steps = dict[str, Step]


def ancestors(step: Step, steps: Steps) -> set[str]:
    """Names of all steps that this one builds on."""
    above = set(step.needs)
    for name in step.needs:
        above |= ancestors(steps[name], steps)
    return above


def predicts(model: Any) -> str:
    """What the job of a train_* step makes its model for: `ranking`, `rating` or `click`."""
    if model.stage == "train_deep":
        return str(model_class(model.model).task_of(model.config))
    return baselines.task(model.model, baselines.find(model.model).Config(**model.config))


def model_class(name: str) -> Any:
    from recsys_spark.models import registry  # torch takes seconds: only where a step trains

    return registry.find(name)


def reads_items(model: Any) -> bool:
    """Whether it learns from the profiles of items, so that it has no list of a user to give."""
    if model.stage != "train_deep":
        return False
    kind = model_class(model.model)
    return bool(kind.layout == "profile" and kind.by_of(model.config) == "item")


def fitted_on_validation(model: Step, steps: Steps) -> str:
    """How to have the model not fitted on validation events; empty where it is not."""
    job: Any = model.job
    if job.stage != "train_deep":
        return f"set fit: train in {model.name}" if job.fit != "train" else ""
    if job.refit is not None:
        return f"leave out refit in {model.name}"
    fit = getattr(steps[job.shards].job, "fit", "train")
    return f"set fit: train in {job.shards}" if fit != "train" else ""


def require_again(step: Step, steps: Steps, where: str) -> None:
    """Raises ConfigError unless the step named by `again` has the same model, and this step no
    search of its own.
    """
    job: Any = step.job
    if job.again is None:
        return
    earlier: Any = steps[job.again].job
    if earlier.model != job.model:
        raise ConfigError(
            f"{where}.again",
            found=f"{job.again}, a step of model {earlier.model}",
            expected=f"one of model {job.model}",
        )
    if job.search is not None:
        raise ConfigError(
            f"{where}.search",
            found=f"a search beside again: {job.again}",
            expected="settings chosen once",
            remedy="leave out one of them",
        )


def task(score: Any, steps: Steps) -> str:
    """Of the job of a score step."""
    return str(score.task or predicts(steps[score.model].job))


def measured_as(score: Any, steps: Steps) -> str:
    """The kind of task in `metrics`: a ranking of candidates is one of its own."""
    if score.candidates is None:
        return task(score, steps)
    among: Any = steps[score.candidates].job
    return of_lists(among.among).name


def require_candidates(step: Step, steps: Steps, where: str, *, source: str, part: str) -> None:
    """Raises ConfigError unless the candidates that the step names are for this split and part."""
    job: Any = step.job
    drawn: Any = steps[job.candidates].job
    for field, wanted in (("source", source), ("part", part)):
        if (value := getattr(drawn, field)) != wanted:
            raise ConfigError(
                f"{where}.candidates",
                found=f"{job.candidates}, whose {field} is {value}",
                expected=f"candidates whose {field} is {wanted}",
            )


def require_lists(step: Step, steps: Steps, where: str) -> None:
    """Raises ConfigError where the model of a score step was fitted on united lists, and those that
    it is to rank lack one of them.
    """
    job: Any = step.job
    model: Any = steps[job.model].job
    if model.stage != "train_baseline" or not baselines.reads_union(model.model):
        return
    wanted = united(steps[model.candidates].job, steps)
    offered = united(steps[job.candidates].job, steps) if job.candidates else []
    if lacking := [name for name in wanted if name not in offered]:
        raise ConfigError(
            f"{where}.candidates",
            found=f"{job.candidates or 'none'}, without lists of {', '.join(lacking)}",
            expected=f"lists of {', '.join(wanted)}, which {job.model} is fitted on",
            remedy=f"unite lists of the same models, in the order of {model.candidates}",
        )


def united(candidates: Any, steps: Steps) -> list[str]:
    """The names of the lists that a candidates step unites; none for other candidates."""
    scores: list[Any] = [steps[name].job for name in candidates.of]
    models: list[Any] = [steps[score.model].job for score in scores]
    return union.named([model.model for model in models])
