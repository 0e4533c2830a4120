"""mf_mixture: by hand, with one taste the same as mf_bias, and a world where users have two
tastes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise.mf_mixture import mixture
from tests.models import worlds
from tests.models.test_mf_bias import rows
from tests.shardsets import Events

TRAINING = Context(training=True)


def test_the_mixture_by_hand():
    """Attention (1, 0) and (0, 0) on an item at (log 3, 0): weights 3/4 and 1/4; tastes of it 2 log
    3 and 4 log 3.
    """
    tastes, attention = (
        torch.tensor([[[2.0, 9.0], [4.0, -9.0]]]),
        torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]),
    )
    item = torch.tensor([[math.log(3), 0.0]])
    expected = math.log(3) * (0.75 * 2 + 0.25 * 4)
    assert mixture(tastes, attention, item).item() == pytest.approx(expected, rel=1e-6)
    assert mixture(tastes, attention, item[None]).item() == pytest.approx(expected, rel=1e-6)


def test_rating_and_loss_by_hand():
    model = registry.build(
        "mf_mixture",
        {"dim": 1, "num_tastes": 2, "l2_factor": 0.1},
        Sizes(1, 1, {"label_mean": 3.0}),
        seed=1,
    ).double()
    with torch.no_grad():
        for table, values in (
            (model.user, [2.0]),
            (model.more, [4.0]),
            (model.attention, [1.0, 0.0]),
            (model.item, [math.log(3)]),
            (model.user_bias, [0.5]),
            (model.item_bias, [-0.25]),
        ):
            table.weight[1] = torch.tensor(values)
    batch = rows([1], [1], [3.0])
    rating = 3.25 + math.log(3) * 2.5
    assert model.predict(batch)["rating"].item() == pytest.approx(rating, rel=1e-6)
    assert model.score(Query(batch.user, worlds.ragged([[]])))[0, 1].item() == pytest.approx(
        rating, rel=1e-6
    )
    parts = worlds.terms(model, batch, TRAINING)
    assert parts["squared_error"].sum.item() == pytest.approx((rating - 3) ** 2, rel=1e-6)
    assert parts["l2_factor"].sum.item() == pytest.approx(4 + 16 + 1 + math.log(3) ** 2, rel=1e-6)


def test_with_one_taste_it_is_mf_bias():
    """The same seed, the same three steps: equal to the last bit."""
    config = {"dim": 4, "l2_factor": 0.05, "l2_bias": 0.02, "init_std": 0.1}
    both = [
        registry.build("mf_bias", config, worlds.SIZES, seed=3),
        registry.build("mf_mixture", {**config, "num_tastes": 1}, worlds.SIZES, seed=3),
    ]
    for model in both:
        optimiser = torch.optim.Adam(model.parameter_groups(), lr=0.05)
        for seed in range(3):
            optimiser.zero_grad()
            worlds.total(
                worlds.terms(model, worlds.batch("pointwise", seed=seed).to("cpu"), TRAINING)
            ).backward()
            optimiser.step()
    # Two paths of code: equal to rounding, which differs from processor to processor
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(*(model.score(worlds.query()) for model in both), **close)
    torch.testing.assert_close(
        *(model.predict(worlds.batch("pointwise").to("cpu"))["rating"] for model in both), **close
    )


def test_what_training_never_met_adds_nothing():
    model = registry.build("mf_mixture", {"dim": 4}, worlds.SIZES, seed=3)
    batch = rows([0, 5, 7], [3, 0, 9], [0.0] * 3).to("cpu")
    assert model.predict(batch)["rating"].tolist() == [3.5] * 3


def two_tastes(seed=0, users=200, items=60, per_user=20):
    """Items lie in three directions at 120 degrees; a user likes items of two of them and not those
    of the third, with noise.

    Returns train, held (events of the same users), and what an oracle predicts for the held ones.
    """
    draw = np.random.default_rng(seed)
    kind = np.arange(items) % 3
    disliked = draw.integers(0, 3, users)
    likes = np.where(kind[None] == disliked[:, None], 1.5, 4.5)  # (U, I)
    values = np.clip(likes + 0.3 * draw.normal(size=likes.shape), 1, 5)
    met = np.argsort(draw.random((users, items)), axis=1)[:, : 2 * per_user]
    user = np.repeat(np.arange(users), per_user)

    def events(columns):
        return Events(
            (user + 1).astype(np.int32),
            (columns.ravel() + 1).astype(np.int32),
            values[user, columns.ravel()].astype(np.float32),
        )

    return (
        events(met[:, :per_user]),
        events(met[:, per_user:]),
        torch.from_numpy(likes[user, met[:, per_user:].ravel()]),
    )


@pytest.mark.parametrize(("num_tastes", "closes"), [(2, True), (1, False)])
def test_two_tastes_need_two_vectors(num_tastes, closes):
    """One number an item: a single taste puts the items on a line, and cannot like both its ends
    and not the middle.
    """
    train, held, oracle = two_tastes()
    sizes = Sizes(
        200, 60, {"label_mean": float(train.value.mean()), "label_min": 1.0, "label_max": 5.0}
    )
    config = {"dim": 1, "num_tastes": num_tastes, "l2_factor": 0.002, "init_std": 0.3}
    batch = worlds.rows_of(held)
    model = worlds.fit("mf_mixture", config, train, sizes, steps=800)
    baseline, found, best = (
        (value - batch.label).square().mean()
        for value in (
            sizes.statistics["label_mean"],
            model.predict(batch)["rating"].detach(),
            oracle,
        )
    )
    closed = float((baseline - found) / (baseline - best))
    assert closed > 0.5 if closes else closed < 0.5, f"closes {closed:.2f} of the gap"
