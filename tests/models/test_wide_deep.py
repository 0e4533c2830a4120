"""wide_deep: cross products by hand, the proximal step by hand, and a world with a rule and its
exceptions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.contracts import Feature
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import field_worlds, worlds

TRAINING = Context(training=True)
FIELDS = (
    Feature(name="gender", side="user", kind="category", vocabulary=("f", "m")),
    Feature(name="genres", side="item", kind="tags", vocabulary=("Drama", "War", "Noir"), slots=2),
    Feature(name="hour", side="event", kind="category", vocabulary=("0", "1")),
)


def wide(crosses=None, **config):
    """The wide part alone, 2 users (f, m) and 3 items (Drama and War; Noir; unknown), weights at 0,
    w0 at 0.
    """
    sizes = Sizes(2, 3, {"label_mean": 0.5}, FIELDS)
    made = registry.build(
        "wide_deep", {"deep": False, "crosses": crosses, **config}, sizes, seed=1
    ).double()
    made.fields.fill("user", torch.tensor([[0], [6], [7]]), torch.tensor([[0.0], [1.0], [1.0]]))
    made.fields.fill(
        "item",
        torch.tensor([[0, 0], [8, 9], [10, 0], [0, 0]]),
        torch.tensor([[0, 0], [0.5, 0.5], [1, 0], [0, 0]]),
    )
    return made


def rows(user, item, hour, label=None):
    ones = torch.ones(len(user), dtype=torch.float64)
    return Rows(
        torch.tensor(user).int(),
        torch.tensor(item).int(),
        ones if label is None else torch.tensor(label).double(),
        ones,
        ones.long(),
        torch.tensor(hour).int()[:, None],
    )


def test_cross_products_by_hand():
    """gender x genres: f and Drama, f and War, ..., m and Noir are rows 1 to 6. Tags count by their
    weight, the unknown not at all.
    """
    model = wide()
    with torch.no_grad():
        model.crosses.table.weight[1:, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    batch = rows([1, 1, 2, 2, 0, 2], [1, 2, 1, 2, 1, 3], [1] * 6)
    assert model(batch, TRAINING)["output"].tolist() == [1.5, 4, 12, 32, 0, 0]
    with torch.no_grad():
        # The users and the items themselves
        model.linear.weight[1:6, 0] = torch.tensor([100.0, 200.0, 1000.0, 2000.0, 3000.0])
    assert model(batch, TRAINING)["output"].tolist() == [1101.5, 2104, 1212, 2232, 1000, 3200]


def test_crosses_of_three_fields_and_of_ids():
    model = wide([["gender", "genres", "hour"], ["user", "item"]])
    assert model.crosses.table.weight.shape[0] == 1 + 2 * 3 * 2 + 2 * 3
    with torch.no_grad():
        model.crosses.table.weight[1:, 0] = torch.arange(1.0, 19.0)
    # m (1), Drama and War (0, 1), hour 1: 1 + (1 * 3 + 0) * 2 + 1 = 8 and 10, at .5 each; user 2
    # and item 1: 13 + 3
    assert model(rows([2], [1], [2]), TRAINING)["output"].item() == 9 + 16
    assert model(rows([2], [1], [0]), TRAINING)["output"].item() == 16, (
        "of an unknown hour no cross is known"
    )
    assert model.score(worlds.Query(torch.tensor([2]), worlds.ragged([[]])))[0, 1].item() == 16


def test_what_cannot_be_crossed_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"found 'genre'; expected one of user, item, gender, genres, hour \(did you mean "
        r"'genres'",
    ):
        wide([["gender", "genre"]])
    with pytest.raises(ConfigError, match=r"found 100000000 combinations; expected at most"):
        registry.build("wide_deep", {"crosses": [["user", "item"]]}, Sizes(10_000, 10_000), seed=1)
    with pytest.raises(ConfigError, match=r"found 'income'; expected one of user, item, age"):
        registry.build("wide_deep", {"crosses": [["income", "age"]]}, worlds.SIZES, seed=1)


def test_the_proximal_step_by_hand():
    """AdaGrad moves a weight by rate * g, rate = .1 / sqrt(sum of g^2); then it loses rate * l1
    towards zero, and stops there.
    """
    model = wide(l1=0.25, wide_lr=0.1)
    optimiser = torch.optim.Adagrad(model.parameter_groups(), lr=7.0, eps=1e-10)
    batch = rows([1, 1], [2, 3], [1, 1], [1.0, 0.0])
    weight, squares = 0.0, 0.0
    for _ in range(3):
        optimiser.zero_grad()
        worlds.total(worlds.terms(model, batch, TRAINING)).backward()
        gradient = model.crosses.table.weight.grad[3].item()  # f and Noir
        optimiser.step()
        model.after_step()
        squares += gradient**2
        rate = 0.1 / squares**0.5
        weight -= rate * gradient
        weight = np.sign(weight) * max(abs(weight) - rate * 0.25, 0.0)
        assert model.crosses.table.weight[3].item() == pytest.approx(weight, rel=1e-6)
    assert not model.crosses.table.weight[[1, 2, 4, 5, 6]].any()
    strict = wide(l1=9.0)
    optimiser = torch.optim.Adagrad(strict.parameter_groups(), lr=7.0)
    worlds.total(worlds.terms(strict, batch, TRAINING)).backward()
    optimiser.step()
    assert strict.crosses.table.weight[3].item() != 0.0
    strict.after_step()
    assert strict.crosses.table.weight[3].item() == 0.0, "exactly"


def test_only_weights_of_the_batch_shrink():
    model = wide(l1=0.25)
    with torch.no_grad():
        model.crosses.table.weight[1:] = 5.0
    worlds.total(worlds.terms(model, rows([1], [2], [1]), TRAINING)).backward()
    model.after_step()
    assert (
        model.crosses.table.weight[[1, 2, 4, 5, 6], 0].tolist() == [5] * 5
        and model.crosses.table.weight[3].item() < 5
    )


def test_each_part_has_its_own_rate():
    groups = worlds.stirred("wide_deep", {"wide_lr": 0.5}).parameter_groups()
    assert [group.get("lr") for group in groups] == [None, 0.5]
    # W0, embeddings and seven of the tower; linear and crosses
    assert [len(group["params"]) for group in groups] == [
        9,
        2,
    ]


def exceptions(seed: int = 2) -> field_worlds.World:
    """A rule, that of users' and items' tastes, and its exceptions: two of five combinations of the
    fields a and b, at random.
    """
    rng = np.random.default_rng(seed)
    user, item = rng.choice([-1.0, 1.0], 241), rng.choice([-1.0, 1.0], 61)
    exception = np.where(rng.random((20, 20)) < 0.4, rng.choice([-4.0, 4.0], (20, 20)), 0.0)
    return field_worlds.make(
        lambda row: (
            1
            / (
                1
                + np.exp(
                    -1.5 * user[row["user"]] * item[row["item"]] - exception[row["a"], row["b"]]
                )
            )
        ),
        {"a": ("user", 20), "b": ("item", 20)},
        clicks=True,
        rows=20_000,
    )


def fit(world, **parts):
    config = {"dim": 4, "hidden_dim": 16, "num_layers": 2, **parts}
    return field_worlds.fit("wide_deep", config, world, steps=600, lr=0.05, optimiser="Adagrad")


def test_a_rule_and_its_exceptions():
    world = exceptions()
    rate = world.sizes.statistics["label_mean"]
    joint, deep, alone = (
        world.share(field_worlds.predictions(fit(world, **parts), world), rate)
        for parts in ({}, {"wide": False}, {"deep": False})
    )
    assert joint > 0.75 and max(deep, alone) < 0.65
    assert joint - max(deep, alone) > 0.5 * (1 - max(deep, alone)), (
        "of what the better part leaves to the oracle, half and more"
    )


def test_l1_lets_go_of_what_is_no_exception():
    """Weights become exactly zero, and more often where the rule says it all."""
    world = exceptions()
    odd = np.log(world.oracle / (1 - world.oracle))  # +-1.5 where the rule says it all
    kept = fit(world, l1=0.001).crosses.table.weight[1:, 0].detach().numpy() != 0
    cell = world.values["a"][world.held.user] * 20 + world.values["b"][world.held.item]
    assert np.mean(kept) < 0.8
    assert (
        kept[cell[np.abs(np.abs(odd) - 1.5) > 0.01]].mean()
        > kept[cell[np.abs(np.abs(odd) - 1.5) < 0.01]].mean() + 0.1
    )
