"""One optimiser step over all ranks, and the search for the rows whose loss is not finite."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.batches.base import Batch
from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.models.base import CARRY, Context, Model, Term
from recsys_spark.nn.tables import tables
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves.carry import Carried
from recsys_spark.train.updates.gradients import Gradients
from recsys_spark.train.updates.lookups import Lookups
from recsys_spark.train.updates.optim import Optimiser
from recsys_spark.train.updates.sharded import Shard

# What a rank may request after a step. Requests are summed over the ranks, and only rank 0 requests
# a save: a sum of 1 is a save, a larger one a stop.
GO_ON, SAVE, STOP = 0, 1, 2


class StepResult(NamedTuple):
    sums: list[float]  # of each loss term, over all ranks
    counts: list[float]
    request: int  # sum of the ranks' requests, the same on each


class NotFinite(RecsysError):
    """The loss or its gradient is NaN or infinite. The step has changed no weight."""


_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """loss = sum over terms of coefficient * sum / count, with sums and counts added over the parts
    of a batch and over the ranks.

    forward: a compiled model to call instead of `model`. accumulate: number of parts into which a
        batch is split; they are processed one after the other.
    precision: of the forward pass (medium: of matrix products in both passes); losses and gradients
        have the dtype of the weights.
    carried: state kept between batches, which a step reads at its start and commits at its end.
    """

    def __init__(
        self,
        model: Model,
        optimiser: Optimiser,
        workers: Workers,
        clip_norm: float,
        *,
        carried: Carried | None = None,
        forward: nn.Module | None = None,
        accumulate: int = 1,
        precision: str = "float32",
        sparse_as_dense: bool = False,
    ) -> None:
        self.model = model
        self.optimiser = optimiser
        self.workers = workers
        self.clip_norm = clip_norm
        self.carried = carried if carried is not None and carried.carries else None
        self.forward = model if forward is None else forward
        self.accumulate = accumulate
        self.half = _HALVES.get(precision)
        self.products = _medium_products if precision == "medium" else nullcontext
        shards = [table.fetch for table in tables(model) if isinstance(table.fetch, Shard)]
        by_rows = [table.fetch for table in tables(model) if isinstance(table.fetch, Lookups)]
        self.gradients = Gradients(model.parameters(), workers, by_rows, sparse_as_dense, shards)
        self.names: tuple[str, ...] = ()  # of the loss terms
        self.states: dict[
            int, dict[str, Tensor]
        ] = {}  # new carries, by the id() of the part of the batch

    def __call__(self, batch: Batch, ctx: Context, request: int) -> StepResult:
        """Train on this rank's rows of the step. Raises NotFinite, on every rank, before any weight
        has changed.
        """
        parts = self._parts(batch)
        self.gradients.clear()
        with self.products():
            first = self._terms(parts[0], ctx)
            one_collective = (self.workers.size > 1 or len(parts) > 1) and _share_count(first)
            reduce = self._one_collective if one_collective else self._counts_first
            result = reduce(first, parts[1:], ctx, request)
        self._move()
        self.model.after_step()
        if self.carried is not None:
            states = [self.states.pop(id(part)) for part in parts]
            names = [CARRY + name for name in self.carried.carries]
            self.carried.commit(batch, {n: torch.cat([part[n] for part in states]) for n in names})
        return result

    def _parts(self, batch: Batch) -> list[Batch]:
        if self.accumulate == 1 or len(batch.row) < 2:
            return [batch]
        rows = len(batch.row)
        index = torch.arange(rows, device=batch.row.device)
        return [batch.take(part) for part in index.tensor_split(min(self.accumulate, rows))]

    def _terms(self, batch: Batch, ctx: Context) -> list[Term]:
        if self.carried is not None:
            ctx.carry = self.carried.read(batch)
        if self.half is None:
            output = self.forward(batch, ctx)
        else:
            with torch.autocast(batch.row.device.type, self.half):
                output = self.forward(batch, ctx)
            output = {
                name: value.float() if value.dtype == self.half else value
                for name, value in output.items()
            }
        if self.carried is not None:
            self.states[id(batch)] = {
                name: value.detach() for name, value in output.items() if name.startswith(CARRY)
            }
        named = self.model.loss(batch, output, ctx)
        self.names = tuple(named)
        return list(named.values())

    def _one_collective(
        self, first: list[Term], other_parts: list[Batch], ctx: Context, request: int
    ) -> StepResult:
        """The count is common to all terms, so the gradients are divided by it after they are
        summed.
        """
        totals = _Numbers(first)
        self._backward(_weighted(first, [1.0] * len(first)))
        for part in other_parts:
            terms = self._terms(part, ctx)
            totals.add(terms)
            self._backward(_weighted(terms, [1.0] * len(terms)))
        *sums, count, requested = self.gradients.reduce(
            [*totals.sums, totals.counts[0], float(request)]
        )
        self._refuse_broken(sums)
        self.gradients.scale(1.0 / count if count else 0.0)
        return StepResult(sums, [count] * len(first), int(requested))

    def _counts_first(
        self, first: list[Term], other_parts: list[Batch], ctx: Context, request: int
    ) -> StepResult:
        """Counts are summed over parts and ranks before the backward pass: all parts but the first
        go through the forward pass twice.
        """
        totals = _Numbers(first)
        with torch.no_grad():
            for part in other_parts:
                totals.add(self._terms(part, ctx))
        numbers = [*totals.sums, *totals.counts, float(request)]
        if self.workers.size > 1:
            reduced = torch.tensor(numbers, dtype=torch.float64)
            self.workers.all_reduce_sum([reduced])
            numbers = reduced.tolist()
        *values, requested = numbers
        sums, counts = values[: len(first)], values[len(first) :]
        self._refuse_broken(sums)
        self._backward(_weighted(first, counts))
        for part in other_parts:
            self._backward(_weighted(self._terms(part, ctx), counts))
        self.gradients.reduce()
        return StepResult(sums, counts, int(requested))

    def _backward(self, total: Tensor) -> None:
        scaler = self.optimiser.scaler
        (total if scaler is None else scaler.scale(total)).backward()

    def _move(self) -> None:
        """With the scaled losses of fp16, a step whose gradients overflow changes nothing and
        halves the scale, on every rank alike.
        """
        scaler = self.optimiser.scaler
        if scaler is not None:
            scaler.unscale_(self.optimiser)  # type: ignore[arg-type]
        elif not self.gradients.finite():
            raise NotFinite(
                "gradient of the loss", found="NaN or infinite", expected="finite numbers"
            )
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
        numbers = _Numbers(terms)
        self.sums = [value + added for value, added in zip(self.sums, numbers.sums, strict=True)]
        self.counts = [
            value + added for value, added in zip(self.counts, numbers.counts, strict=True)
        ]


@contextmanager
def _medium_products() -> Iterator[None]:
    """Torch's precision of float32 products is a setting of the whole process: medium during the
    steps, not during validation.
    """
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


def compiled(model: nn.Module) -> nn.Module:
    """The compiled model. Raises ConfigError where torch would find no compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            "train.compile",
            found=f"no C++ compiler {compiler} on this machine",
            expected="one, for torch.compile",
            remedy="install it or name another by CXX, or set train.compile=false",
        )
    return torch.compile(model)  # type: ignore[return-value]


