"""Builds the parts of a training from its job; each is checked before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys_spark.core import columns
from recsys_spark.core.contracts import ShardSet, TrainJob
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Gradient, Model, Sizes
from recsys_spark.train import phases
from recsys_spark.train.data import places
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.feed import enrich, features
from recsys_spark.train.feed.enrich import Stage
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves.carry import Carried
from recsys_spark.train.saves.saver import Saver
from recsys_spark.train.updates.sharded import Sharding
from recsys_spark.train.validation import base, make
from recsys_spark.train.validation.base import Validator


@dataclass
class Parts:
    """The parts that one rank's loop works with."""

    device: torch.device
    dtype: torch.dtype  # of the weights
    model: Model  # on the device
    sharding: Sharding  # which rows of large tables this rank holds
    reader: Reader
    enrich: list[Stage]  # stages that add draws to a batch
    carried: Carried  # state kept between batches
    validate: Validator
    metric: str  # the metric that chooses the best epoch
    sign: float  # 1.0: larger is better; -1.0: smaller is better
    phases: list[Gradient]
    epochs: int  # at most
    ctx: Context
    saver: Saver


def assemble(job: TrainJob, workers: Workers) -> Parts:
    """Build the parts. Raises ConfigError or ShardError when the job cannot be trained."""
    shards = places.load(job.shards, expect=job.shard_fingerprint)
    device = torch.device(f"cuda:{workers.local_rank}" if job.workers.device == "cuda" else "cpu")
    dtype = torch.float64 if job.train.dtype == "float64" else torch.float32
    model = _model(job, shards)
    sharding = Sharding(model, job, workers)
    model = model.to(device, dtype)
    metric, sign = base.monitor(job, model)
    validate: Validator = base.nothing
    if not job.phase_epochs and (job.train.choose == "best" or _held_out(shards)):
        validate = make.make(job, shards, model, workers, sharding.whole)
    reader = Reader(
        job.shards,
        "train",
        batch_size=job.train.batch_size,
        seed=job.seed,
        rank=workers.rank,
        num_ranks=workers.size,
        settings=job.train.reader,
    )
    model_phases = phases.of(model)
    planned = phases.planned(model_phases, job.train)
    # Schedules follow the planned training, even where it is repeated and stops at the epoch that
    # was best.
    ctx = Context(seed=job.seed, total_steps=planned * reader.steps, training=True)
    return Parts(
        device=device,
        dtype=dtype,
        model=model,
        sharding=sharding,
        reader=reader,
        enrich=enrich.stages(job, shards, model.draws()),
        carried=Carried(model.carries(), shards, workers, device, dtype),
        validate=validate,
        metric=metric,
        sign=sign,
        phases=model_phases,
        epochs=sum(job.phase_epochs) or planned,
        ctx=ctx,
        saver=Saver(job, workers.rank),
    )


def _held_out(shards: ShardSet) -> bool:
    """Whether the set was exported with validation events apart (`fit: train`)."""
    return columns.VALID in shards.parts or "targets" in shards.side


def _model(job: TrainJob, shards: ShardSet) -> Model:
    """The model with weights drawn from the seed, and with the shard set's fields of users and
    items.
    """
    sizes = Sizes(shards.num_users, shards.num_items, shards.statistics, shards.features)
    model = registry.build(job.model, job.config, sizes, job.seed)
    features.fill(model, job.shards, shards)
    if job.train.accumulate > 1 and model.couples_rows:
        raise ConfigError(
            "train.accumulate",
            found=job.train.accumulate,
            expected=f"1: a row's loss in {job.model} depends on the rows beside it",
            remedy="leave train.accumulate out, or lower train.batch_size",
        )
    return model
