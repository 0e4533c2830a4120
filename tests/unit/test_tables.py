"""Embedding tables: row 0 is nobody."""

from __future__ import annotations

import torch

from recsys_spark.nn.tables import table


def test_row_0_is_zero_and_stays_zero():
    torch.manual_seed(1)
    made = table(400, 50, 0.1)
    assert made.weight.shape == (401, 50)
    assert not made.weight[0].any() and made.weight[1:].all()
    assert abs(made.weight[1:].std().item() - 0.1) < 0.003
    made(torch.tensor([0, 3])).sum().backward()
    assert not made.weight.grad[0].any() and made.weight.grad[3].all()
