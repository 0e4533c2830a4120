"""Base of the models over features: the fields and their embedding, the loss of a rating or a
click, the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, ItemVectors, Model, Sizes, Term
from recsys_spark.nn.fields import Embedded, FeatureTable, Fields, Slots
from recsys_spark.nn.tables import Distinct, distinct, products

Task = Literal["rating", "click"]


class FeatureModel(Model):
    """`forward` returns `output`, a rating or the logit of a click, and the norms that `penalties`
    names, each (B,).
    """

    layout = "pointwise"
    task = "click"

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.fields = Fields(sizes.num_users, sizes.num_items, sizes.fields)

    def constant(self) -> float:
        """The best constant output: the mean of the training labels, or its logit."""
        mean = self.sizes.statistics.get("label_mean", 0.0 if self.task == "rating" else 0.5)
        rate = min(max(mean, 0.01), 0.99)
        return mean if self.task == "rating" else math.log(rate / (1.0 - rate))

    def offset(self) -> nn.Parameter:
        """w0, initialised to the best constant."""
        return nn.Parameter(torch.tensor(self.constant()))

    def penalties(self) -> dict[str, float]:
        """Coefficient of each of the forward pass's norms; a coefficient of 0 is ignored."""
        return {
            name: getattr(self.config, name)
            for name in ("l2_bias", "l2_factor")
            if hasattr(self.config, name)
        }

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        if self.task == "rating":
            terms = {
                "squared_error": Term(
                    (batch.weight * (output["output"] - batch.label).square()).sum(), weight
                )
            }
        else:
            entropy = F.binary_cross_entropy_with_logits(
                output["output"], batch.label, batch.weight, reduction="sum"
            )
            terms = {"cross_entropy": Term(entropy, weight)}
        for name, coefficient in self.penalties().items():
            if coefficient:
                terms[name] = Term((batch.weight * output[name]).sum(), weight, coefficient)
        return terms

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        output = self(batch, Context())["output"]
        return (
            {"click": output.sigmoid()}
            if self.task == "click"
            else {"rating": self.sizes.clamped(output)}
        )

    def slots(self, batch: Rows) -> list[tuple[Distinct, Slots]]:
        """Slots of the distinct users and of the distinct items of a batch, and of its events,
        where these have fields.
        """
        users, items = distinct(batch.user), distinct(batch.item)
        sides = [(users, self.fields.user(users.each)), (items, self.fields.item(items.each))]
        if self.fields.features["event"]:
            sides.append((Distinct(batch.row, None), self.fields.event(batch.codes, batch.numbers)))
        return sides

    def catalogue(self, items: Tensor | None) -> Tensor:
        return (
            torch.arange(self.sizes.num_items + 1, device=next(self.parameters()).device)
            if items is None
            else items
        )


class Side(NamedTuple):
    """The distinct users or items of a batch, or its events (R rows)."""

    of: Distinct
    constant: Tensor  # (R,)
    vector: Tensor  # (R, D)
    found: Embedded


def total(sides: Sequence[Side], part: Callable[[Side], Tensor]) -> Tensor:
    """The sum over the sides of a part (R, ...), for the rows of the batch, (B, ...)."""
    first, *rest = (side.of.spread(part(side)) for side in sides)
    return sum(rest, first)


class TwoSided(FeatureModel):
    """Models that, without an event, are a constant and a vector each of the user and of the item:
    the constants are added, the vectors multiplied.
    """

    class Config(Settings):
        dim: int = Field(32, ge=1)  # width of the factors
        # coefficient of the squared norms of the features in the batch, for each occurrence
        l2_factor: float = Field(0.02, ge=0)
        l2_bias: float = Field(0.002, ge=0)  # the same of the linear weights
        init_std: float = Field(0.03, gt=0)  # standard deviation of the factors at the start
        task: Task = "rating"  # click: labels 0 and 1, through a sigmoid

    task = "rating"
    table: FeatureTable
    w0: nn.Parameter

    def side(self, slots: Slots, training: bool) -> tuple[Tensor, Tensor, Embedded]:
        """Constant (...) and vector (..., D) of a user's or an item's slots (..., S), and the
        embedding from which they were computed: sums over all slots.
        """
        embedded = self.table(slots, training)
        return embedded.linear.sum(-1), embedded.factors.sum(-2), embedded

    def sides(self, batch: Rows, training: bool) -> list[Side]:
        """The sides of users, items and, where they have fields, events."""
        return [Side(indices, *self.side(slots, training)) for indices, slots in self.slots(batch)]

    def start(self) -> Tensor | float:
        """The constant added to every output: w0, unless the model has another one."""
        return self.w0

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        b_u, p, _ = self.side(self.fields.user(query.user), False)
        # ([B,] C), ([B,] C, D)
        b_i, q, _ = self.side(self.fields.item(self.catalogue(items)), False)
        return self.start() + b_u[:, None] + b_i + products(p, q)  # (B, C)

    def index(self) -> ItemVectors | None:
        b_i, q, _ = self.side(self.fields.item(self.catalogue(None)), False)
        return ItemVectors(torch.cat([q, q.new_ones(len(q), 1)], 1), b_i)

    def encode(self, query: Query) -> Tensor:
        """The vectors of the users' fields, and the part of the score that is equal for all
        items.
        """
        b_u, p, _ = self.side(self.fields.user(query.user), False)
        return torch.cat([p, (b_u + self.start()).unsqueeze(1)], 1)  # (B, D + 1)
