"""A shard set -> a trained model: checkpoints, metrics.jsonl and result.json in the run's folder.

A killed run resumes from its last checkpoint; a finished one is not trained again.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from recsys_spark.core import artifacts, columns, contracts, log
from recsys_spark.core import config as configuration
from recsys_spark.core.contracts import ShardSet, TrainJob, TrainResult
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Sizes
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, StepOf
from recsys_spark.pipeline.steps import Step
from recsys_spark.stages.bridge import artefact, configured, ranks_memory
from recsys_spark.stages.bridge.shard_set import FOLDER
from recsys_spark.stages.tuning import search
from recsys_spark.stages.tuning.search import Search
from recsys_spark.train import phases
from recsys_spark.train.data import places
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import placement, workers
from recsys_spark.train.saves.record import RESULT
from recsys_spark.train.updates import choice
from recsys_spark.train.validation.base import monitor

logger = log.get(__name__)
# folder in the run folder for the refit: the training on all events with the chosen epochs
REFIT = "refit"


class Job(context.Job):
    stage: Literal["train_deep"] = "train_deep"
    shards: Annotated[str, StepOf("export_shards", "link_shards")]
    # a step with `fit: train+valid`: the model is trained again on its shards, for the best number
    # of epochs
    refit: Annotated[str | None, StepOf("export_shards")] = None
    # A step with the same model: what it chose is trained anew on these shards, for its best number
    # of epochs. No validation event is needed, and none is used.
    again: Annotated[str | None, StepOf("train_deep")] = None
    model: str
    # Settings of the model's Config; defaults are filled in
    config: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    train: contracts.Train = contracts.Train()
    workers: contracts.Workers = contracts.Workers()
    search: Search | None = (
        None  # search over settings of `config`, and dotted ones of `train` (train.optim.lr)
    )

    @field_validator("config", mode="after")
    @classmethod
    def _of_the_model(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Raises ConfigError for an unknown model, key or value."""
        if "model" not in info.data:
            return value  # a missing or wrong `model` is reported separately
        model = info.data["model"]
        return configuration.validate(
            registry.find(model).Config, value, source=f"model {model}", key="config"
        ).model_dump(mode="json")

    @model_validator(mode="after")
    def _space_fits(self) -> Job:
        for setting in search.corners(self.search) if self.search else ():
            with_settings(self, setting)
        return self


def check_steps(step: Step, steps: dict[str, Step], where: str) -> None:
    """The shards have the model's layout; those of `refit` are the same with validation events."""
    job: Any = step.job
    configured.require_again(step, steps, where)
    shards: Any = steps[job.shards].job
    kind = registry.find(job.model)
    if shards.layout != kind.layout:
        raise ConfigError(
            f"{where}.shards",
            found=f"{job.shards}, of layout {shards.layout}",
            expected=f"layout {kind.layout}, which {job.model} reads",
        )
    if kind.layout == "profile" and shards.by != kind.by_of(job.config):
        raise ConfigError(
            f"{where}.shards",
            found=f"{job.shards}, profiles of {shards.by}s",
            expected=f"profiles of {kind.by_of(job.config)}s, which {job.model} reads",
        )
    if job.again is not None and job.refit is not None:
        raise ConfigError(
            f"{where}.refit",
            found=f"{job.refit}, beside again: {job.again}",
            expected="one of them",
        )
    if job.refit is None:
        return
    refit: Any = steps[job.refit].job
    if refit.fit != "train+valid":
        raise ConfigError(
            f"{where}.refit",
            found=f"{job.refit}, without the validation events",
            expected="an export_shards step with `fit: train+valid`",
        )
    for name in sorted(type(refit).model_fields.keys() - {"fit"}):
        value, wanted = getattr(refit, name), getattr(shards, name, None)
        if value != wanted:
            raise ConfigError(
                f"{where}.refit",
                found=f"{job.refit}, with {name}: {value}",
                expected=f"{wanted}, as in {job.shards}",
            )


