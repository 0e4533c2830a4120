"""multi_dae against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import noise, profiles
from tests.models import worlds
from tests.models.test_multi_vae import LISTS, ones
from tests.shardsets import Events


def scores_of(model, x):
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    return (
        weights["last"] @ np.tanh(x @ weights["first"] + weights["first_bias"])
        + weights["last_bias"]
    )


def normed(items):
    return ones(items) / max(1, np.sqrt(len(items)))


def test_scores_are_those_of_the_normalised_profile():
    model = worlds.stirred("multi_dae", {"hidden_dim": 5})
    scores = model.score(Query(torch.zeros(4), worlds.ragged(LISTS))).detach().numpy()
    for items, found in zip(LISTS, scores, strict=True):
        np.testing.assert_allclose(found, scores_of(model, normed(items)), rtol=1e-12)
    padded = model.score(Query(torch.zeros(1), worlds.ragged([[0, *LISTS[0]]])))[0].detach().numpy()
    np.testing.assert_allclose(padded, scores[0], rtol=1e-12)


def test_loss_with_hidden_items():
    """Equation 2 on the whole profile, from an input in which the drawn items are hidden and the
    others count double.
    """
    model = worlds.stirred("multi_dae", {"hidden_dim": 5, "dropout": 0.5, "l2": 0.01})
    batch = worlds.profiles(LISTS, torch.tensor([10, 11, 12, 2**33])).to("cpu", torch.float64)
    drawn = noise.uniform(noise.key(4, "dropout", 2, 3), batch.row, 26).numpy()
    nll = 0.0
    for items, draw in zip(LISTS, drawn, strict=True):
        logits = scores_of(model, normed(items) * (draw >= 0.5) * 2)[1:]
        nll -= sum(logits[i - 1] - np.log(np.exp(logits).sum()) for i in items)
    parts = worlds.terms(model, batch, Context(seed=4, step=3, epoch=2, training=True))
    assert parts["nll"].sum.item() == pytest.approx(nll, rel=1e-6) and parts["nll"].count == 4
    weights = sum(float(weight[1:].detach().square().sum()) for weight in (model.first, model.last))
    assert parts["l2"].sum.item() / 4 == pytest.approx(weights) and parts["l2"].coefficient == 0.01


def groups():
    """(group, profiles): users like a sixth of the items, their group's, and their profiles hold
    six of those ten.
    """
    draw = np.random.default_rng(0)
    group = draw.integers(0, 6, 120)
    return group, [draw.permutation(np.arange(1 + g, 61, 6))[:6] for g in group]


def learned(met, dropout):
    train = Events(
        np.repeat(np.arange(1, 121, dtype=np.int32), 6),
        np.concatenate(met).astype(np.int32),
        np.ones(720, np.float32),
    )
    return worlds.fit(
        "multi_dae",
        {"hidden_dim": 64, "dropout": dropout, "l2": 0.0},
        train,
        Sizes(120, 60),
        steps=400,
        rows=60,
    )


def test_the_profile_tells_the_group():
    """Held: the other four items of the group. An oracle finds all four; without a profile there is
    only popularity.
    """
    group, met = groups()
    model, closed = learned(met, 0.5), []
    for histories in ([sorted(map(int, items)) for items in met], [[]] * 120):
        scores = model.score(Query(torch.arange(1, 121), worlds.ragged(histories))).detach().numpy()
        hits = []
        for g, seen, row in zip(group, met, scores, strict=True):
            row[[0, *seen]] = -np.inf
            hits.append(np.mean((np.argsort(-row)[:4] - 1) % 6 == g))
        closed.append((np.mean(hits) - 4 / 54) / (1 - 4 / 54))
    assert closed[0] > 0.5 > closed[1], (
        f"closes {closed[0]:.2f} of the gap with a profile, {closed[1]:.2f} without"
    )


def test_hidden_items_keep_it_from_copying():
    """A wide network that sees all of a profile learns to give it back: what the profile lacks of
    its group becomes unlikely.
    """
    group, met = groups()
    held = [
        [item for item in range(1 + g, 61, 6) if item not in seen]
        for g, seen in zip(group, met, strict=True)
    ]
    nll = []
    for dropout in (0.5, 0.0):
        query = Query(
            torch.arange(1, 121), worlds.ragged([sorted(map(int, items)) for items in met])
        )
        nll.append(
            float(
                profiles.multinomial(
                    learned(met, dropout).score(query).detach(), worlds.ragged(held)
                )
            )
        )
    assert nll[0] < 0.8 * nll[1]
