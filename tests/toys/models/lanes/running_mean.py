"""A toy: predicts a label from what the lane, and the item, have shown so far.

Paper: none.
Differs: nothing known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recsys_spark.core.config import Settings
from recsys_spark.models.base import CARRY, Carry, Context, Model, Term


class RunningMean(Model):
    layout = "lanes"
    task = "rating"

    class Config(Settings):
        pass

    def __init__(self, config: Config, sizes: Any) -> None:
        super().__init__(config, sizes)
        self.mix = nn.Parameter(torch.tensor([0.5, 0.5]))

    def carries(self) -> dict[str, Carry]:
        return {"session": Carry(shape=(2,)), "item": Carry(shape=(), by="item")}

    def forward(self, batch: Any, ctx: Context) -> dict[str, Tensor]:
        state = ctx.carry["session"]  # (B, 2): sum of labels, and how many
        label, weight = batch.label, batch.weight
        session = torch.stack([state[:, 0] + weight * label, state[:, 1] + weight], 1)
        return {
            "rating": self.mix[0] * state[:, 0] / state[:, 1].clamp(min=1)
            + self.mix[1] * ctx.carry["item"],
            CARRY + "session": session,
            CARRY + "item": torch.where(
                weight > 0, 0.5 * ctx.carry["item"] + label, ctx.carry["item"]
            ),
        }

    def loss(self, batch: Any, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        errors = batch.weight * (output["rating"] - batch.label).square()
        return {"squared_error": Term(errors.sum(), batch.weight.sum())}
