"""What models over features share: the fields and their embedding, the loss of a rating or a click, the prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, DotFactors, Model, Sizes, Term
from recsys_spark.models.batches import Query, Rows
from recsys_spark.nn.fields import Embedded, FeatureTable, Fields, Slots
from recsys_spark.nn.tables import Distinct, distinct, products

Task = Literal["rating", "click"]


class FeatureModel(Model):
    """`forward` gives `output`: a rating, or the logit of a click; and the `norms` that `penalties` names, each (B,)."""

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
        """w0, which starts at the best constant."""
        return nn.Parameter(torch.tensor(self.constant()))

    def penalties(self) -> dict[str, float]:
        """Coefficient of each of the forward pass's norms; one of 0 is left out."""
        return {name: getattr(self.config, name) for name in ("l2_bias", "l2_factor") if hasattr(self.config, name)}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        if self.task == "rating":
            terms = {"squared_error": Term((batch.weight * (output["output"] - batch.label).square()).sum(), weight)}
        else:
            entropy = F.binary_cross_entropy_with_logits(output["output"], batch.label, batch.weight, reduction="sum")
            terms = {"cross_entropy": Term(entropy, weight)}
        for name, coefficient in self.penalties().items():
            if coefficient:
                terms[name] = Term((batch.weight * output[name]).sum(), weight, coefficient)
        return terms

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        output = self(batch, Context())["output"]
        return {"click": output.sigmoid()} if self.task == "click" else {"rating": self.sizes.clamped(output)}

    def slots(self, batch: Rows) -> list[tuple[Distinct, Slots]]:
        """Of the users and of the items of a batch, each once, and of its events, where these have fields."""
        users, items = distinct(batch.user), distinct(batch.item)
        found = [(users, self.fields.user(users.each)), (items, self.fields.item(items.each))]
        if self.fields.features["event"]:
            found.append((Distinct(batch.row, None), self.fields.event(batch.codes, batch.numbers)))
        return found

    def catalogue(self, items: Tensor | None) -> Tensor:
        return torch.arange(self.sizes.num_items + 1, device=next(self.parameters()).device) if items is None else items


class Side(NamedTuple):
    """Of the users, the items or the events of a batch, each once (R)."""

    of: Distinct
    constant: Tensor  # (R,)
    vector: Tensor  # (R, D)
    found: Embedded


def total(sides: Sequence[Side], part: Callable[[Side], Tensor]) -> Tensor:
    """A part (R, ...) of each side, added up for the rows of the batch, (B, ...)."""
    first, *rest = (side.of.spread(part(side)) for side in sides)
    return sum(rest, first)


class TwoSided(FeatureModel):
    """Models that, without an event, are a constant and a vector of the user and of the item: constants added, vectors multiplied."""

    class Config(Settings):
        dim: int = Field(32, ge=1)
        l2_factor: float = Field(0.02, ge=0)  # times the squared norms of the features in the batch, each time they occur
        l2_bias: float = Field(0.002, ge=0)
        init_std: float = Field(0.03, gt=0)
        task: Task = "rating"

    task = "rating"
    table: FeatureTable
    w0: nn.Parameter

    def side(self, slots: Slots, training: bool) -> tuple[Tensor, Tensor, Embedded]:
        """Constant (...), vector (..., D) of a user's or an item's slots (..., S), and what they were made of: all slots added up."""
        found = self.table(slots, training)
        return found.linear.sum(-1), found.factors.sum(-2), found

    def sides(self, batch: Rows, training: bool) -> list[Side]:
        """Of users, items and, where they have fields, events."""
        return [Side(of, *self.side(slots, training)) for of, slots in self.slots(batch)]

    def start(self) -> Tensor | float:
        """What is added to every output: w0, unless the model has another constant."""
        return self.w0

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        of_user, p, _ = self.side(self.fields.user(query.user), False)
        of_item, q, _ = self.side(self.fields.item(self.catalogue(items)), False)  # ([B,] C), ([B,] C, D)
        return self.start() + of_user[:, None] + of_item + products(p, q)  # (B, C)

    def index(self) -> DotFactors | None:
        device = next(self.parameters()).device
        of_user, p, _ = self.side(self.fields.user(torch.arange(self.sizes.num_users + 1, device=device)), False)
        of_item, q, _ = self.side(self.fields.item(self.catalogue(None)), False)
        users = torch.cat([p, (of_user + self.start()).unsqueeze(1)], 1)
        return DotFactors(users, torch.cat([q, q.new_ones(len(q), 1)], 1), of_item)
