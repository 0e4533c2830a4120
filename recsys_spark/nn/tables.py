"""Embedding tables over dense indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Table(nn.Embedding):
    """An embedding whose rows are gathered and whose gradients are added the fast way on a CPU; elsewhere torch's own.

    `sparse`: its gradient consists of the rows that were looked up, not of the whole table.
    `fetch`: where the weight is not all rows, it gives those of an index, (R, D) with row 0 first, and where in them each one is.
    """

    fetch: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def forward(self, index: Tensor) -> Tensor:
        """int (...) -> (..., D)"""
        return self._look_up(index.long(), False)[0]

    def with_squares(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The rows, (..., D), and the squared norm of each, (...): a regulariser that costs no pass of its own in backward."""
        rows, squares = self._look_up(index.long(), True)
        return rows, rows.square().sum(-1) if squares is None else squares

    def _look_up(self, index: Tensor, squares: bool) -> tuple[Tensor, Tensor | None]:
        weight, sparse = self.weight, self.sparse
        if self.fetch is not None:
            (weight, index), sparse = self.fetch(index), False
        if index.device.type == "cpu":
            return _Lookup.apply(weight, index, sparse, squares)
        return F.embedding(index, weight, self.padding_idx, sparse=sparse), None


def table(rows: int, dim: int, std: float) -> Table:
    """(rows + 1, dim), drawn from N(0, std); row 0 (padding, out-of-vocabulary) is zero and gets no gradient."""
    made = Table(rows + 1, dim, padding_idx=0)
    with torch.no_grad():
        nn.init.normal_(made.weight, std=std)
        made.weight[0] = 0.0
    return made


def tables(model: nn.Module) -> list[Table]:
    return [module for module in model.modules() if isinstance(module, Table)]


class Distinct(NamedTuple):
    """The indices of a batch, each once: what is made of one alone is made once, however often it occurs."""

    each: Tensor  # int (R,)
    place: Tensor | None  # int64 (B,): where in `each` every row's is; None: they are the batch's, in its order

    def spread(self, made: Tensor) -> Tensor:
        """(R, ...) of the indices -> (B, ...) of the rows of the batch"""
        return made if self.place is None else made.index_select(0, self.place)


def distinct(index: Tensor) -> Distinct:
    """Of int (B,), in their order. A GPU takes them as they come: it would wait for the CPU, and the work saved costs it little."""
    if index.device.type != "cpu":
        return Distinct(index, None)
    size = 1 + int(index.max()) if len(index) else 0
    if size > 4 * len(index):
        return Distinct(*index.unique(return_inverse=True))
    found = index.long()  # few different ones: to mark them takes a fifth of the time that sorting does
    met = found.new_zeros(size).index_fill_(0, found, 1)
    return Distinct(met.nonzero()[:, 0].to(index.dtype), met.cumsum_(0).sub_(1).index_select(0, found))


def products(users: Tensor, items: Tensor) -> Tensor:
    """Dot products of (B, D) with the items (C, D) of all, or (B, C, D) of each. (B, C)"""
    return users @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", users, items)


def few_products(users: Tensor, items: Tensor) -> Tensor:
    """The same of (B, D) with (B, C, D) for a C of a few, in training. (B, C)"""
    return _FewProducts.apply(users, items) if users.device.type == "cpu" else products(users, items)


class _FewProducts(torch.autograd.Function):
    """Backward through a batch of tiny matrix products takes torch up to five times as long as adding the items one after the other."""

    # Without a `setup_context`: torch would bind the arguments of each call by their signature, which takes as long as the gather.
    # `custom_fwd`: autocast would take the product in bfloat16, and backward, which it does not reach, refuses to mix the two.
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, users: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(users, items)
        return torch.bmm(items, users.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_products: Tensor) -> tuple[Tensor, Tensor]:
        users, items = ctx.saved_tensors
        of_items = of_products.unsqueeze(-1) * users[:, None]
        if items.shape[1] * items.shape[2] > 400:  # large enough for torch to hand it to a library
            return torch.bmm(of_products.unsqueeze(1), items).squeeze(1), of_items
        of_users = of_products[:, :1] * items[:, 0]
        for number in range(1, items.shape[1]):
            of_users.addcmul_(of_products[:, number:number + 1], items[:, number])
        return of_users, of_items


class _Lookup(torch.autograd.Function):
    """`embedding` with `index_add_` for its gradient: on a CPU torch's own loops over the rows one by one, this one sorts the
    indices and adds a row's gradients in the order in which they come, on any number of threads. (int32 would take the slow way.)"""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, sparse: bool, squares: bool) -> tuple[Tensor, Tensor]:
        rows = weight.index_select(0, index.reshape(-1)).view(*index.shape, weight.shape[1])
        ctx.save_for_backward(index, rows)
        ctx.shape, ctx.sparse = weight.shape, sparse
        ctx.set_materialize_grads(False)  # None where the rows or their squares play no part
        return rows, torch.linalg.vecdot(rows, rows) if squares else rows.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor | None, of_squares: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        index, rows = ctx.saved_tensors
        if of_squares is not None:
            of_squares = of_squares.unsqueeze(-1)
            of_rows = 2.0 * of_squares * rows if of_rows is None else torch.addcmul(of_rows, rows, of_squares, value=2.0)
        if of_rows is None:
            return None, None, None, None
        index, of_rows = index.reshape(-1), of_rows.reshape(-1, ctx.shape[1])
        if ctx.sparse:
            of_rows = of_rows.masked_fill((index == 0).unsqueeze(-1), 0.0)
            return torch.sparse_coo_tensor(index.unsqueeze(0), of_rows, ctx.shape, check_invariants=False), None, None, None
        made = of_rows.new_zeros(ctx.shape)
        if ctx.shape[1] == 1:  # one number a row: a sixth of the time
            made.view(-1).index_add_(0, index, of_rows.view(-1))
        else:
            made.index_add_(0, index, of_rows)
        made[0] = 0.0
        return made, None, None, None
