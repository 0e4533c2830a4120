"""`recsys-spark plan`: measures some training steps on this machine and feeds the costs to the
model of train/forecast.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys_spark.pipeline.context import Context
from recsys_spark.stages import train_deep
from recsys_spark.stages.bridge import ranks_memory
from recsys_spark.train import entry, forecast
from recsys_spark.train.data import places
from recsys_spark.train.forecast import Cost, Forecast, Network


@dataclass(frozen=True)
class Plan:
    model: str
    batch_rows: int
    rows: int  # training rows of an epoch
    examples_per_row: int
    virtual_shards: int
    cost: Cost
    network: Network
    faster: float
    same_batch: list[Forecast]  # the job's batch divided among the ranks
    same_share: list[Forecast]  # the job's batch on every rank: the global batch grows


def plan(
    ctx: Context,
    job: train_deep.Job,
    ranks: list[int],
    network: Network,
    *,
    rows: int = 0,
    faster: float = 1.0,
) -> Plan:
    """Measures the reader and steps of three batch sizes (some seconds) without starting ranks.
    Raises the same errors as the checks of a training.
    """
    facts = train_deep.plan(ctx, job)
    train_job = train_deep.train_job(ctx, job)
    shards = places.load(train_job.shards, expect=train_job.shard_fingerprint)
    parameters, examples_per_row = facts["parameters"], facts["examples_per_epoch"] // facts["rows"]
    torch.set_num_threads(entry.threads(train_job))
    batch = job.train.batch_size
    fixed_s, row_s = forecast.fit(
        {
            size: forecast.step_s(train_job, size)
            for size in (max(batch // 4, 1), max(batch // 2, 1), batch)
        }
    )
    cost = Cost(
        fixed_s,
        row_s,
        forecast.read_rows_per_s(train_job),
        facts["exchanged_bytes"],
        *ranks_memory.fixed_and_window(train_job, shards, parameters),
    )
    many = sorted(set(ranks))
    return Plan(
        job.model,
        batch,
        rows or facts["rows"],
        examples_per_row,
        shards.virtual_shards,
        cost,
        network,
        faster,
        [
            forecast.forecast(cost, network, number, batch, examples_per_row, faster)
            for number in many
        ],
        [
            forecast.forecast(cost, network, number, batch * number, examples_per_row, faster)
            for number in many
        ],
    )
