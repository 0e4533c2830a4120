"""`recsys-spark plan`: a training measured for a moment on this machine, and what the model of train/forecast.py makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys_spark.stages import train_deep
from recsys_spark.stages.context import Context
from recsys_spark.train import entry, forecast, places
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
    """Measures steps of three sizes and the reader (some seconds), starts no rank. Raises what a training would refuse."""
    facts = train_deep.plan(ctx, job)
    made = train_deep.train_job(ctx, job)
    shards = places.load(made.shards, expect=made.shard_fingerprint)
    parameters, each = facts["parameters"], facts["examples_per_epoch"] // facts["rows"]
    torch.set_num_threads(entry.threads(made))
    batch = job.train.batch_size
    fixed_s, row_s = forecast.fit({size: forecast.step_s(made, size) for size in (max(batch // 4, 1), max(batch // 2, 1), batch)})
    cost = Cost(fixed_s, row_s, forecast.read_rows_per_s(made), parameters * train_deep.width(job.train),
                *train_deep.memory(made, shards, parameters))
    many = sorted(set(ranks))
    return Plan(job.model, batch, rows or facts["rows"], each, shards.virtual_shards, cost, network, faster,
                [forecast.forecast(cost, network, number, batch, each, faster) for number in many],
                [forecast.forecast(cost, network, number, batch * number, each, faster) for number in many])
