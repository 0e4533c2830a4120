"""Parts of models that read a user's items as a bag and output a number for every item.

Tables of items have I + 1 rows; row 0 (padding, an item unknown to training) has weight 0 in a
profile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged


def rows(profiles: Ragged) -> Tensor:
    """The row of each entry, int64 (entries,)."""
    return torch.repeat_interleave(
        torch.arange(len(profiles.offsets) - 1, device=profiles.offsets.device),
        profiles.offsets.diff(),
    )


def per_entry(profiles: Ragged, values: Tensor) -> Tensor:
    """A value per row, (B,), repeated for each entry of the row."""
    return values.repeat_interleave(profiles.offsets.diff())


def ones(profiles: Ragged, like: Tensor) -> Tensor:
    """(entries,) in the dtype of `like`: 1 for items, 0 for padding."""
    return (profiles.values > 0).to(like.dtype)


def normalised(profiles: Ragged, like: Tensor) -> Tensor:
    """(entries,): `ones` divided by the L2 norm of their row."""
    present = ones(profiles, like)
    # (B,)
    norms = (
        present.new_zeros(len(profiles.offsets) - 1).index_add_(0, rows(profiles), present).sqrt()
    )
    return present / per_entry(profiles, norms.clamp(min=1.0))


def dropout(
    profiles: Ragged, row: Tensor, rate: float, draw: Callable[[str, Tensor, Tensor], Tensor]
) -> Tensor | None:
    """float32 (entries,): 0 for the share `rate` of the items, 1 / (1 - rate) for the others; None:
    no dropout.

    row: int64 (B,), from the batch; draw: `Context.uniform_at`. So the draw of an entry depends on
    its row and item alone.
    """
    if not rate:
        return None
    return (draw("dropout", per_entry(profiles, row), profiles.values) >= rate) / (1 - rate)


def bag(table: Tensor, profiles: Ragged, weights: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, D): the sum of the table's rows at a profile's items, times their weights, without a
    dense (B, I) input.
    """
    items, offsets = profiles.values.long(), profiles.offsets
    if keep is not None:
        weights = weights * keep.to(weights.dtype)
        # Entries of weight 0 need not be read; on a GPU, counting them would wait for the device
        if items.device.type == "cpu":
            kept = weights != 0
            offsets = F.pad(kept.cumsum(0), (1, 0))[offsets]
            items, weights = items[kept], weights[kept]
    return _Bag.apply(table, items, offsets, weights)


def products(hidden: Tensor, table: Tensor, bias: Tensor, items: Tensor | None = None) -> Tensor:
    """hidden . table[item] + bias[item] for the whole catalogue, (B, I + 1), or `items` (C,) or (B,
    C), (B, C).
    """
    if items is None:
        return F.linear(hidden, table, bias)
    if items.dim() == 1:
        return F.linear(hidden, table[items], bias[items])
    return torch.einsum("bd,bcd->bc", hidden, table[items]) + bias[items]


def multinomial(logits: Tensor, items: Ragged) -> Tensor:
    """Negative log likelihood of the items of all rows, scalar: each is drawn from the softmax over
    columns 1..I of its row's logits.
    """
    present = items.values > 0
    return _Multinomial.apply(logits, rows(items)[present], items.values[present].long())


class _Bag(torch.autograd.Function):
    """`embedding_bag` whose gradient is also a bag, over the rows that have an item: it takes a
    third of the time of torch's, which adds row by row.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, items: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        assert not weights.requires_grad, "weights of a bag are given, not learnt"
        ctx.save_for_backward(items, offsets, weights)
        ctx.size = len(table)
        return _sums(table, items, offsets, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor, None, None, None]:
        items, offsets, weights = ctx.saved_tensors
        order = torch.argsort(items, stable=True)
        bags = torch.repeat_interleave(
            torch.arange(len(offsets) - 1, device=items.device), offsets.diff()
        )[order]
        ends = torch.bincount(items, minlength=ctx.size).cumsum(0)
        return (
            _sums(
                grad_sums.contiguous(), bags, torch.cat([ends.new_zeros(1), ends]), weights[order]
            ),
            None,
            None,
            None,
        )


class _Multinomial(torch.autograd.Function):
    """The gradient is softmax times the row's number of items, minus 1 at each of them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, items: Tensor) -> Tensor:
        total = logits[:, 1:].logsumexp(1)  # (B,)
        ctx.save_for_backward(logits, total, rows, items)
        return (total[rows] - logits[rows, items]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor) -> tuple[Tensor, None, None]:
        logits, total, rows, items = ctx.saved_tensors
        gradient = (logits - total.unsqueeze(1)).exp_()
        gradient *= (torch.bincount(rows, minlength=len(gradient)) * grad_sum).unsqueeze(1)
        gradient[:, 0] = 0.0
        gradient.index_put_((rows, items), -grad_sum, accumulate=True)
        return gradient, None, None


def _sums(table: Tensor, index: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
