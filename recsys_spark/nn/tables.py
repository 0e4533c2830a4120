"""Embedding tables over dense indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Table(nn.Embedding):
    """An embedding with a faster gather and gradient on a CPU; on other devices it is torch's own.

    `sparse`: it changes by rows, so its gradient consists of the rows that were looked up.
    `fetch`: in place of the weight, where that holds only some of the rows or changes by rows, it
    returns the rows of an index, (R, D) with row 0 first, and the position of each index in them.
    `per_example`: number of rows that an example looks up, at most.
    """

    fetch: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    per_example = 1

    def forward(self, index: Tensor) -> Tensor:
        """int (...) -> (..., D)"""
        return self._look_up(index.long(), False)[0]

    def with_squares(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows, (..., D), and the squared norm of each, (...): a regulariser without a separate
        backward pass.
        """
        rows, squares = self._look_up(index.long(), True)
        return rows, rows.square().sum(-1) if squares is None else squares

    def _look_up(self, index: Tensor, squares: bool) -> tuple[Tensor, Tensor | None]:
        weight: Tensor = self.weight
        if self.fetch is not None:
            weight, index = self.fetch(index)
        if index.device.type == "cpu":
            return _Lookup.apply(weight, index, squares)
        return F.embedding(index, weight, self.padding_idx), None


def table(rows: int, dim: int, std: float) -> Table:
    """(rows + 1, dim), drawn from N(0, std); row 0 (padding, out-of-vocabulary) is zero and gets no
    gradient.
    """
    embedding = Table(rows + 1, dim, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(embedding.weight, std=std)
        embedding.weight[0] = 0.0
    return embedding


def tables(model: nn.Module) -> list[Table]:
    return [module for module in model.modules() if isinstance(module, Table)]


class Distinct(NamedTuple):
    """The distinct indices of a batch: what depends on an index alone is computed once, however
    often the index occurs.
    """

    each: Tensor  # int (R,)
    # int64 (B,): position in `each` of every row's index; None: `each` is the batch's own index
    place: Tensor | None

    def spread(self, values: Tensor) -> Tensor:
        """(R, ...) of the distinct indices -> (B, ...) of the rows of the batch."""
        return values if self.place is None else values.index_select(0, self.place)


def distinct(index: Tensor) -> Distinct:
    """The distinct values of int (B,), in ascending order. On a GPU the index is returned as it is:
    `unique` would wait for the CPU, and the work saved is small there.
    """
    return Distinct(*unique(index)) if index.device.type == "cpu" else Distinct(index, None)


def unique(index: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of int (B,), in ascending order, and the position of each index in them,
    int64 (B,).
    """
    on_cpu = index.device.type == "cpu"
    size = 1 + int(index.max()) if on_cpu and len(index) else 0
    if not on_cpu or size > 4 * len(index):
        return index.unique(return_inverse=True)
    # A small range of indices: marking them takes a fifth of the time of sorting
    indices = index.long()
    present = indices.new_zeros(size).index_fill_(0, indices, 1)
    each = present.nonzero()[:, 0].to(index.dtype)
    return each, present.cumsum_(0).sub_(1).index_select(0, indices)


def products(users: Tensor, items: Tensor) -> Tensor:
    """(B, C): dot products of (B, D) with items (C, D), the same for all rows, or (B, C, D), per
    row.
    """
    return users @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", users, items)


def few_products(users: Tensor, items: Tensor) -> Tensor:
    """(B, C): dot products of (B, D) with (B, C, D) for a small C, in training."""
    return (
        _FewProducts.apply(users, items) if users.device.type == "cpu" else products(users, items)
    )


class _FewProducts(torch.autograd.Function):
    """In the backward pass of many tiny matrix products torch takes up to five times as long as
    adding the items one after the other.
    """

    # No `setup_context`: with it torch binds the arguments of each call by the signature, which
    # takes as long as the gather.
    # `custom_fwd`: autocast would compute the product in bfloat16, and backward, to which autocast
    # does not apply, cannot mix the two dtypes.
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, users: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(users, items)
        return torch.bmm(items, users.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_products: Tensor) -> tuple[Tensor, Tensor]:
        users, items = ctx.saved_tensors
        grad_items = grad_products.unsqueeze(-1) * users[:, None]
        if items.shape[1] * items.shape[2] > 400:  # large enough for torch to call a BLAS library
            return torch.bmm(grad_products.unsqueeze(1), items).squeeze(1), grad_items
        grad_users = grad_products[:, :1] * items[:, 0]
        for number in range(1, items.shape[1]):
            grad_users.addcmul_(grad_products[:, number : number + 1], items[:, number])
        return grad_users, grad_items


class _Lookup(torch.autograd.Function):
    """`embedding` with `index_add_` for its gradient. On a CPU torch's own gradient loops over
    single rows; this one sorts the indices and adds a row's gradients in their order, for any
    number of threads. (int32 would take a slow path.)
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, squares: bool) -> tuple[Tensor, Tensor]:
        rows = weight.index_select(0, index.reshape(-1)).view(*index.shape, weight.shape[1])
        ctx.save_for_backward(index, rows)
        ctx.shape = weight.shape
        ctx.set_materialize_grads(False)  # None where the rows or their squares are unused
        return rows, torch.linalg.vecdot(rows, rows) if squares else rows.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: Tensor | None, grad_squares: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        index, rows = ctx.saved_tensors
        if grad_squares is not None:
            grad_squares = grad_squares.unsqueeze(-1)
            grad_rows = (
                2.0 * grad_squares * rows
                if grad_rows is None
                else torch.addcmul(grad_rows, rows, grad_squares, value=2.0)
            )
        if grad_rows is None:
            return None, None, None
        index, grad_rows = index.reshape(-1), grad_rows.reshape(-1, ctx.shape[1])
        gradient = grad_rows.new_zeros(ctx.shape)
        if ctx.shape[1] == 1:  # one number per row: a sixth of the time
            gradient.view(-1).index_add_(0, index, grad_rows.view(-1))
        else:
            gradient.index_add_(0, index, grad_rows)
        gradient[0] = 0.0
        return gradient, None, None
