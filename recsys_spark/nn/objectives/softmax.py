"""Cross entropy of a target among all items, or among a sample of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CELLS = 1 << 20  # scores in memory at once: 4 MB in float32, near the processor
ROWS = 16  # but at least so many rows of them: a product with fewer waits for the items to be read


def cross_entropy(states: Tensor, items: Tensor, target: Tensor, cells: int = CELLS) -> Tensor:
    """Sum over P targets of the negative log of the target's share in the softmax of states . items
    over all items; scalar.

    states (P, D), items (I, D), target int64 (P,) in [0, I). At most max(cells, ROWS * I) scores
    are held at once: the gradient is computed block by block with the loss, and only its (P, D) and
    (I, D) are kept.
    """
    return _CrossEntropy.apply(states, items, target, cells)


class _CrossEntropy(torch.autograd.Function):
    # Without autocast: the sums over a large catalogue need all digits
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, states: Tensor, items: Tensor, target: Tensor, cells: int) -> Tensor:
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        rows = max(ROWS, cells // len(items))
        total = states.new_zeros(())
        grad_states, grad_items = torch.empty_like(states), torch.zeros_like(items)
        buffer = states.new_empty(min(rows, len(states)), len(items))
        for start in range(0, len(states), rows):
            block = slice(start, start + rows)
            h, wanted = states[block], target[block, None]
            scores = torch.mm(h, items.T, out=buffer[: len(h)])
            scores -= scores.amax(1, keepdim=True)
            picked = scores.gather(1, wanted)
            sums = scores.exp_().sum(1, keepdim=True)
            total += (sums.log() - picked).sum()
            if learns:
                torch.mm(scores, items, out=grad_states[block]).div_(sums)
                grad_items.addmm_(scores.T, h / sums)
        if learns:
            grad_states -= items.index_select(0, target)
            grad_items.index_add_(0, target, states, alpha=-1)
            ctx.save_for_backward(grad_states, grad_items)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_states, grad_items = ctx.saved_tensors
        return grad_states * grad_sum, grad_items * grad_sum, None, None


def sampled(positive: Tensor, negative: Tensor, log_expected: Tensor, hit: Tensor) -> Tensor:
    """Sum over P targets of the cross entropy of the target among itself and S sampled items.

    positive (P,), negative (P, S): scores. log_expected (S,): log of how often the sample is
    expected to hold an item (log-Q), taken off the scores of the sampled ones alone, so that the
    sum of their exponentials estimates that of all items but the target. hit (P, S): the sampled
    item is the target itself, which does not compete with itself.
    """
    others = (negative - log_expected).masked_fill(hit, -torch.inf)
    scores = torch.cat([positive.unsqueeze(1), others], 1)
    return (scores.logsumexp(1) - positive).sum()
