"""mf_side: SVDFeature's equation 1 by hand, and new users in a world where fields decide."""

from __future__ import annotations

import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.contracts import Feature
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import field_worlds, worlds
from tests.models.test_fm import pairs

TRAINING = Context(training=True)


def test_equation_1_by_hand() -> None:
    """Mean 3; user 1 with an age, item 1 with two genres of weight 1/2, an hour that has a bias and
    no factors.
    """
    fields = (
        Feature(name="age", side="user", kind="category", vocabulary=("18",)),
        Feature(name="genres", side="item", kind="tags", vocabulary=("Drama", "War"), slots=2),
        Feature(name="hour", side="event", kind="category", vocabulary=("0",)),
    )
    model = registry.build(
        "mf_side",
        {"dim": 2, "l2_factor": 0.1, "l2_bias": 0.01},
        Sizes(1, 1, {"label_mean": 3.0}, fields),
        seed=1,
    )
    model.fields.fill("user", torch.tensor([[0], [3]]), torch.tensor([[0.0], [1.0]]))
    model.fields.fill(
        "item", torch.tensor([[0, 0], [4, 5]]), torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    )
    with torch.no_grad():  # user, item, age, Drama, War, hour: bias, then factors
        model.table.table.weight[1:] = torch.tensor(
            [[0.5, 1, 0], [0.25, 0, 1], [-0.125, 2, 1], [1, 2, 0], [2, 0, 4], [0.0625, 9, 9]]
        )
    one = torch.ones(1)
    batch = Rows(
        one.int(), one.int(), 10 * one, one, one.long(), torch.ones(1, 1, dtype=torch.int32)
    )
    output = model(batch, TRAINING)
    # p = (1, 0) + (2, 1) = (3, 1); q = (0, 1) + (1, 0) + (0, 2) = (1, 3); p q = 6
    assert output["output"].item() == 3 + (0.5 - 0.125) + (0.25 + 0.5 + 1) + 0.0625 + 6
    parts = model.loss(batch, output, TRAINING)
    assert parts["l2_factor"].sum.item() == 1 + 1 + 5 + 4 + 16
    assert parts["l2_bias"].sum.item() == 0.25 + 0.0625 + 0.015625 + 1 + 4 + 0.00390625
    # Neither user nor age was ever met: the item's bias and the hour's are left
    with torch.no_grad():
        model.table.table.weight[[1, 3], 0] = 0.0
    assert model(batch, Context())["output"].item() == 3 + 1.75 + 0.0625


def test_without_fields_it_is_mf_bias() -> None:
    """The same numbers as another implementation, given the same weights."""
    sizes = Sizes(30, 25, worlds.SIZES.statistics)
    mine, theirs = (
        worlds.stirred(name, {"dim": 4, "init_std": 0.1}, sizes) for name in ("mf_side", "mf_bias")
    )
    with torch.no_grad():
        for bias, factors, first, last in (
            (theirs.user_bias, theirs.user, 1, 31),
            (theirs.item_bias, theirs.item, 31, 56),
        ):
            bias.weight[1:], factors.weight[1:] = (
                mine.table.table.weight[first:last, :1],
                mine.table.table.weight[first:last, 1:],
            )
    batch = worlds.batch("pointwise", sizes=sizes)
    bare = Rows(batch.user, batch.item, batch.label, batch.weight, batch.row)
    torch.testing.assert_close(mine.predict(bare)["rating"], theirs.predict(bare)["rating"])


def test_fields_predict_new_users() -> None:
    world = pairs(seed=5)
    config = {"dim": 4, "l2_factor": 0.001, "l2_bias": 0.001}
    mean = world.sizes.statistics["label_mean"]
    assert (
        world.share(
            field_worlds.predictions(field_worlds.fit("mf_side", config, world), world), mean
        )
        > 0.8
    )
    without = field_worlds.fit("mf_side", config, world, fields=False)
    assert world.share(field_worlds.predictions(without, world), mean) < 0.5
