"""Embedding tables over dense indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Table(nn.Embedding):
    """An embedding whose rows are gathered and whose gradients are added the fast way on a CPU; elsewhere torch's own."""

    def forward(self, index: Tensor) -> Tensor:
        """int (...) -> (..., D)"""
        return _Lookup.apply(self.weight, index.long(), False)[0] if index.device.type == "cpu" else super().forward(index)

    def with_square(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows, and the squared norm of all of them together: a regulariser that costs no pass of its own in backward."""
        if index.device.type == "cpu":
            return _Lookup.apply(self.weight, index.long(), True)
        rows = super().forward(index)
        return rows, rows.square().sum()


def table(rows: int, dim: int, std: float) -> Table:
    """(rows + 1, dim), drawn from N(0, std); row 0 (padding, out-of-vocabulary) is zero and gets no gradient."""
    made = Table(rows + 1, dim, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(made.weight, std=std)
        made.weight[0] = 0.0
    return made


def products(users: Tensor, items: Tensor) -> Tensor:
    """Dot products of (B, D) with the items (C, D) of all, or (B, C, D) of each. (B, C)"""
    return users @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", users, items)


class _Lookup(torch.autograd.Function):
    """`embedding` with `index_add_` for its gradient: on a CPU torch's own loops over the rows one by one, this one sorts the
    indices and adds a row's gradients in the order in which they come, on any number of threads. (int32 would take the slow way.)"""

    @staticmethod
    def forward(weight: Tensor, index: Tensor, square: bool) -> tuple[Tensor, Tensor]:
        rows = weight.index_select(0, index.reshape(-1)).view(*index.shape, weight.shape[1])
        return rows, torch.dot(rows.view(-1), rows.view(-1)) if square else rows.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        weight, index, _ = inputs
        ctx.save_for_backward(index, output[0])
        ctx.shape = weight.shape
        ctx.set_materialize_grads(False)  # None where the rows or their square play no part

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor | None, of_square: Tensor | None) -> tuple[Tensor | None, None, None]:
        index, rows = ctx.saved_tensors
        if of_square is not None:
            of_rows = 2.0 * of_square * rows if of_rows is None else torch.addcmul(of_rows, rows, of_square, value=2.0)
        if of_rows is None:
            return None, None, None
        made = of_rows.new_zeros(ctx.shape)
        made.index_add_(0, index.reshape(-1), of_rows.reshape(-1, ctx.shape[1]))
        made[0] = 0.0
        return made, None, None