def run(ctx: Context, job: Job) -> Outcome:
    """Trains the model. Raises ConfigError, ShardError, CheckpointError and WorkerError, as the
    launcher does.
    """
    search_facts: dict[str, Any] = {}
    if job.again is not None:
        job = with_settings(job, artefact.settings(ctx.inputs[job.again]))
    rank_job, _ = _checked(ctx, job)
    if job.search is not None:
        job, search_facts = _chosen(ctx, job, job.search)
        rank_job = train_job(ctx, job)
    if job.again is not None:
        epochs = tuple(ctx.inputs[job.again].summary["phase_epochs"])
        rank_job = rank_job.model_copy(update={"phase_epochs": epochs})
    result = _launch(ctx, rank_job)
    if job.refit is not None:
        result = _refitted(ctx, job, job.refit, result)
    summary = {
        "model": job.model,
        **job.config,
        **search_facts,
        **result.model_dump(mode="json", exclude={"run_id"}),
        "num_workers": job.workers.num_workers,
        "engine": workers.resolve(job.workers.engine, job.workers.num_workers),
        "shard_fingerprint": rank_job.shard_fingerprint,
    }
    logger.info(log.fields(stage="train_deep", **log.plain(summary), **result.best))
    return Outcome(
        tables=dict(ctx.inputs[job.shards].output_versions),
        shard_fingerprint=rank_job.shard_fingerprint,
        summary=summary,
    )


def prepare(ctx: Context, job: Job) -> Path:
    """Path of the job file, for ranks started by torchrun or horovodrun; `run` then reads their
    result, and refits in this process. Raises the errors that `run` raises before it starts a rank,
    and ConfigError for a search, which needs a training for each trial.
    """
    if job.search is not None:
        raise ConfigError(
            f"step {ctx.step}, search",
            found="a search",
            expected="settings that are chosen",
            remedy="run `recsys-spark tune`, write the "
            "best settings into the step, and remove its search",
        )
    rank_job, _ = _checked(ctx, job)
    return launch.prepare(rank_job)


def _refitted(ctx: Context, job: Job, refit: str, choice: TrainResult) -> TrainResult:
    """Trains the chosen model again, from the start, on training and validation events, for the
    best number of epochs of each phase. Metrics and curves stay those of `choice`, because no
    validation events are left.
    """
    rank_job = train_job(ctx, job, refit)
    rank_job = rank_job.model_copy(
        update={"run_dir": str(ctx.run_dir / REFIT), "phase_epochs": choice.phase_epochs}
    )
    return choice.model_copy(update={"checkpoint": f"{REFIT}/{_launch(ctx, rank_job).checkpoint}"})


def with_settings(job: Job, values: dict[str, Any]) -> Job:
    """The job with changed settings: names of the model's Config, or dotted names below `train`.
    Raises ConfigError.
    """
    config, train = dict(job.config), job.train.model_dump()
    for name, value in values.items():
        *path, last = name.split(".")
        if path[:1] != ["train"]:
            config[name] = value
            continue
        place = train
        for part in path[1:]:
            place = place[part] if isinstance(place.get(part), dict) else {}
        place[last] = value
    kind = registry.find(job.model).Config
    where = {"source": f"model {job.model}", "key": "search.space"}
    config = configuration.validate(kind, config, **where).model_dump(mode="json")
    checked = configuration.validate(
        contracts.Train, train, source=f"model {job.model}", key="search.space.train"
    )
    return job.model_copy(update={"config": config, "train": checked})


def _chosen(ctx: Context, job: Job, options: Search) -> tuple[Job, dict[str, Any]]:
    """(job with the best settings, facts of the search). A trial is judged by the validation metric
    of its best epoch. A killed trial resumes; the training of the best trial becomes the step's.
    """
    metric, _ = monitor(train_job(ctx, job), registry.find(job.model))
    if options.metric not in ("", metric):
        raise ConfigError(
            f"step {ctx.step}, search.metric",
            found=options.metric,
            expected=f"{metric}, by which the epochs are chosen",
            remedy="set train.monitor",
        )
    folder = ctx.run_dir / "trial"

    def named(values: dict[str, Any]) -> Path:
        return folder / artifacts.fingerprint(values)[:10]

    def trial(values: dict[str, Any]) -> float:
        rank_job = train_job(ctx, with_settings(job, values)).model_copy(
            update={"run_dir": str(named(values))}
        )
        value = _launch(ctx, rank_job).best[metric]
        best = search.leader(
            [*search.read(ctx.run_dir / search.TRIALS), {"values": values, "value": value}], metric
        )
        for other in folder.iterdir():
            if best is None or other != named(best["values"]):
                shutil.rmtree(other)
        return value

    best, facts = search.choose(ctx, job, options, metric, trial)
    if named(best).exists():
        _adopt(named(best), ctx.run_dir)
    shutil.rmtree(folder, ignore_errors=True)
    return with_settings(job, best), facts


