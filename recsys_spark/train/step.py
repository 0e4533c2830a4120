"""One optimiser step over all ranks, and the search for the rows to blame when its loss is not a number."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.models.base import Context, Model, Term
from recsys_spark.models.batches import Batch, Pairs, Rows
from recsys_spark.nn.tables import tables
from recsys_spark.train.collate import take
from recsys_spark.train.gradients import Gradients
from recsys_spark.train.optim import Optimiser
from recsys_spark.train.sharded import Shard
from recsys_spark.train.workers import Workers

# What a rank may wish after a step. Wishes are added over the ranks, and only rank 0 asks for a save: a sum of 1 is that, more is a stop.
GO_ON, SAVE, STOP = 0, 1, 2


class Done(NamedTuple):
    sums: list[float]  # of each loss term, over all ranks
    counts: list[float]
    wish: int  # of all ranks together: they hear of it in the same step


class NotFinite(RecsysError):
    """The loss is NaN or infinite. No weight was changed by it."""


_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """loss = sum over terms of coefficient * sum / count, with sums and counts added over the parts of a batch and over the ranks.

    forward: in the model's place, a compiled one. accumulate: parts in which a batch is taken, one after the other. precision: of the
    forward pass (medium: of products in both passes); losses and gradients are made in the dtype of the weights.
    """

    def __init__(self, model: Model, optimiser: Optimiser, workers: Workers, clip_norm: float, *, forward: nn.Module | None = None,
                 accumulate: int = 1, precision: str = "float32", sparse_as_dense: bool = False) -> None:
        self.model, self.optimiser, self.workers, self.clip_norm = model, optimiser, workers, clip_norm
        self.forward, self.accumulate, self.half = model if forward is None else forward, accumulate, _HALVES.get(precision)
        self.products = _medium_products if precision == "medium" else nullcontext
        shards = [table.fetch for table in tables(model) if isinstance(table.fetch, Shard)]
        by_rows = [table.weight for table in tables(model) if table.sparse and table.fetch is None]
        self.gradients = Gradients(model.parameters(), workers, by_rows, sparse_as_dense, shards)
        self.names: tuple[str, ...] = ()  # of the loss terms

    def __call__(self, batch: Batch, ctx: Context, wish: int) -> Done:
        """Train on this rank's rows of the step. Raises NotFinite, on every rank, before any weight has changed."""
        rows = 0 if self.accumulate == 1 else len(batch.row)
        parts = [batch] if rows < 2 else [take(batch, index) for index in torch.arange(rows, device=batch.row.device).tensor_split(
            min(self.accumulate, rows))]
        self.gradients.clear()
        with self.products():
            first = self._terms(parts[0], ctx)
            once = (self.workers.size > 1 or len(parts) > 1) and _share_count(first)
            done = self._one_collective(first, parts[1:], ctx, wish) if once else self._counts_first(first, parts[1:], ctx, wish)
        self._move()
        self.model.after_step()
        return done

    def _terms(self, batch: Batch, ctx: Context) -> list[Term]:
        if self.half is None:
            output = self.forward(batch, ctx)
        else:
            with torch.autocast(batch.row.device.type, self.half):
                output = self.forward(batch, ctx)
            output = {name: value.float() if value.dtype == self.half else value for name, value in output.items()}
        named = self.model.loss(batch, output, ctx)
        self.names = tuple(named)
        return list(named.values())

    def _one_collective(self, first: list[Term], rest: list[Batch], ctx: Context, wish: int) -> Done:
        """The count is common to all terms, so dividing by it can wait until the gradients are added."""
        mine = _Numbers(first)
        self._backward(_weighted(first, [1.0] * len(first)))
        for part in rest:
            terms = self._terms(part, ctx)
            mine.add(terms)
            self._backward(_weighted(terms, [1.0] * len(terms)))
        *sums, count, asked = self.gradients.reduce([*mine.sums, mine.counts[0], float(wish)])
        self._refuse_broken(sums)
        self.gradients.scale(1.0 / count if count else 0.0)
        return Done(sums, [count] * len(first), int(asked))

    def _counts_first(self, first: list[Term], rest: list[Batch], ctx: Context, wish: int) -> Done:
        """Counts are added over parts and ranks before the backward pass: of several parts, all but the first go forward twice."""
        mine = _Numbers(first)
        with torch.no_grad():
            for part in rest:
                mine.add(self._terms(part, ctx))
        numbers = [*mine.sums, *mine.counts, float(wish)]
        if self.workers.size > 1:
            reduced = torch.tensor(numbers, dtype=torch.float64)
            self.workers.all_reduce_sum([reduced])
            numbers = reduced.tolist()
        *both, asked = numbers
        sums, counts = both[: len(first)], both[len(first):]
        self._refuse_broken(sums)
        self._backward(_weighted(first, counts))
        for part in rest:
            self._backward(_weighted(self._terms(part, ctx), counts))
        self.gradients.reduce()
        return Done(sums, counts, int(asked))

    def _backward(self, total: Tensor) -> None:
        scaler = self.optimiser.scaler
        (total if scaler is None else scaler.scale(total)).backward()

    def _move(self) -> None:
        """With the scaled losses of fp16, a step whose gradients overflow moves nothing and halves the scale, on every rank alike."""
        scaler = self.optimiser.scaler
        if scaler is not None:
            scaler.unscale_(self.optimiser)  # type: ignore[arg-type]
        if self.clip_norm:
            self.gradients.clip(self.clip_norm)
        if scaler is None:
            self.optimiser.step()
        else:
            scaler.step(self.optimiser)  # type: ignore[arg-type]
            scaler.update()

    def _refuse_broken(self, sums: list[float]) -> None:
        for name, value in zip(self.names, sums, strict=True):
            if not math.isfinite(value):
                raise NotFinite(f"loss term {name}", found=value, expected="a finite number")


class _Numbers:
    """Sums and counts of the terms of this rank, over the parts of its batch."""

    def __init__(self, terms: list[Term]) -> None:
        self.sums = [float(term.sum.detach()) for term in terms]
        self.counts = [float(term.count) for term in terms]

    def add(self, terms: list[Term]) -> None:
        more = _Numbers(terms)
        self.sums = [one + other for one, other in zip(self.sums, more.sums, strict=True)]
        self.counts = [one + other for one, other in zip(self.counts, more.counts, strict=True)]


@contextmanager
def _medium_products() -> Iterator[None]:
    """Torch's precision of float32 products holds for the whole process: medium for the steps, not for validation."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def compiled(model: nn.Module) -> nn.Module:
    """Raises ConfigError where torch would find no compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError("train.compile", found=f"no C++ compiler {compiler} on this machine", expected="one, for torch.compile",
                          remedy="install it or name another by CXX, or set train.compile=false")
    return torch.compile(model)  # type: ignore[return-value]


def _share_count(terms: list[Term]) -> bool:
    """Identity, not equality: every rank must come to the same answer, whatever its rows."""
    count = terms[0].count
    return len(terms) == 1 or (isinstance(count, Tensor) and all(term.count is count for term in terms))


def _weighted(terms: list[Term], counts: list[float]) -> Tensor:
    """Sum of coefficient * sum / count; a term without a single entry anywhere is zero."""
    if len(terms) == 1:
        return terms[0].sum * (terms[0].coefficient / counts[0] if counts[0] else 0.0)
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
