"""autorec_item: the same network over items' vectors, whose columns are users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_spark.models import registry
from recsys_spark.models.base import Context
from tests.models import worlds
from tests.models.test_autorec_user import batch, closed, reconstruction


def test_a_column_for_each_user():
    model = worlds.stirred("autorec_item", {"hidden_dim": 5})
    assert model.first.shape == model.last.shape == (31, 5) and model.last_bias.shape == (31,)
    rows = replace(batch(), items=worlds.ragged([[2, 7, 30], [], [1]]))
    expected = reconstruction(model, [2, 7, 30], [5.0, 1.0, 4.0])
    found = model(rows, Context())["rating"][0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        model.predict(rows)["rating"][:2].detach().numpy(),
        np.clip(expected[[4, 2]], 1, 5),
        rtol=1e-12,
    )


def test_an_item_without_ratings_gets_what_is_known_of_the_user_and_a_new_user_the_mean():
    """User 2 gives high ratings, user 5 none."""
    model = registry.build("autorec_item", {"hidden_dim": 4}, worlds.SIZES, seed=1)
    train = replace(
        worlds.profiles([[1, 2], [2, 3], [1, 2, 3]]),
        values=torch.tensor([3.0, 5.0, 5.0, 2.0, 3.0, 5.0, 3.0]),
    )
    optimiser = torch.optim.Adam(model.parameter_groups(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        worlds.total(worlds.terms(model, train, Context(training=True))).backward()
        optimiser.step()
    new = replace(
        worlds.profiles([[]]), held=worlds.ragged([[2, 1, 5]]), held_values=torch.zeros(3)
    )
    of_high, of_low, of_none = model.predict(new)["rating"].tolist()
    assert of_high > 4 > 3.5 > of_low and of_none == 3.5


@pytest.mark.parametrize(("blind", "closes"), [(False, True), (True, False)])
def test_what_some_thought_of_an_item_tells_the_rest(blind, closes):
    share = closed("autorec_item", {"hidden_dim": 8, "l2": 1.0}, "item", blind)
    assert share > 0.5 if closes else share < 0.5, f"closes {share:.2f} of the gap"
