"""mf_vanilla by hand: equation 4 of probabilistic matrix factorization."""

from __future__ import annotations

import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import worlds
from tests.models.test_mf_bias import rows

TRAINING = Context(training=True)
STATISTICS = {"label_mean": 3.0, "label_min": 1.0, "label_max": 5.0}


def made(**config):
    """2 users, 3 items, width 2, mean 3."""
    model = registry.build(
        "mf_vanilla", {"dim": 2, "l2": 0.1, **config}, Sizes(2, 3, STATISTICS), seed=1
    ).double()
    with torch.no_grad():
        model.user.weight[1:] = torch.tensor([[1.0, 2.0], [7.0, 7.0]])
        model.item.weight[1:] = torch.tensor([[0.5, 0.25], [2.0, 1.0], [-7.0, -7.0]])
    return model


@pytest.mark.parametrize(("centred", "mean"), [(True, 3.0), (False, 0.0)])
def test_the_dot_product_and_nothing_else(centred, mean):
    model = made(centred=centred)
    assert model(rows([1, 1], [1, 2], [0, 0]), TRAINING)["rating"].tolist() == [
        mean + 1.0,
        mean + 4.0,
    ]
    assert {name for name, _ in model.named_parameters()} == {"user.weight", "item.weight"}


def test_equation_4():
    """One rating of 4.5 (error -0.5) with weight 2, one of 5 (error 2); the norms of the rows in
    the batch, each time they occur.
    """
    model, batch = made(), rows([1, 1], [1, 2], [4.5, 5.0], [2.0, 1.0])
    parts = model.loss(batch, model(batch, TRAINING), TRAINING)
    assert parts["squared_error"].sum.item() == 2 * 0.25 + 4
    assert parts["l2"].sum.item() == 2 * (5 + 0.3125) + (5 + 5)
    assert [(float(term.count), term.coefficient) for term in parts.values()] == [(3, 1), (3, 0.1)]


def test_rows_outside_the_batch_stay():
    model = made()
    worlds.total(worlds.terms(model, rows([1], [2], [5.0]), TRAINING)).backward()
    torch.optim.SGD(model.parameter_groups(), lr=0.1).step()
    assert model.user.weight[2].tolist() == [7, 7] and model.item.weight[[1, 3]].tolist() == [
        [0.5, 0.25],
        [-7, -7],
    ]
    assert model.user.weight[1].tolist() != [1, 2]


def test_predictions_are_clamped_and_index_0_gets_the_mean():
    model = made()
    assert model.predict(rows([1, 2, 2, 0, 1], [1, 2, 3, 1, 0], [0] * 5))["rating"].tolist() == [
        4.0,
        5.0,
        1.0,
        3.0,
        3.0,
    ]
    assert model.score(Query(torch.tensor([0]), worlds.ragged([[]]))).tolist() == [[3.0] * 4]


def test_factors_close_the_gap_to_the_oracle():
    """A planted world of tastes (rank 2) with no noise but rounding, so that an oracle errs by
    nearly nothing: half of the variance.
    """
    train, held, sizes = worlds.planted()
    labels = worlds.rows_of(held)
    model = worlds.fit("mf_vanilla", {"dim": 4, "l2": 0.02}, train, sizes, steps=600)
    spread = (labels.label - sizes.statistics["label_mean"]).square().mean()
    assert (model.predict(labels)["rating"] - labels.label).square().mean() < 0.5 * spread
    with torch.no_grad():
        model.user.weight.zero_()
    assert (model.predict(labels)["rating"] - labels.label).square().mean() > 0.99 * spread
