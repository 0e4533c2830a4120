"""`recsys-spark plan`: a training measured for a moment on this machine, and what the model of train/forecast.py makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys_spark.core import shardset
from recsys_spark.models import registry
from recsys_spark.models.base import Sizes
from recsys_spark.stages import train_deep
from recsys_spark.stages.context import Context
from recsys_spark.train import entry, forecast
from recsys_spark.train.forecast import Cost, Forecast, Network


@dataclass(frozen=True)
class Plan:
    model: str
    batch_rows: int
    rows: int  # of an epoch
    examples_per_row: int
    virtual_shards: int
    cost: Cost
    network: Network
    faster: float
    same_batch: list[Forecast]  # the job's global batch, dealt over the ranks
    same_share: list[Forecast]  # the job's batch for every rank: the global one grows


def plan(ctx: Context, job: train_deep.Job, ranks: list[int], network: Network, *, rows: int = 0, faster: float = 1.0) -> Plan:
    """Measures steps of two sizes and the reader (some seconds), starts no rank. Raises what a training would refuse."""
    train_deep.plan(ctx, job)
    made = train_deep.train_job(ctx, job)
    shards = shardset.load(made.shards, expect=made.shard_fingerprint)
    kind = registry.find(job.model)
    with torch.device("meta"):
        model = kind(kind.Config(**job.config), Sizes(shards.num_users, shards.num_items, shards.statistics, shards.features))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    width = 8 if job.train.dtype == "float64" else 4
    torch.set_num_threads(entry.threads(made))
    batch = job.train.batch_size
    fixed_s, row_s = forecast.fit({size: forecast.step_s(made, size) for size in (max(batch // 4, 1), max(batch // 2, 1), batch)})
    cost = Cost(fixed_s, row_s, forecast.read_rows_per_s(made), parameters * width, *train_deep.memory(made, shards, parameters))
    many = sorted(set(ranks))
    each = model.examples_per_row
    return Plan(job.model, batch, rows or shards.parts["train"].rows, each, shards.virtual_shards, cost, network, faster,
                [forecast.forecast(cost, network, number, batch, each, faster) for number in many],
                [forecast.forecast(cost, network, number, batch * number, each, faster) for number in many])
