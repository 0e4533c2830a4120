"""rbm_cf against exact enumeration: distributions, free energy, the gradient of contrastive
divergence.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.profile.rbm_cf import RbmCf
from tests.models import worlds
from tests.models.test_autorec_user import closed

STATISTICS = {"label_count": 9.0, "label_mean": 1.6, "label_min": 1.0, "label_max": 2.0}


def tiny(**config):
    """Three items of two levels and three hidden units: six units in all, 8 visible states, 8
    hidden ones.
    """
    model = registry.build(
        "rbm_cf", {"hidden_dim": 3, "weight_decay": 0.0, **config}, Sizes(9, 3, STATISTICS), seed=1
    ).double()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.6 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return model


def rows(lists, values, **more):
    return replace(worlds.profiles(lists), values=torch.tensor(values, dtype=torch.float64), **more)


def energies(model, items):
    """-energy of every (visible, hidden) state over these items, by numpy: (2^n, 8), and the
    visible states.
    """
    weight = model.weight.detach().numpy().reshape(4, 2, 3)
    visible, hidden_bias = model.visible_bias.detach().numpy(), model.hidden_bias.detach().numpy()
    if model.config.conditional:
        hidden_bias = hidden_bias + sum(model.rated.detach().numpy()[i] for i in items)
    states = list(itertools.product(range(2), repeat=len(items)))
    hidden = np.array(list(itertools.product(range(2), repeat=3)))
    made = [
        [
            sum(visible[i, k] + weight[i, k] @ h for i, k in zip(items, state, strict=True))
            + hidden_bias @ h
            for h in hidden
        ]
        for state in states
    ]
    return np.array(made), states, hidden


@pytest.mark.parametrize("conditional", [False, True])
def test_free_energy_sums_over_the_hidden_states_of_rated_items(conditional):
    """Items that are not rated are absent: item 2 here."""
    model = tiny(conditional=conditional)
    minus, states, _ = energies(model, [1, 3])
    for state, energy in zip(states, minus, strict=True):
        batch = rows([[1, 3]], [1.0 + level for level in state])
        found = model(batch, Context())["data"].item()
        assert found == pytest.approx(-np.log(np.exp(energy).sum()), rel=1e-12)


def test_hidden_units_and_predictions():
    """Equations 1 and 2, and the expectation over both levels."""
    model = tiny()
    batch = rows(
        [[1, 3], []], [2.0, 1.0], held=worlds.ragged([[2], [2]]), held_values=torch.zeros(2)
    )
    minus, _, hidden = energies(model, [1, 3])
    given = np.exp(minus[2])  # the state (1, 0)
    on = (given[:, None] * hidden).sum(0) / given.sum()
    weight, bias = (
        model.weight.detach().numpy().reshape(4, 2, 3),
        model.visible_bias.detach().numpy(),
    )
    expected = []
    # Without ratings the biases decide
    for chance in (
        on,
        1 / (1 + np.exp(-model.hidden_bias.detach().numpy())),
    ):
        p = np.exp(weight[2] @ chance + bias[2])
        expected.append(1 + (p / p.sum())[1])
    np.testing.assert_allclose(
        model.predict(batch)["rating"].detach().numpy(), expected, rtol=1e-12
    )
    scores = model.score(Query(batch.user, batch.items, batch.values))[:, 2]
    np.testing.assert_allclose(scores.detach().numpy(), expected, rtol=1e-12)


def exact_gradient(model, batch):
    """Of the mean negative log likelihood of fully rated rows, by autograd over the eight visible
    states.
    """
    everything = [
        rows([[1, 2, 3]], [1.0 + level for level in state])
        for state in itertools.product(range(2), repeat=3)
    ]
    log_z = torch.logsumexp(
        torch.stack([-model(one, Context())["data"][0] for one in everything]), 0
    )
    return torch.autograd.grad(
        model(batch, Context())["data"].mean() + log_z, list(model.parameters())
    )


def test_the_gradient_of_contrastive_divergence_is_that_of_the_likelihood_in_expectation():
    """Long chains over many draws, against enumeration: within 5 % of its length."""
    model = tiny(cd_steps=[25])
    once = [
        ([1, 2, 3], [1.0, 2.0, 2.0]),
        ([1, 2, 3], [2.0, 2.0, 1.0]),
        ([1, 2, 3], [1.0, 1.0, 1.0]),
    ]
    batch = rows([items for items, _ in once], [value for _, values in once for value in values])
    exact = torch.cat([part.flatten() for part in exact_gradient(model, batch)])
    many = 4000
    copies = rows(
        [items for items, _ in once] * many,
        [value for _, values in once for value in values] * many,
    )
    parts = worlds.terms(model, copies, Context(seed=3, training=True))
    found = torch.cat(
        [
            part.flatten()
            for part in torch.autograd.grad(worlds.total(parts), list(model.parameters()))
        ]
    )
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_one_step_of_gibbs_sampling_has_its_exact_distribution():
    """From the data, a hidden state drawn by equation 2, then each rating by equation 1:
    frequencies of 20,000 rows.
    """
    model, count = tiny(), 20_000
    batch = rows([[1, 3]] * count, [2.0, 1.0] * count)
    data = model._entries(batch.items, batch.values)
    sampled = model._sample(data, model._hidden(data), batch.row, Context(seed=2, training=True))
    states = sampled.level.view(count, 2).numpy()
    minus, every, hidden = energies(model, [1, 3])
    chances = np.exp(minus[2]) / np.exp(minus[2]).sum()  # of the hidden states
    weight, bias = (
        model.weight.detach().numpy().reshape(4, 2, 3),
        model.visible_bias.detach().numpy(),
    )
    for state in every:
        expected = 0.0
        for chance, h in zip(chances, hidden, strict=True):
            p = [np.exp(weight[i] @ h + bias[i]) for i in (1, 3)]
            expected += chance * np.prod([q[k] / q.sum() for q, k in zip(p, state, strict=True)])
        assert (states == state).all(1).mean() == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_weights_decay_and_the_biases_do_not(conditional):
    decaying, rest = tiny(weight_decay=0.2, conditional=conditional).parameter_groups()
    assert decaying["weight_decay"] == 0.2 and all(
        weight.dim() == 2 for weight in decaying["params"]
    )
    assert (
        len(decaying["params"]) == 1 + conditional
        and len(rest["params"]) == 2
        and "weight_decay" not in rest
    )


def test_gibbs_steps_grow_with_the_training():
    model = tiny(cd_steps=[1, 3, 5, 9])
    assert [
        model.cd_at(Context(step=step, total_steps=100)) for step in (0, 24, 25, 50, 75, 99, 100)
    ] == [1, 1, 3, 5, 9, 9, 9]
    assert model.cd_at(Context(step=50)) == 1


@pytest.mark.parametrize("value", [0.0, 1.5, 3.0, float("nan")])
def test_a_rating_outside_the_scale_is_named(value):
    with pytest.raises(
        DataError,
        match=rf"rating of a profile: found {value:g}; "
        r"expected "
        r"1 "
        r"to "
        r"2 "
        r"in "
        r"steps "
        r"of "
        r"1\. "
        r"To "
        r"mend: set config.step",
    ):
        tiny()(rows([[1, 3]], [1.0, value]), Context())


def test_a_step_that_does_not_divide_the_range_is_refused():
    with pytest.raises(
        ConfigError, match=r"config.step of rbm_cf: found 0.4; expected a part of the range 1 to 2"
    ):
        tiny(step=0.4)


def test_by_item_it_has_a_unit_for_each_user_and_cannot_rank():
    model = tiny(by="item")
    assert (
        model.visible_bias.shape == (10, 2)
        and RbmCf.by_of({"by": "item"}) == "item"
        and RbmCf.by_of({}) == "user"
    )
    with pytest.raises(
        ConfigError, match="ranking by rbm_cf by item: found a model of items' profiles"
    ):
        model.score(Query(torch.tensor([1]), worlds.ragged([[1]])))


def test_what_training_never_met_is_predicted_the_mean():
    model = registry.build("rbm_cf", {"hidden_dim": 3}, worlds.SIZES, seed=1)
    train = rows([[1, 2], [2]], [1.0, 5.0, 5.0]).to("cpu")
    optimiser = torch.optim.Adam(model.parameter_groups(), lr=0.1)
    for step in range(20):
        optimiser.zero_grad()
        worlds.total(worlds.terms(model, train, Context(step=step, training=True))).backward()
        optimiser.step()
    held = replace(train, held=worlds.ragged([[9, 2], [9]]), held_values=torch.zeros(3))
    new, known, again = model.predict(held)["rating"].tolist()
    assert new == again == 3.5 and known > 3.6
    # A batch of one row
    torch.testing.assert_close(
        model.predict(worlds.take(held, [0]))["rating"], model.predict(held)["rating"][:2]
    )


@pytest.mark.parametrize("by", ["user", "item"])
@pytest.mark.parametrize(("blind", "closes"), [(False, True), (True, False)])
def test_some_ratings_tell_the_rest(by, blind, closes):
    share = closed("rbm_cf", {"hidden_dim": 8, "by": by, "init_std": 0.1}, by, blind)
    assert share > 0.5 if closes else share < 0.5, f"closes {share:.2f} of the gap"
