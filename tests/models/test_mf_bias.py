"""mf_bias by hand: Koren's equations 4 and 5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import worlds

TRAINING = Context(training=True)


def rows(users, items, labels, weights=None):
    return Rows(
        torch.tensor(users),
        torch.tensor(items),
        torch.tensor(labels, dtype=torch.float64),
        torch.tensor(weights or [1.0] * len(users), dtype=torch.float64),
        torch.arange(len(users)),
    )


@pytest.fixture
def model():
    """2 users, 3 items, width 2, mean 3; user 2 and item 3 were never trained."""
    made = registry.build(
        "mf_bias",
        {"dim": 2, "l2_factor": 0.1, "l2_bias": 0.01},
        Sizes(2, 3, {"label_mean": 3.0, "label_min": 1.0, "label_max": 5.0}),
        seed=1,
    ).double()
    with torch.no_grad():
        made.user.weight[1:] = torch.tensor([[1.0, 2.0], [7.0, 7.0]])
        made.item.weight[1:] = torch.tensor([[0.5, 0.25], [2.0, 1.0], [7.0, 7.0]])
        made.user_bias.weight[1] = 0.5
        made.item_bias.weight[1:3, 0] = torch.tensor([-0.25, 0.125])
    return made


def test_equation_4(model):
    output = model(rows([1, 1], [1, 2], [0, 0]), TRAINING)
    assert output["rating"].tolist() == [
        3 - 0.25 + 0.5 + 1 * 0.5 + 2 * 0.25,
        3 + 0.125 + 0.5 + 2 + 2,
    ]


def test_equation_5(model):
    """One rating of 4 (error -0.25) with weight 2, one of 5 (error 2.625)."""
    batch = rows([1, 1], [1, 2], [4.0, 5.0], [2.0, 1.0])
    parts = model.loss(batch, model(batch, TRAINING), TRAINING)
    assert parts["squared_error"].sum.item() == 2 * 0.25**2 + 2.625**2
    assert parts["l2_factor"].sum.item() == 2 * (5 + 0.3125) + (5 + 5)
    assert parts["l2_bias"].sum.item() == 2 * (0.25 + 0.0625) + (0.25 + 0.015625)
    assert [(float(term.count), term.coefficient) for term in parts.values()] == [
        (3, 1),
        (3, 0.1),
        (3, 0.01),
    ]


def test_one_step_is_korens_update(model):
    """b += g (e - l b), p += g (e q - l p) with g = 2 lr: the updates under equation 5 in the
    paper.
    """
    p, q, b_u, b_i, error, g = (
        np.array([1.0, 2.0]),
        np.array([2.0, 1.0]),
        0.5,
        0.125,
        5 - 7.625,
        0.2,
    )
    batch = rows([1], [2], [5.0])
    worlds.total(worlds.terms(model, batch, TRAINING)).backward()
    torch.optim.SGD(model.parameter_groups(), lr=0.1).step()
    np.testing.assert_allclose(model.user.weight[1].detach(), p + g * (error * q - 0.1 * p))
    np.testing.assert_allclose(model.item.weight[2].detach(), q + g * (error * p - 0.1 * q))
    np.testing.assert_allclose(model.user_bias.weight[1].item(), b_u + g * (error - 0.01 * b_u))
    np.testing.assert_allclose(model.item_bias.weight[2].item(), b_i + g * (error - 0.01 * b_i))
    # Rows outside the batch stay
    assert model.user.weight[2].tolist() == [7, 7] and model.item.weight[1].tolist() == [
        0.5,
        0.25,
    ]


def test_predictions_are_clamped(model):
    batch = rows([1, 1], [1, 2], [0, 0])
    assert model.predict(batch)["rating"].tolist() == [4.25, 5.0]
    with torch.no_grad():
        model.item_bias.weight[2] = -9
    assert model.predict(batch)["rating"].tolist() == [4.25, 1.0]


def test_what_training_never_met_adds_nothing(model):
    """User 2 and item 3 have indices but no training row; 0 is out of vocabulary."""
    met_item, met_user, mean = 3 - 0.25, 3 + 0.5, 3.0
    batch = rows([2, 0, 1, 1, 2, 0], [1, 1, 3, 0, 3, 0], [0] * 6)
    expected = [met_item, met_item, met_user, met_user, mean, mean]
    assert model.predict(batch)["rating"].tolist() == expected
    assert model.score(Query(torch.tensor([2, 1]), worlds.ragged([[], []]))).tolist() == [
        [3.0, 2.75, 3.125, 3.0],
        [3.5, 4.25, 7.625, 3.5],
    ]


def test_all_that_training_meets_counts():
    """Every bias has left zero after one step, so that no trained row is taken for an unknown
    one.
    """
    model = registry.build("mf_bias", {}, worlds.SIZES, seed=1)
    everyone = torch.arange(1, 26)
    # Labels equal to the mean: the hardest case
    batch = Rows(everyone, everyone, torch.full((25,), 3.5), torch.ones(25), everyone)
    worlds.total(worlds.terms(model, batch, TRAINING)).backward()
    torch.optim.Adam(model.parameter_groups()).step()
    assert (model.user_bias.weight[1:26] != 0).all() and (model.item_bias.weight[1:] != 0).all()
    assert (model.user_bias.weight[26:] == 0).all() and model.user_bias.weight[0] == 0


def test_factors_explain_what_biases_cannot():
    """A planted world of tastes (rank 2): without its factors the same model predicts clearly
    worse.
    """
    train, held, sizes = worlds.planted()
    model = worlds.fit("mf_bias", {"dim": 4, "l2_factor": 0.02}, train, sizes, steps=600)
    rows = worlds.rows_of(held)
    full = (model.predict(rows)["rating"] - rows.label).square().mean()
    with torch.no_grad():
        model.user.weight.zero_()
    assert full < 0.6 * (model.predict(rows)["rating"] - rows.label).square().mean()
