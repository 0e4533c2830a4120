"""The next trial by Optuna's TPE sampler. The only file that imports optuna, which is an extra."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna

if TYPE_CHECKING:
    from recsys_spark.stages.tuning.search import Between, Choices

WORST = -1e9  # stands for a trial without a finite value


def draw(
    space: Mapping[str, Between | Choices],
    seed: int,
    earlier: Sequence[dict[str, Any]],
    sign: float,
) -> dict[str, Any]:
    """Settings after the `earlier` trials; sign: 1 where a larger value is better, else -1."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    distributions = {name: _distribution(values) for name, values in space.items()}
    for record in earlier:
        value = sign * record["value"]
        study.add_trial(
            optuna.trial.create_trial(
                params=record["values"],
                distributions=distributions,
                value=value if math.isfinite(value) else WORST,
            )
        )
    return dict(study.ask(distributions).params)


def _distribution(space: Between | Choices) -> optuna.distributions.BaseDistribution:
    if isinstance(space, tuple):
        return optuna.distributions.CategoricalDistribution(space)
    if space.whole:
        return optuna.distributions.IntDistribution(
            round(space.low), round(space.high), log=space.log
        )
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)
