"""gmf by hand: equations 7 to 9 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import taste_worlds, worlds


@pytest.fixture
def hand():
    """k = 2: h (p * q) = 0.5 * 2 * 3 - 2 * 1 * 0.25, and a bias of 0.125."""
    model = registry.build("gmf", {"dim": 2}, Sizes(1, 1), seed=1).double()
    with torch.no_grad():
        model.user.weight[1], model.item.weight[1] = (
            torch.tensor([2.0, 1.0]),
            torch.tensor([3.0, 0.25]),
        )
        model.output.weight[:], model.output.bias[:] = torch.tensor([[0.5, -2.0]]), 0.125
    return model


def rows(labels):
    ones = torch.ones(len(labels))
    return Rows(
        ones.int(),
        ones.int(),
        torch.tensor(labels).double(),
        ones.double(),
        torch.arange(len(labels)),
    )


def test_equations_8_and_9(hand):
    assert hand(rows([1.0]), Context())["logit"].tolist() == [3 - 0.5 + 0.125]
    assert hand.score(
        Query(torch.tensor([1]), worlds.ragged([[]])), torch.tensor([1])
    ).tolist() == [[2.625]]
    assert hand.predict(rows([1.0]))["ranking"].item() == pytest.approx(
        1 / (1 + np.exp(-2.625)), abs=1e-12
    )


def test_equation_7(hand):
    batch = rows([1.0, 0.0])
    parts = hand.loss(batch, hand(batch, Context()), Context())
    assert list(parts) == ["cross_entropy"] and float(parts["cross_entropy"].count) == 2
    assert parts["cross_entropy"].sum.item() == pytest.approx(
        np.log1p(np.exp(-2.625)) + np.log1p(np.exp(2.625)), abs=1e-12
    )


def test_l2_counts_the_rows_of_the_batch():
    model, batch = worlds.stirred("gmf", {"dim": 2, "l2": 0.1}), worlds.batch("pointwise")
    term = worlds.terms(model, batch, Context(training=True))["l2"]
    squares = model.user.weight[batch.user.long()].square().sum(1) + model.item.weight[
        batch.item.long()
    ].square().sum(1)
    assert (
        term.sum.item() == pytest.approx((batch.weight * squares).sum().item())
        and term.coefficient == 0.1
    )


def test_its_products_find_what_users_like():
    """Fresh negatives at each step. With the products switched off nothing is left that tells users
    apart.
    """
    world = taste_worlds.make()
    model = worlds.fit(
        "gmf", {"dim": 4, "init_std": 0.1}, world.train, world.sizes, steps=300, rows=256, lr=0.02
    )
    assert taste_worlds.share(model, world) > 0.5
    with torch.no_grad():
        model.user.weight.fill_(1.0)
    assert taste_worlds.share(model, world) < 0.5
