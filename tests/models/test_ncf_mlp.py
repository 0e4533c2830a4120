"""ncf_mlp by hand: equations 7 and 10 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import blockwise, tower
from tests.models import taste_worlds, worlds


def rows(users, items, labels):
    return Rows(
        torch.tensor(users),
        torch.tensor(items),
        torch.tensor(labels, dtype=torch.float64),
        torch.ones(len(users), dtype=torch.float64),
        torch.arange(len(users)),
    )


@pytest.fixture
def hand():
    """k = 1, [4k, 2k, k]: [1 -1 | 2 4] -> relu -> relu."""
    model = registry.build("ncf_mlp", {"dim": 1}, Sizes(1, 1), seed=1).double()
    with torch.no_grad():
        model.user.weight[1], model.item.weight[1] = torch.tensor([1.0, -1]), torch.tensor([2.0, 4])
        first, second = model.tower
        first.weight[:], first.bias[:] = (
            torch.tensor([[1.0, 1, 1, 0], [0, 1, 0, -1]]),
            torch.tensor([0.5, 1]),
        )
        second.weight[:], second.bias[:] = torch.tensor([[2.0, 5]]), torch.tensor([-1.0])
        model.output.weight[:], model.output.bias[:] = -0.25, 0.125
    return model


def test_by_hand(hand):
    # first layer: [1 - 1 + 2 + 0.5, -1 - 4 + 1] = [2.5, -4] -> [2.5, 0]; second: 2 * 2.5 - 1 = 4;
    # logit -0.25 * 4 + 0.125
    batch = rows([1, 1], [1, 1], [1.0, 0.0])
    output = hand(batch, Context())
    assert output["logit"].tolist() == [-0.875, -0.875]
    assert hand.score(
        Query(torch.tensor([1]), worlds.ragged([[]])), torch.tensor([1])
    ).tolist() == [[-0.875]]
    term = hand.loss(batch, output, Context())["cross_entropy"]
    assert (
        term.sum.item()
        == pytest.approx(np.log1p(np.exp(0.875)) + np.log1p(np.exp(-0.875)), abs=1e-12)
        and float(term.count) == 2
    )


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_against_numpy(num_layers):
    """Each layer half as wide as the one before; for two layers [4k, 2k, k]."""
    k = 3
    model = worlds.stirred("ncf_mlp", {"dim": k, "num_layers": num_layers, "l2": 0.5})
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    assert [tuple(layer.weight.shape) for layer in model.tower] == [
        (k * 2 ** (n - 1), k * 2**n) for n in range(num_layers, 0, -1)
    ]
    batch = worlds.batch("pointwise")
    expected = []
    for u, i in zip(batch.user.tolist(), batch.item.tolist(), strict=True):
        z = np.concatenate([weights["user.weight"][u], weights["item.weight"][i]])
        for n in range(num_layers):
            z = np.maximum(weights[f"tower.{n}.weight"] @ z + weights[f"tower.{n}.bias"], 0)
        expected.append(weights["output.weight"][0] @ z + weights["output.bias"][0])
    np.testing.assert_allclose(model(batch, Context())["logit"].detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("block", [1, 60, 1 << 21])
def test_the_catalogue_in_blocks_equals_forward(block, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", block)
    model = worlds.stirred("ncf_mlp", {"dim": 4})
    users = torch.arange(1, 6)
    scores = model.score(Query(users, worlds.ragged([[]] * 5)))
    everything = rows(users.repeat_interleave(26).tolist(), list(range(26)) * 5, [0.0] * 130)
    torch.testing.assert_close(
        scores, model(everything, Context())["logit"].view(5, 26), rtol=1e-12, atol=1e-12
    )


def test_its_layers_find_what_users_like(monkeypatch):
    """Fresh negatives at each step. With linear layers it is a user's part plus an item's, which
    tells no users apart.
    """
    world = taste_worlds.make()
    settings = {"steps": 300, "rows": 256, "lr": 0.02}
    model = worlds.fit("ncf_mlp", {"dim": 4, "init_std": 0.1}, world.train, world.sizes, **settings)
    assert taste_worlds.share(model, world) > 0.5
    monkeypatch.setattr(tower.F, "relu", lambda z: z)
    linear = worlds.fit(
        "ncf_mlp", {"dim": 4, "init_std": 0.1}, world.train, world.sizes, **settings
    )
    assert taste_worlds.share(linear, world) < 0.5
