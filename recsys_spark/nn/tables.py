"""Embedding tables over dense indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Table(nn.Embedding):
    """An embedding whose rows are gathered and whose gradients are added the fast way on a CPU; elsewhere torch's own."""

    def forward(self, index: Tensor) -> Tensor:
        """int (...) -> (..., D)"""
        return _Lookup.apply(self.weight, index) if index.device.type == "cpu" else super().forward(index)


def table(rows: int, dim: int, std: float) -> Table:
    """(rows + 1, dim), drawn from N(0, std); row 0 (padding, out-of-vocabulary) is zero and gets no gradient."""
    made = Table(rows + 1, dim, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(made.weight, std=std)
        made.weight[0] = 0.0
    return made


class _Lookup(torch.autograd.Function):
    """`embedding` with `index_add_` for its gradient: on a CPU torch's own loops over the rows one by one, this one sorts the
    indices and adds a row's gradients in the order in which they come, on any number of threads."""

    @staticmethod
    def forward(weight: Tensor, index: Tensor) -> Tensor:
        return weight.index_select(0, index.reshape(-1)).view(*index.shape, weight.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        weight, index = inputs
        ctx.save_for_backward(index)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        made = gradient.new_zeros(ctx.shape)
        made.index_add_(0, index.reshape(-1).long(), gradient.reshape(-1, ctx.shape[1]))  # int32 would take the slow way
        made[0] = 0.0
        return made, None
