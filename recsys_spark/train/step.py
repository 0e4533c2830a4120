"""One optimiser step over all ranks, and the search for the rows to blame when its loss is not a number."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_spark.core.errors import RecsysError
from recsys_spark.models.base import Batch, Context, Model, Pairs, Rows, Term
from recsys_spark.train.collate import take
from recsys_spark.train.gradients import Gradients
from recsys_spark.train.workers import Workers

# What a rank may wish after a step. Wishes are added over the ranks, and only rank 0 asks for a save: a sum of 1 is that, more is a stop.
GO_ON, SAVE, STOP = 0, 1, 2


class Done(NamedTuple):
    sums: list[float]  # of each loss term, over all ranks
    counts: list[float]
    wish: int  # of all ranks together: they hear of it in the same step


class NotFinite(RecsysError):
    """The loss is NaN or infinite. No weight was changed by it."""


class Stepper:
    """loss = sum over terms of coefficient * sum / count, with sums and counts added over the ranks."""

    def __init__(self, model: Model, optimiser: torch.optim.Optimizer, workers: Workers, clip_norm: float) -> None:
        self.model, self.optimiser, self.workers, self.clip_norm = model, optimiser, workers, clip_norm
        self.gradients = Gradients(model.parameters(), workers)
        self.names: tuple[str, ...] = ()  # of the loss terms

    def __call__(self, batch: Batch, ctx: Context, wish: int) -> Done:
        """Train on this rank's rows of the step. Raises NotFinite, on every rank, before any weight has changed."""
        named = self.model.loss(batch, self.model(batch, ctx), ctx)
        self.names, terms = tuple(named), list(named.values())
        self.gradients.clear()
        once = self.workers.size > 1 and _share_count(terms)
        done = self._one_collective(terms, wish) if once else self._counts_first(terms, wish)
        if self.clip_norm:
            self.gradients.clip(self.clip_norm)
        self.optimiser.step()
        self.model.after_step()
        return done

    def _one_collective(self, terms: list[Term], wish: int) -> Done:
        """The count is common to all terms, so dividing by it can wait until the gradients are added."""
        _weighted(terms, [1.0] * len(terms)).backward()
        *sums, count, asked = self.gradients.reduce([*(term.sum.detach() for term in terms), terms[0].count, float(wish)])
        self._refuse_broken(sums)
        self.gradients.scale(1.0 / count if count else 0.0)
        return Done(sums, [count] * len(terms), int(asked))

    def _counts_first(self, terms: list[Term], wish: int) -> Done:
        """Counts are added over the ranks before the backward pass."""
        numbers = torch.tensor([*(float(term.sum.detach()) for term in terms), *(float(term.count) for term in terms), float(wish)],
                               dtype=torch.float64)
        self.workers.all_reduce_sum([numbers])
        *both, asked = numbers.tolist()
        sums, counts = both[: len(terms)], both[len(terms):]
        self._refuse_broken(sums)
        _weighted(terms, counts).backward()
        self.gradients.reduce()
        return Done(sums, counts, int(asked))

    def _refuse_broken(self, sums: list[float]) -> None:
        for name, value in zip(self.names, sums, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"loss term {name}", found=value, expected="a finite number")


def _share_count(terms: list[Term]) -> bool:
    """Identity, not equality: every rank must come to the same answer, whatever its rows."""
    count = terms[0].count
    return len(terms) == 1 or (isinstance(count, Tensor) and all(term.count is count for term in terms))


def _weighted(terms: list[Term], counts: list[float]) -> Tensor:
    """Sum of coefficient * sum / count; a term without a single entry anywhere is zero."""
    return torch.stack([term.sum * (term.coefficient / count if count else 0.0) for term, count in zip(terms, counts, strict=True)]).sum()


def blame(model: Model, batch: Batch, ctx: Context, limit: int = 3) -> str:
    """Which rows of this rank's batch have a loss that is not finite, found by halving. Empty when none has."""

    def broken(index: Tensor) -> bool:
        with torch.no_grad():
            part = take(batch, index)
            return not all(math.isfinite(float(term.sum)) for term in model.loss(part, model(part, ctx), ctx).values())

    found: list[int] = []
    todo = [torch.arange(len(batch.row), device=batch.row.device)]
    if not broken(todo[0]):
        return ""
    if any(not bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point()):
        return "every row: the weights themselves are no longer finite"
    while todo and len(found) < limit:
        index = todo.pop()
        if len(index) == 1:
            found.append(int(index))
        else:
            halves = index.chunk(2)
            todo += [half for half in reversed(halves) if broken(half)]
    return "; ".join(_row(batch, number) for number in found) or "the rows together, none of them alone"


def _row(batch: Batch, number: int) -> str:
    row = int(batch.row[number])
    what = f"user_idx {int(batch.user[number])}"  # type: ignore[attr-defined]
    if isinstance(batch, Rows):
        what += f", item_idx {int(batch.item[number])}, label {float(batch.label[number]):g}"
    if isinstance(batch, Pairs):
        what += f", item_idx {int(batch.item[number])}, negatives {', '.join(map(str, batch.negative[number].tolist()))}"
    return f"row {row} ({what})"
