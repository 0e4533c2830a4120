"""fm: Rendle's equation 1 by brute force over all pairs, his linear-time form, and a world of
pairs.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import field_worlds, worlds

TRAINING = Context(training=True)


def test_equation_1_over_all_pairs() -> None:
    """Every pair of features, tags among themselves too, with their real-valued weights."""
    model, batch = worlds.stirred("fm", {"dim": 5}), worlds.batch("pointwise", rows=40)
    table = model.table.table.weight.detach().numpy()
    slots = field_worlds.slots(model, batch)
    output = model(batch, TRAINING)["output"]
    assert (slots.weight != 1).any() and (slots.feature == 0).any()
    for row in range(40):
        features = list(zip(slots.feature[row].tolist(), slots.weight[row].tolist(), strict=True))
        expected = model.w0.item() + sum(table[i, 0] * x for i, x in features)
        expected += sum(
            table[i, 1:] @ table[j, 1:] * x * y for (i, x), (j, y) in combinations(features, 2)
        )
        assert output[row].item() == pytest.approx(expected, abs=1e-5)


def test_a_pair_by_hand() -> None:
    """User 1 (w = .5, v = (1, 2)) and item 1 (w = -.25, v = (3, -1)): 3 + .5 - .25 + 3 - 2."""
    model = registry.build(
        "fm",
        {"dim": 2, "l2_factor": 0.1, "l2_bias": 0.01},
        Sizes(1, 1, {"label_mean": 3.0}),
        seed=1,
    )
    with torch.no_grad():
        model.table.table.weight[1:] = torch.tensor([[0.5, 1.0, 2.0], [-0.25, 3.0, -1.0]])
    one = torch.ones(1)
    batch = Rows(one.int(), one.int(), 4 * one, 2 * one, one.long())
    output = model(batch, TRAINING)
    assert output["output"].item() == 4.25
    parts = model.loss(batch, output, TRAINING)
    assert parts["squared_error"].sum.item() == 2 * 0.25**2
    assert parts["l2_factor"].sum.item() == 2 * (5 + 10) and parts["l2_bias"].sum.item() == 2 * (
        0.25 + 0.0625
    )
    assert [(float(term.count), term.coefficient) for term in parts.values()] == [
        (2, 1),
        (2, 0.01),
        (2, 0.1),
    ]


def test_clicks_are_probabilities() -> None:
    model, batch = worlds.stirred("fm", {"task": "click"}), worlds.batch("pointwise", seed=1)
    logit = model(batch, Context())["output"]
    # Two ways to the same number: equal to the last bit on some processors alone.
    torch.testing.assert_close(model.predict(batch)["click"], 1 / (1 + torch.exp(-logit)))
    expected = -(
        batch.weight
        * (
            batch.label * torch.log(1 / (1 + torch.exp(-logit)))
            + (1 - batch.label) * torch.log(1 / (1 + torch.exp(logit)))
        )
    ).sum()
    assert model.loss(batch, model(batch, Context()), Context())[
        "cross_entropy"
    ].sum.item() == pytest.approx(expected.item())
    assert (
        registry.find("fm").task_of({"task": "click"}) == model.task == "click"
        and registry.find("fm").task_of({}) == "rating"
    )


def test_ratings_are_clamped_and_one_row_is_enough() -> None:
    model, batch = worlds.stirred("fm", {}), worlds.batch("pointwise", rows=1)
    with torch.no_grad():
        model.w0.fill_(99.0)
    assert model.predict(batch)["rating"].tolist() == [5.0]


def pairs(seed: int = 3) -> field_worlds.World:
    """What an age makes of a genre (rank 2), held are the rows of new users, of whom nothing is
    known but their age.
    """
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 6))
    return field_worlds.make(
        lambda row: 3 + taste[row["age"], row["genre"]],
        {"age": ("user", 5), "genre": ("item", 6)},
        clicks=False,
        cold=True,
    )


def test_pairs_of_fields_predict_new_users() -> None:
    world = pairs()
    config = {"dim": 4, "l2_factor": 0.001, "l2_bias": 0.001}
    mean = world.sizes.statistics["label_mean"]
    model = field_worlds.fit("fm", config, world)
    assert world.share(field_worlds.predictions(model, world), mean) > 0.8
    without = field_worlds.fit("fm", config, world, fields=False)
    assert world.share(field_worlds.predictions(without, world), mean) < 0.5
    with torch.no_grad():
        model.table.table.weight[:, 1:] = 0.0  # its weights alone, without pairs
    assert world.share(field_worlds.predictions(model, world), mean) < 0.5