def _adopt(trained: Path, run_dir: Path) -> None:
    """Moves a finished training into the run's folder. The result file is moved last: without it,
    after an interruption, the run trains again.
    """
    for path in sorted(trained.iterdir(), key=lambda path: path.name == RESULT):
        path.replace(run_dir / path.name)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Expected rows, steps and memory. Raises the errors that training would raise before its first
    step.
    """
    rank_job, shards = _checked(ctx, job)
    placement.check(rank_job)
    rows, train = shards.parts["train"].rows, job.train
    kind = registry.find(job.model)
    monitor(rank_job, kind)
    with torch.device("meta"):
        model = kind(
            kind.Config(**job.config),
            Sizes(shards.num_users, shards.num_items, shards.statistics, shards.features),
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fixed, window = ranks_memory.fixed_and_window(rank_job, shards, parameters)
    steps = math.ceil(rows / train.batch_size)
    model_phases = phases.of(model)
    chosen = [
        update
        for phase in model_phases
        for update in choice.updates(model, phase.groups, phase.optim or train.optim, train)
    ]
    # A search keeps the training of its best trial
    fits = (job.search.trials if job.search else 1) + (job.refit is not None)
    return {
        "model": job.model,
        "fits": fits,
        "rows": rows,
        "examples_per_epoch": rows * model.examples_per_row,
        "steps_per_epoch": steps,
        "steps": steps * phases.planned(model_phases, train),
        "parameters": parameters,
        "exchanged_bytes": choice.exchanged_bytes(parameters, chosen, ranks_memory.width(train)),
        **(choice.described(chosen) if chosen else {}),
        "num_workers": job.workers.num_workers,
        "worker_bytes": fixed + window // job.workers.num_workers,
    }


def train_job(ctx: Context, job: Job, step: str = "") -> TrainJob:
    """The job that the ranks read. step: an export_shards step to use instead of `job.shards`."""
    step = step or job.shards
    return TrainJob(
        run_id=ctx.run_id,
        run_dir=str(ctx.run_dir),
        shards=str(ctx.input_dir(step) / FOLDER),
        shard_fingerprint=ctx.inputs[step].shard_fingerprint,
        model=job.model,
        config=job.config,
        train=job.train,
        workers=job.workers,
        seed=ctx.seed,
    )


def _checked(ctx: Context, job: Job) -> tuple[TrainJob, ShardSet]:
    """(job of the ranks, its shard set), checked against the model. Raises ConfigError and
    ShardError.
    """
    rank_job = train_job(ctx, job)
    shards = places.load(rank_job.shards, expect=rank_job.shard_fingerprint)
    _fits(job, shards)
    return rank_job, shards


def _launch(ctx: Context, rank_job: TrainJob) -> TrainResult:
    if rank_job.workers.launch == "local":
        return launch.launch(rank_job)
    from recsys_spark.stages.bridge import launch_spark

    return launch_spark.train(ctx.spark, rank_job)


def _fits(job: Job, shards: ShardSet) -> None:
    kind = registry.find(job.model)
    if (
        kind.layout == "profile"
        and kind.task_of(job.config) == "rating"
        and columns.HELD_IDX not in {column.name for column in shards.columns}
    ):
        raise ConfigError(
            f"shards {job.shards!r} of model {job.model}",
            found="profiles without their values",
            expected="values to learn from and held-out ones to validate on",
            remedy="name an export_shards step with `label: value`",
        )
