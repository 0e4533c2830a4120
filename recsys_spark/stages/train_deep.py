"""A shard set -> a trained model: checkpoints, metrics.jsonl and result.json in the run's folder.

A killed run goes on from its last checkpoint; a finished one is not trained again.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from recsys_spark.core import artifacts, columns, contracts, log
from recsys_spark.core import config as configuration
from recsys_spark.core.contracts import ShardSet, TrainJob, TrainResult
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Sizes
from recsys_spark.stages import context, search
from recsys_spark.stages.context import Context, OptionalRef, Outcome, Ref
from recsys_spark.stages.search import Search
from recsys_spark.stages.shard_set import FOLDER
from recsys_spark.train import launch, phases, placement, places, validate, workers
from recsys_spark.train.record import RESULT

logger = log.get(__name__)
REFIT = "refit"  # folder in the run folder: the training on all events, after the one that chose the epochs
_PROCESS_BYTES = 600 << 20  # of a rank before it has any data: the interpreter and its libraries


class Job(context.Job):
    stage: Literal["train_deep"] = "train_deep"
    shards: Ref  # an export_shards or link_shards step
    refit: OptionalRef = None  # one with `fit: train+valid`: the model is trained once more, on that, for as many epochs as were best
    model: str
    config: dict[str, Any] = Field(default_factory=dict, validate_default=True)  # of the model's Config; defaults are written out
    train: contracts.Train = contracts.Train()
    workers: contracts.Workers = contracts.Workers()
    search: Search | None = None  # over settings of `config`, and dotted ones of `train` (train.optim.lr)

    @field_validator("config", mode="after")
    @classmethod
    def _of_the_model(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Raises ConfigError for an unknown model, key or value."""
        if "model" not in info.data:
            return value  # the missing or wrong `model` is reported by itself
        model = info.data["model"]
        return configuration.validate(registry.find(model).Config, value, source=f"model {model}", key="config").model_dump(mode="json")

    @model_validator(mode="after")
    def _space_fits(self) -> Job:
        for setting in search.corners(self.search) if self.search else ():
            with_settings(self, setting)
        return self


def run(ctx: Context, job: Job) -> Outcome:
    """Raises what launching raises: ConfigError, ShardError, CheckpointError, WorkerError."""
    made, _ = _checked(ctx, job)
    found: dict[str, Any] = {}
    if job.search is not None:
        job, found = _chosen(ctx, job, job.search)
        made = train_job(ctx, job)
    result = _launch(ctx, made)
    if job.refit is not None:
        result = _refitted(ctx, job, job.refit, result)
    summary = {"model": job.model, **job.config, **found, **result.model_dump(mode="json", exclude={"run_id"}),
               "num_workers": job.workers.num_workers, "engine": workers.resolve(job.workers.engine, job.workers.num_workers),
               "shard_fingerprint": made.shard_fingerprint}
    logger.info(log.fields(stage="train_deep", **log.plain(summary), **result.best))
    return Outcome(tables=dict(ctx.inputs[job.shards].output_versions), shard_fingerprint=made.shard_fingerprint, summary=summary)


def prepare(ctx: Context, job: Job) -> Path:
    """The file of the job, for ranks that torchrun or horovodrun starts; `run` then takes their result, and refits here. Raises what `run`
    raises before it starts a rank, and ConfigError for a search, which needs a training for each trial."""
    if job.search is not None:
        raise ConfigError(f"step {ctx.step}, search", found="a search", expected="settings that are chosen",
                          remedy="run `recsys-spark tune`, write the best settings into the step, and remove its search")
    made, _ = _checked(ctx, job)
    return launch.prepare(made)


def _refitted(ctx: Context, job: Job, refit: str, choice: TrainResult) -> TrainResult:
    """The model of the choice, trained anew with the validation events among the others, for as many epochs of each phase as were best.
    Metrics and curves stay those of the choice, for now nothing is left to validate on."""
    made = train_job(ctx, job, refit)
    made = made.model_copy(update={"run_dir": str(ctx.run_dir / REFIT), "phase_epochs": choice.phase_epochs})
    return choice.model_copy(update={"checkpoint": f"{REFIT}/{_launch(ctx, made).checkpoint}"})


def with_settings(job: Job, values: dict[str, Any]) -> Job:
    """The job with settings changed: names of the model's Config, or dotted ones below `train`. Raises ConfigError."""
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
    kind, where = registry.find(job.model).Config, {"source": f"model {job.model}", "key": "search.space"}
    config = configuration.validate(kind, config, **where).model_dump(mode="json")
    checked = configuration.validate(contracts.Train, train, source=f"model {job.model}", key="search.space.train")
    return job.model_copy(update={"config": config, "train": checked})


def _chosen(ctx: Context, job: Job, wanted: Search) -> tuple[Job, dict[str, Any]]:
    """The best settings by the best epoch's validation metric. A trial that was killed goes on; the best one's training is the step's."""
    metric, _ = validate.monitor(train_job(ctx, job), registry.find(job.model))
    if wanted.metric not in ("", metric):
        raise ConfigError(f"step {ctx.step}, search.metric", found=wanted.metric, expected=f"{metric}, by which the epochs are chosen",
                          remedy="set train.monitor")
    folder = ctx.run_dir / "trial"

    def named(values: dict[str, Any]) -> Path:
        return folder / artifacts.fingerprint(values)[:10]

    def trial(values: dict[str, Any]) -> float:
        made = train_job(ctx, with_settings(job, values)).model_copy(update={"run_dir": str(named(values))})
        value = _launch(ctx, made).best[metric]
        best = search.leader([*search.read(ctx.run_dir / search.TRIALS), {"values": values, "value": value}], metric)
        for other in folder.iterdir():
            if best is None or other != named(best["values"]):
                shutil.rmtree(other)
        return value

    best, facts = search.choose(ctx, job, wanted, metric, trial)
    if named(best).exists():
        _adopt(named(best), ctx.run_dir)
    shutil.rmtree(folder, ignore_errors=True)
    return with_settings(job, best), facts


