"""Targets told from sampled items by the difference of their scores.

Paper: Steffen Rendle, Christoph Freudenthaler, Zeno Gantner, Lars Schmidt-Thieme. BPR: Bayesian
Personalized Ranking from Implicit Feedback. UAI 2009, arXiv:1205.2618 (section 4.1).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def bpr(positive: Tensor, negative: Tensor, hit: Tensor) -> Tensor:
    """Sum over P targets of the mean over their N sampled items of -log sigmoid(positive -
    negative); scalar.

    positive (P,), negative (P, N): scores. hit bool (P, N): the sampled item is the target itself,
    and does not count.
    """
    losses = -logsigmoid(positive.unsqueeze(1) - negative).masked_fill(hit, 0.0)
    return (losses.sum(1) / (~hit).sum(1).clamp(min=1)).sum()
