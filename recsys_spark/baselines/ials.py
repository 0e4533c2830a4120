"""Implicit ALS with an unobserved weight and regularisation scaled by frequency, solved in blocks
on Spark.

Paper: Steffen Rendle, Walid Krichene, Li Zhang, Yehuda Koren. Revisiting the Performance of iALS on
    Item Recommendation Benchmarks. RecSys 2022 (doi:10.1145/3523227.3548486, arXiv 2110.14037);
    equations 1-6 are those of its section 2.2 and appendix A.
Differs: vectors of users are drawn, items are solved first and users last, so that a user's vector
    is what folding in gives
    (the paper draws both and solves items last); users and items without an event are left out
    of |U| and |I| and have the vector zero.

A half step is one Spark job: a task maps the other side's vectors and its own rows' events, solves
its rows exactly, and writes their vectors and their share of the Gram matrix as files that are
complete or absent; the driver adds the shares. The memory of a task is bounded by its block (about
125,000 events) and, for the other side, by `factors.WHOLE_BYTES`. Work per iteration: about events
* D^2 * 2 + (users + items) * D^3 / 3 multiplications, divided among the cores.

For: the ranking to beat on large sets: tuned it is level with or above every network measured here.
Needs: events.
Cold: a new user with a history is folded in; new items are never found.
Memory: 4 bytes * `dim` * (users + items), in blocks on the executors; the items' part in each
    scoring worker.
Not for: a hurry: the search is the most expensive of the baselines. Work grows with `dim` squared,
    and with its cube a row.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.least_squares import csr_blocks, half_steps
from recsys_spark.baselines.least_squares.csr_blocks import Side
from recsys_spark.baselines.least_squares.factors import Factors
from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import NormalEquations

TASK = "ranking"
logger = log.get(__name__)


class Config(Settings):
    dim: int = Field(64, ge=1)  # width of the factors
    unobserved: float = Field(0.1, gt=0)  # alpha_0, equation 4
    # Lambda* with the reference nu* = 1: lambda of equation 5 where the exponent is 1
    reg: float = Field(0.003, ge=0)
    # Nu: 0 regularises every row equally, 1 in proportion to its share in the loss
    exponent: float = Field(1.0, ge=0)
    iterations: int = Field(16, ge=1)  # sweeps over items and users
    init_std: float = Field(0.1, gt=0)  # sigma*, equation 6
    # Blocks of users and of items; 0: by the number of events. Changes the order of summation
    blocks: int = Field(0, ge=0)


@dataclass(frozen=True)
class Fitted:
    users: Factors
    items: Factors
    sides: tuple[Side, Side]  # users, items
    of_users: NormalEquations
    objective: tuple[float, ...]  # equation 2 after every half step


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: vectors of both sides, and the equations that fold in
    a user without fitted events. Raises RecsysError for singular equations.
    """
    # Next to the index: on storage that every executor can access
    work = folder.with_name(f".tmp-{folder.name}-work")
    shutil.rmtree(work, ignore_errors=True)  # left by a killed run
    try:
        fitted = fit(training, config, work)
        queries = half_steps.vectors(
            training.events.sparkSession,
            fitted.sides[0],
            fitted.users,
            row=c.QUERY_IDX,
            vector=artifact.VECTOR,
        )
        artifact.write_dot(
            folder,
            model="ials",
            items=fitted.items.whole(),
            queries=queries,
            popularity=np.concatenate(list(fitted.sides[1].lengths())).astype(np.float32),
            fold_in=fitted.of_users,
            gram=fitted.items.gram(),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "objective": fitted.objective[-1],
        "cold_items": training.num_items - fitted.sides[1].active,
    }


def fit(training: Training, config: Config, work: Path) -> Fitted:
    """Vectors as files under `work`."""
    began, spark = time.monotonic(), training.events.sparkSession
    users, items = csr_blocks.write(
        training.events,
        work,
        num_users=training.num_users,
        num_items=training.num_items,
        blocks=config.blocks,
    )
    of_users, of_items = _equations(config, users, items)
    logger.info(
        log.fields(
            model="ials",
            blocks=f"{users.blocks}+{items.blocks}",
            seconds=round(time.monotonic() - began, 1),
        )
    )
    # Equation 6
    user = half_steps.begin(
        spark,
        users,
        of_users,
        work / "users-0",
        dim=config.dim,
        seed=seeds.derive(training.seed, "ials"),
        scale=config.init_std / math.sqrt(config.dim),
    )
    objective = []
    for iteration in range(1, config.iterations + 1):
        began = time.monotonic()
        item = half_steps.solve(spark, items, user.factors, of_items, work / f"items-{iteration}")
        objective.append(item.fit + item.penalty + user.penalty)
        shutil.rmtree(user.factors.folder)
        user = half_steps.solve(spark, users, item.factors, of_users, work / f"users-{iteration}")
        objective.append(user.fit + user.penalty + item.penalty)
        if iteration < config.iterations:
            shutil.rmtree(item.factors.folder)
        logger.info(
            log.fields(
                model="ials",
                iteration=f"{iteration}/{config.iterations}",
                objective=objective[-1],
                seconds=round(time.monotonic() - began, 2),
            )
        )
    return Fitted(user.factors, item.factors, (users, items), of_users, tuple(objective))


def _equations(config: Config, users: Side, items: Side) -> tuple[NormalEquations, NormalEquations]:
    """(equations of user rows, equations of item rows): their solutions are the zeros of the
    derivative of equation 2 in the vectors.
    """
    shares = [
        # Share of each row in the loss: #_u and #_i
        (entries + config.unobserved * other.active)[entries > 0]
        for side, other in ((users, items), (items, users))
        for entries in side.lengths()
    ]
    # Appendix A, lambda from lambda*
    scale = sum(part.sum() for part in shares) / sum(
        (part**config.exponent).sum() for part in shares
    )
    equations = (
        NormalEquations(
            unobserved=config.unobserved,
            observed=1.0,
            pull=1.0,
            reg=config.reg * float(scale),
            exponent=config.exponent,
            offset=config.unobserved * other.active,
        )
        for other in (items, users)
    )
    return next(equations), next(equations)
