"""autorec_user against plain numpy: equation 1, the loss over what is observed, and what an unknown
gets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.core.errors import ShardError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import worlds
from tests.shardsets import Events

LISTS, VALUES = [[2, 7, 25], [], [1]], [5.0, 1.0, 4.0, 2.0]
TRAINING = Context(training=True)


def reconstruction(model, items, values):
    """Equation 1 of one row, out in deviations from 3.5, the dense way."""
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    x = np.zeros(len(weights["first"]))
    x[items] = np.array(values) - (3.5 if model.config.centred else 0.0)
    hidden = 1 / (1 + np.exp(-(x @ weights["first"] + weights["first_bias"])))
    return 3.5 + weights["last"] @ hidden + weights["last_bias"]


def batch():
    made = worlds.profiles(LISTS)
    return replace(
        made,
        values=torch.tensor(VALUES),
        held=worlds.ragged([[4, 2], [9], []]),
        held_values=torch.tensor([1.0, 2.0, 3.0]),
    ).to("cpu", torch.float64)


@pytest.fixture(params=[False, True], ids=["as they are", "centred"])
def model(request):
    return worlds.stirred("autorec_user", {"hidden_dim": 5, "l2": 18.0, "centred": request.param})


def test_equation_1(model):
    expected = [
        reconstruction(model, [2, 7, 25], VALUES[:3]),
        reconstruction(model, [], []),
        reconstruction(model, [1], VALUES[3:]),
    ]
    rows = batch()
    for found in (
        model(rows, TRAINING)["rating"],
        model.score(Query(rows.user, rows.items, rows.values)),
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    held = [expected[0][4], expected[0][2], expected[1][9]]
    np.testing.assert_allclose(
        model.predict(rows)["rating"].detach().numpy(), np.clip(held, 1, 5), rtol=1e-12
    )


def test_the_loss_is_over_observed_entries_alone(model):
    expected = [
        reconstruction(model, items, values)[items] - values
        for items, values in (([2, 7, 25], VALUES[:3]), ([1], VALUES[3:]))
    ]
    parts = worlds.terms(model, batch(), TRAINING)
    assert parts["squared_error"].sum.item() == pytest.approx(
        sum((error**2).sum() for error in expected), rel=1e-12
    )
    assert float(parts["squared_error"].count) == 4
    norms = sum(float(weight[1:].detach().square().sum()) for weight in (model.first, model.last))
    # lambda / 2 beside the errors of all 360 ratings, of which these are 4.
    assert parts["l2"].coefficient * parts["l2"].sum.item() == pytest.approx(
        4 / 360 * 18 / 2 * norms, rel=1e-12
    )


def test_no_weight_of_an_unobserved_entry_moves():
    """But by the regulariser, which is off here."""
    model = worlds.stirred("autorec_user", {"hidden_dim": 5, "l2": 0.0})
    worlds.total(worlds.terms(model, batch(), TRAINING)).backward()
    observed = np.zeros(26, bool)
    observed[[1, 2, 7, 25]] = True
    for weight in (model.first, model.last, model.last_bias):
        assert weight.grad is not None
        assert (weight.grad.reshape(26, -1).abs().amax(1) > 0).tolist() == observed.tolist()


def test_an_item_that_training_never_met_is_predicted_the_mean():
    """And a user without ratings what an empty profile gives."""
    model = registry.build("autorec_user", {"hidden_dim": 5}, worlds.SIZES, seed=1).double()
    worlds.total(worlds.terms(model, batch(), TRAINING)).backward()
    torch.optim.Adam(model.parameter_groups(), lr=0.05).step()
    predicted = model.predict(batch())["rating"].tolist()
    # Items 4 and 9 are new, 2 is not
    assert predicted[0] == predicted[2] == 3.5 and abs(predicted[1] - 3.5) > 1e-3
    lone = replace(batch(), held=worlds.ragged([[], [2], []]), held_values=torch.zeros(1))
    assert model.predict(lone)["rating"].item() == pytest.approx(
        reconstruction(model, [], [])[2], rel=1e-9
    )


def test_a_batch_of_one_row(model):
    rows = batch()
    torch.testing.assert_close(
        model.predict(worlds.take(rows, [0]))["rating"], model.predict(rows)["rating"][:2]
    )


def test_shards_without_ratings_are_refused():
    with pytest.raises(
        ShardError,
        match="statistics of the shard set: found none; "
        "expected label_mean.*To mend: .*label: value",
    ):
        registry.build("autorec_user", {}, Sizes(3, 3), seed=1)


def crowd(seed=0, users=150, items=40, per_user=16):
    """Users of two kinds who rate two kinds of items around 4.5 or 1.5, the other way round. Train,
    held, and the oracle's answers.
    """
    draw = np.random.default_rng(seed)
    likes = np.where((np.arange(users)[:, None] + np.arange(items)) % 2 == 0, 4.5, 1.5)
    values = np.clip(np.round(likes + 0.4 * draw.normal(size=likes.shape)), 1, 5)
    met = np.argsort(draw.random(likes.shape), axis=1)[:, :per_user]
    parts = []
    for chosen in (met[:, : per_user // 2], met[:, per_user // 2 :]):
        user, item = np.repeat(np.arange(users), chosen.shape[1]), chosen.ravel()
        parts.append(
            Events(
                (user + 1).astype(np.int32),
                (item + 1).astype(np.int32),
                values[user, item].astype(np.float32),
            )
        )
    held = parts[1]
    statistics = {
        "label_count": float(len(parts[0].value)),
        "label_mean": float(parts[0].value.mean()),
        "label_min": 1.0,
        "label_max": 5.0,
    }
    oracle = float(np.mean((held.value - likes[held.user - 1, held.item - 1]) ** 2))
    return parts[0], held, Sizes(users, items, statistics), oracle


def closed(name, config, by, blind):
    """The share of the gap between the mean and the oracle that is closed; `blind`: the profiles
    come empty.
    """
    train, held, sizes, oracle = crowd()
    model = worlds.fit(name, config, train, sizes, steps=400, rows=20)
    rows = worlds.profiles_of(np.arange(1, 1 + {"user": 150, "item": 40}[by]), train, held, by)
    rows = (
        replace(rows, items=worlds.ragged([[]] * len(rows.user)), values=rows.values[:0])
        if blind
        else rows
    )
    baseline = float(((rows.held_values - sizes.statistics["label_mean"]) ** 2).mean())
    return (
        baseline
        - float((model.predict(rows)["rating"].detach() - rows.held_values).square().mean())
    ) / (baseline - oracle)


@pytest.mark.parametrize(("blind", "closes"), [(False, True), (True, False)])
def test_what_a_user_thought_of_some_tells_the_rest(blind, closes):
    share = closed("autorec_user", {"hidden_dim": 8, "l2": 1.0}, "user", blind)
    assert share > 0.5 if closes else share < 0.5, f"closes {share:.2f} of the gap"