def _adopt(trained: Path, run_dir: Path) -> None:
    """A finished training becomes the run's own. Its result comes last: cut short before that, the run would train again."""
    for path in sorted(trained.iterdir(), key=lambda path: path.name == RESULT):
        path.replace(run_dir / path.name)


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    """Rows, steps and memory to expect; refuses what training would refuse before its first step."""
    made, shards = _checked(ctx, job)
    placement.check(made)
    rows, train = shards.parts["train"].rows, job.train
    kind = registry.find(job.model)
    validate.monitor(made, kind)
    with torch.device("meta"):
        model = kind(kind.Config(**job.config), Sizes(shards.num_users, shards.num_items, shards.statistics, shards.features))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fixed, window = memory(made, shards, parameters)
    steps = math.ceil(rows / train.batch_size)
    fits = (job.search.trials if job.search else 1) + (job.refit is not None)  # a search keeps the training of its best trial
    return {"model": job.model, "fits": fits, "rows": rows, "examples_per_epoch": rows * model.examples_per_row,
            "steps_per_epoch": steps, "steps": steps * phases.planned(phases.of(model), train), "parameters": parameters,
            "num_workers": job.workers.num_workers,
            "worker_bytes": fixed + window // job.workers.num_workers}


def width(train: contracts.Train) -> int:
    """Bytes of a weight."""
    return 8 if train.dtype == "float64" else 4


def memory(job: TrainJob, shards: ShardSet, parameters: int) -> tuple[int, int]:
    """(bytes of each rank whatever it reads, bytes of the windows that all ranks together hold of the shard set)."""
    copies = 4 + (job.workers.num_workers > 1)  # weights, gradients, two moments; a buffer to add gradients over the workers
    copies += 3 * job.train.checkpoint_async
    part = shards.parts["train"]
    shards_rows = ([file.row_groups[number] for file, number in dealt] for dealt in part.dealt(shards.virtual_shards) if dealt)
    window = sum(min(sum(rows), max(rows) * job.train.reader.window_row_groups) for rows in shards_rows)
    return _PROCESS_BYTES + parameters * width(job.train) * copies, int(sum(file.bytes for file in part.files) * window / max(part.rows, 1))


def train_job(ctx: Context, job: Job, step: str = "") -> TrainJob:
    """step: the export_shards step, where not the job's `shards`."""
    step = step or job.shards
    return TrainJob(run_id=ctx.run_id, run_dir=str(ctx.run_dir), shards=str(ctx.input_dir(step) / FOLDER),
                    shard_fingerprint=ctx.inputs[step].shard_fingerprint, model=job.model, config=job.config, train=job.train,
                    workers=job.workers, seed=ctx.seed)


def _checked(ctx: Context, job: Job) -> tuple[TrainJob, ShardSet]:
    """The job of the ranks and what it reads, both as the model wants them. Raises ConfigError, ShardError."""
    made = train_job(ctx, job)
    shards = places.load(made.shards, expect=made.shard_fingerprint)
    _fits(job, shards)
    if job.refit is not None:
        _fits_again(ctx, job, job.refit)
    return made, shards


def _launch(ctx: Context, made: TrainJob) -> TrainResult:
    if made.workers.launch == "local":
        return launch.launch(made)
    from recsys_spark.stages import launch_spark

    return launch_spark.train(ctx.spark, made)


def _fits(job: Job, shards: ShardSet) -> None:
    kind = registry.find(job.model)
    layout, by, rating = kind.layout, kind.by_of(job.config), kind.task_of(job.config) == "rating"
    if shards.layout != layout:
        raise ConfigError(f"shards {job.shards!r} of model {job.model}", found=f"layout {shards.layout}", expected=f"layout {layout}",
                          remedy=f"name an export_shards step with `layout: {layout}`")
    if layout == "profile" and shards.by != by:
        raise ConfigError(f"shards {job.shards!r} of model {job.model}", found=f"profiles of {shards.by}s", expected=f"profiles of {by}s",
                          remedy=f"name an export_shards step with `by: {by}`")
    if layout == "profile" and rating and columns.HELD_IDX not in {column.name for column in shards.columns}:
        raise ConfigError(f"shards {job.shards!r} of model {job.model}", found="profiles without their values",
                          expected="values to learn from and held-out ones to validate on",
                          remedy="name an export_shards step with `label: value`")


def _fits_again(ctx: Context, job: Job, refit: str) -> None:
    thing, run = f"step {ctx.step}, refit", ctx.inputs[refit]
    if run.config.get("fit") != "train+valid":
        raise ConfigError(thing, found=f"{refit}, without the validation events", expected="an export_shards step with `fit: train+valid`")
    ours, theirs = (ctx.inputs[step].config for step in (job.shards, refit))
    for name in sorted((ours.keys() | theirs.keys()) - {"fit"}):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(f"{thing}, {name} of {refit}", found=theirs.get(name), expected=f"{ours.get(name)}, as in {job.shards}")