def _share_count(terms: list[Term]) -> bool:
    """Whether all terms have the same count object. Identity, not equality, so that every rank
    decides alike, whatever its rows.
    """
    count = terms[0].count
    return len(terms) == 1 or (
        isinstance(count, Tensor) and all(term.count is count for term in terms)
    )


def _weighted(terms: list[Term], counts: list[float]) -> Tensor:
    """Sum of coefficient * sum / count; a term whose count is 0 is zero."""
    if len(terms) == 1:
        return terms[0].sum * (terms[0].coefficient / counts[0] if counts[0] else 0.0)
    return torch.stack(
        [
            term.sum * (term.coefficient / count if count else 0.0)
            for term, count in zip(terms, counts, strict=True)
        ]
    ).sum()


def blame(model: Model, batch: Batch, ctx: Context, limit: int = 3) -> str:
    """The rows of this rank's batch whose loss or gradient is not finite, found by bisection. Empty
    when there are none.
    """
    all_rows = torch.arange(len(batch.row), device=batch.row.device)
    if not _broken(model, batch, ctx, all_rows):
        return ""
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        return "every row: the weights themselves are no longer finite"
    rows: list[int] = []
    pending = [all_rows]
    while pending and len(rows) < limit:
        index = pending.pop()
        if len(index) == 1:
            rows.append(int(index))
            continue
        halves = [half for half in index.chunk(2) if _broken(model, batch, ctx, half)]
        pending += reversed(halves)
    described = "; ".join(batch.describe(number) for number in rows)
    return described or "the rows together, none of them alone"


def _broken(model: Model, batch: Batch, ctx: Context, index: Tensor) -> bool:
    """Whether a sum of the loss of these rows, or its gradient, is not finite."""
    if not len(index):
        return False
    batch = batch.take(index)
    ctx = replace(ctx, carry={name: rows[index] for name, rows in ctx.carry.items()})
    with torch.enable_grad():
        sums = [term.sum for term in model.loss(batch, model(batch, ctx), ctx).values()]
        if not all(math.isfinite(float(value.detach())) for value in sums):
            return True
        moving = [weight for weight in model.parameters() if weight.requires_grad]
        total = torch.stack(sums).sum()
        # Tables that lie on the ranks in parts are looked up without gradients here
        if not moving or not total.requires_grad:
            return False
        gradients = torch.autograd.grad(total, moving, allow_unused=True)
    return not all(_all_finite(gradient) for gradient in gradients if gradient is not None)


def _all_finite(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(torch.isfinite(values).all())
