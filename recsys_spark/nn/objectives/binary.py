"""Targets told from sampled items one by one: binary cross entropy, and its calibrated form.

Paper: Aleksandr Petrov, Craig Macdonald. gSASRec: Reducing Overconfidence in Sequential
Recommendation Trained with Negative Sampling. RecSys 2023, arXiv:2308.07192 (gBCE, equations 10 to
12).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def exponent(negatives: int, others: int, calibration: float) -> float:
    """beta of gBCE, in double precision: calibration 0 gives 1, the plain cross entropy, whose
    probabilities are too high by the share of items that are sampled; 1 gives that share itself,
    and true probabilities.

    negatives: sampled for a target, of `others` items that could be.
    """
    share = min(1.0, negatives / max(1, others))
    return share * (calibration * (1.0 - 1.0 / share) + 1.0 / share)


def cross_entropy(positive: Tensor, negative: Tensor, hit: Tensor, beta: float = 1.0) -> Tensor:
    """Sum over P targets: -log sigmoid(positive) * beta - sum of log sigmoid(-negative); scalar.

    positive (P,), negative (P, N): scores. hit bool (P, N): the sampled item is the target itself,
    and does not count.
    """
    others = logsigmoid(-negative).masked_fill(hit, 0.0)
    return -beta * logsigmoid(positive).sum() - others.sum()
