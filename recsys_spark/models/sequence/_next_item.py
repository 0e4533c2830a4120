"""Base of the models that read a window of a history and predict each next item by a dot product:
their losses, and how they score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.models.base import (
    Context,
    Draw,
    Histories,
    ItemVectors,
    Model,
    NegativeItems,
    SharedItems,
    Sizes,
    Term,
)
from recsys_spark.nn import windows
from recsys_spark.nn.objectives import binary, pairwise, softmax
from recsys_spark.nn.tables import Table, few_products, products, table

Drop = Callable[[str, Tensor], Tensor]  # (name, (E, W)) -> the same with dropout
OWN_NEGATIVES = ("bce", "gbce", "bpr")  # losses whose targets have negatives of their own
QUERIES = 256  # windows encoded at once: a scorer's thousands would take gigabytes


class NextItem(Model):
    """A subclass gives `states`: for each event of packed windows what it says of the next one; and
    `queries`, where who the user is says something too.

    Unless it has `queries`, it scores from the history alone, so new users need no training, and an
    empty history scores 0 everywhere.
    """

    layout = "sequence"
    task = "ranking"
    whole_tables = True  # the full softmax reads every row

    class Config(Settings):
        dim: int = Field(64, ge=1)  # of the items' vectors and of the states
        length: int = Field(200, ge=1, le=65535)  # events of a window
        dropout: float = Field(0.2, ge=0, lt=1)  # of items as they are read, and between layers
        # softmax: cross entropy over all items; sampled: over the target and `shared_negatives`;
        # bce: binary, against negatives; gbce: the same, calibrated; bpr: by differences from them
        loss: Literal["softmax", "sampled", "bce", "gbce", "bpr"] = "softmax"
        # bce, gbce, bpr: drawn for each target among the items that its user has not met
        num_negatives: int = Field(1, ge=0)
        # drawn for a step and shared by its targets: the negatives of `sampled`; bce, gbce and
        # bpr take them instead of their own
        shared_negatives: int = Field(0, ge=0)
        # their probability is in proportion to an item's events to this power; 0: uniform
        power: float = Field(0.0, ge=0, le=1)
        # sampled: of the negatives' scores their log frequency in the sample is taken off
        log_q: bool = True
        calibration: float = Field(0.75, ge=0, le=1)  # t of gbce; 1: true probabilities
        init_std: float = Field(0.02, gt=0)  # of the tables

        @model_validator(mode="after")
        def _negatives_fit(self) -> NextItem.Config:
            if self.loss == "sampled" and not self.shared_negatives:
                raise ValueError("loss sampled needs shared_negatives of at least 1")
            if self.loss in OWN_NEGATIVES and not self.shared_negatives + self.num_negatives:
                raise ValueError(f"loss {self.loss} needs num_negatives or shared_negatives")
            return self

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.item = table(sizes.num_items, config.dim, config.init_std)

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        """(E, .), for `queries`: after each event of the windows, from it and those before it in
        its row.
        """
        raise NotImplementedError

    def queries(self, states: Tensor, user: Tensor, age: Tensor) -> Tensor:
        """(n, D), to be multiplied with `output`, from states (n, .), their users int (n,), 0:
        unknown, and how many days ago it was, (n,): 0 where it is now, or not known.
        """
        return states

    @property
    def output(self) -> Table:
        """The items as they are predicted; here as they are read."""
        return self.item

    @property
    def bias(self) -> Table | None:
        """(I + 1, 1), added to the items' scores."""
        return None

    @property
    def reach(self) -> int:
        """Number of events that a state depends on."""
        return int(self.config.length)

    def targets(self, batch: Windows, ctx: Context) -> tuple[Tensor, Tensor]:
        """(state, target): what is predicted, `following[target]`, and the entry of the state that
        it is predicted from; both int64 (P,).
        """
        entry = (batch.following > 0).nonzero()[:, 0]
        return entry, entry

    @property
    def num_negatives(self) -> int:
        own = self.config.loss in OWN_NEGATIVES and not self.config.shared_negatives
        return int(self.config.num_negatives) if own else 0

    def draws(self) -> list[Draw]:
        config = self.config
        draws: list[Draw] = [self.histories()]
        if self.num_negatives:
            draws.append(NegativeItems(self.num_negatives))
        if config.shared_negatives and config.loss != "softmax":
            draws.append(SharedItems(config.shared_negatives, config.power))
        return draws

    def histories(self) -> Histories:
        return Histories(self.config.length)

    def forward(self, batch: Windows, ctx: Context) -> dict[str, Tensor]:
        """{"loss": summed over the targets, "count": their number}. Computed here and not in
        `loss`, because it reads the items' table, and the scores of all items exist only block by
        block.
        """

        row, rate = batch.entry_row, self.config.dropout if ctx.training else 0.0

        def drop(name: str, x: Tensor) -> Tensor:
            return x * ctx.kept(name, row, rate, x.shape[1]).to(x.dtype) if rate else x

        state, target = self.targets(batch, ctx)
        user = batch.user.repeat_interleave(batch.items.offsets.diff())
        queries = self.queries(
            self._states(batch.items, drop)[state], user[state], batch.age[target]
        )
        loss = self._summed(batch, queries, target)
        return {"loss": loss, "count": torch.tensor(len(target), device=loss.device)}

    def loss(self, batch: Windows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        return {self.config.loss: Term(output["loss"], output["count"])}

    def _summed(self, batch: Windows, queries: Tensor, target: Tensor) -> Tensor:
        """queries (P, D); target int64 (P,): entries of what they predict."""
        config, items = self.config, batch.following[target].long()
        if config.loss == "softmax":
            # Row 0 is padding and no candidate
            weight = self.output.weight[1:]
            if self.bias is not None:
                weight = torch.cat([weight, self.bias.weight[1:]], 1)
                queries = torch.cat([queries, torch.ones_like(queries[:, :1])], 1)
            return softmax.cross_entropy(queries, weight, items - 1)
        positive = (queries * self.output(items)).sum(1)
        if config.shared_negatives:
            drawn = batch.shared
            negative = queries @ self.output(drawn).T  # (P, S)
        else:
            drawn = batch.negative[target]
            negative = few_products(queries, self.output(drawn))  # (P, N)
        if self.bias is not None:
            positive = positive + self.bias(items)[:, 0]
            negative = negative + self.bias(drawn).squeeze(-1)
        hit = items[:, None] == drawn
        if config.loss == "sampled":
            log_expected = batch.log_expected * config.log_q
            return softmax.sampled(positive, negative, log_expected, hit)
        if config.loss == "bpr":
            return pairwise.bpr(positive, negative, hit)
        number = config.shared_negatives or config.num_negatives
        calibration = config.calibration if config.loss == "gbce" else 0.0
        beta = binary.exponent(number, self.sizes.num_items - 1, calibration)
        return binary.cross_entropy(positive, negative, hit, beta)

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        vectors, bias = self.index()
        if items is not None:
            vectors, bias = vectors[items], bias[items]
        return products(self.encode(query), vectors) + bias

    def index(self) -> ItemVectors:
        weight = self.output.weight
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.weight[:, 0]
        return ItemVectors(weight, bias)

    def encode(self, query: Query) -> Tensor:
        return torch.cat([self._encoded(part) for part in query.split(QUERIES)])

    def _encoded(self, query: Query) -> Tensor:
        read = windows.recent(query.history, self.reach)
        states = windows.Places(read).last(self._states(read, lambda name, x: x))
        return self.queries(states, query.user, states.new_zeros(len(states)))

    def _states(self, items: Ragged, drop: Drop) -> Tensor:
        if not len(items.values):  # attention and recurrent networks refuse windows of length 0
            return self.output.weight.new_zeros(0, self.config.dim)
        return self.states(items, drop)
