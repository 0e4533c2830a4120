"""logistic: a weight for every feature, and no more; what it can learn and what it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import field_worlds, worlds


def test_by_hand() -> None:
    """Rate 1/5: w0 = ln(1/4). User 1 has .5, item 1 -.25; a label of 1 with weight 2."""
    model = registry.build(
        "logistic", {"l2_bias": 0.1}, Sizes(1, 1, {"label_mean": 0.2}), seed=1
    ).double()
    with torch.no_grad():
        model.table.table.weight[1:, 0] = torch.tensor([0.5, -0.25])
    one = torch.ones(1, dtype=torch.float64)
    batch = Rows(one.int(), one.int(), one, 2 * one, one.long())
    logit = math.log(0.25) + 0.25
    output = model(batch, Context(training=True))
    assert output["output"].item() == pytest.approx(logit, rel=1e-6)
    assert model.predict(batch)["click"].item() == pytest.approx(
        1 / (1 + math.exp(-logit)), rel=1e-6
    )
    parts = model.loss(batch, output, Context(training=True))
    assert parts["cross_entropy"].sum.item() == pytest.approx(
        2 * math.log(1 + math.exp(-logit)), rel=1e-6
    )
    assert (
        parts["l2_bias"].sum.item() == 2 * (0.25 + 0.0625) and parts["l2_bias"].coefficient == 0.1
    )


def test_it_has_no_factors() -> None:
    model = worlds.stirred("logistic", {})
    assert model.table.table.weight.shape[1] == 1
    score = model.score(worlds.query())
    # The same order for every user
    torch.testing.assert_close(score - score[:, :1], (score - score[:, :1])[:1].expand_as(score))


def test_fields_one_by_one_but_not_in_pairs() -> None:
    world = field_worlds.plain()
    rate = world.sizes.statistics["label_mean"]
    assert (
        world.share(field_worlds.predictions(field_worlds.fit("logistic", {}, world), world), rate)
        > 0.8
    )
    paired = field_worlds.make(
        lambda row: 0.1 + 0.8 * (row["a"] == row["b"]),
        {"a": ("user", 2), "b": ("item", 2)},
        clicks=True,
    )
    rate = np.float64(paired.sizes.statistics["label_mean"])
    assert (
        paired.share(
            field_worlds.predictions(field_worlds.fit("logistic", {}, paired), paired), rate
        )
        < 0.2
    )
