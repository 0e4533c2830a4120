"""mf_temporal: bins, drift and the penalty along time by hand; a world in which items change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core.contracts import Feature
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise.mf_temporal import total_variation
from tests.models import field_worlds, worlds

TRAINING = Context(training=True)
TIME = (Feature(name="ts", side="event", kind="time", low=100.0, high=200.0),)


@pytest.fixture
def model():
    """One user and one item, width 2, four bins of 25 seconds from 100 to 200, mean 3."""
    made = registry.build(
        "mf_temporal",
        {"dim": 2, "bins": 4, "l2_factor": 0.1, "l2_bias": 0.01, "l2_drift": 0.2, "smooth": 0.3},
        Sizes(1, 1, {"label_mean": 3.0}, TIME),
        seed=1,
    ).double()
    with torch.no_grad():
        made.user.weight[1] = torch.tensor([1.0, 2.0])
        made.item.weight[1] = torch.tensor([0.5, 0.25])
        made.user_bias.weight[1], made.item_bias.weight[1] = 0.5, -0.25
        made.drift.weight[1] = torch.tensor([0.125, 2.0, 0.0])
        made.bias_at.weight[1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        made.times[3] = torch.tensor([1.0, 0.0])
    return made


def rows(*ts):
    one = torch.ones(len(ts), dtype=torch.float64)
    return Rows(one.int(), one.int(), 0 * one, one, one.long(), ts=torch.tensor(ts))


def test_the_rating_at_each_time(model):
    """At 150 (tau 0, bin 2): 3 + .5 - .25 + 1 + 1. At 100 (tau -1, bin 0): p = (-1, 2). At 200 (tau
    1, the last bin): p = (3, 2), q = (1, .25); and so at any later time.
    """
    assert model(rows(150, 100, 200, 9999, 0), TRAINING)["rating"].tolist() == [
        5.25,
        3 + 0.5 - 0.125 - 0.25 - 0.5 + 0.5,
        end := 3 + 0.5 + 0.125 - 0.25 + 1 + 3 + 0.5,
        end,
        3.125,
    ]
    assert model.score(Query(torch.tensor([1]), worlds.ragged([[]])))[0, 1].item() == end
    bins, tau = model.when(torch.tensor([0, 100, 124, 125, 199, 200, 1000]))
    assert bins.tolist() == [0, 0, 0, 1, 3, 3, 3] and tau.tolist() == pytest.approx(
        [-1, -1, -0.52, -0.5, 0.98, 1, 1]
    )


def test_the_loss(model):
    parts = model.loss(batch := rows(150), model(batch, TRAINING), TRAINING)
    assert parts["squared_error"].sum.item() == 5.25**2
    assert parts["l2_factor"].sum.item() == 5.3125 and parts["l2_bias"].sum.item() == 0.3125
    assert parts["l2_drift"].sum.item() == 0.125**2 + 4 + 2 / 4
    assert parts["smooth"].sum.item() == 1 + 1, "the item's step, and that of the times"
    assert [term.coefficient for term in parts.values()] == [1, 0.1, 0.01, 0.2, 0.3]


def test_the_penalty_is_along_time():
    constant, step, ramp = (
        torch.full((2, 5), 7.0),
        torch.tensor([[0.0, 0, 0, 3, 3]]),
        torch.tensor([[0.0, 1, 2, 3, 3]]),
    )
    assert total_variation(constant).tolist() == [0, 0]
    assert total_variation(step).tolist() == total_variation(ramp).tolist() == [3]
    assert total_variation(torch.tensor([[0.0, 3, 0, 3, 0]])).item() == 12, (
        "what goes back and forth costs most"
    )


def test_shards_without_time_are_refused():
    with pytest.raises(
        ConfigError,
        match=r"found fields none; expected ts among them. To mend: export with features",
    ):
        registry.build("mf_temporal", {}, Sizes(3, 3), seed=1)


def test_items_that_change():
    """In the middle of training half of the items win what the others lose; what is held comes
    last.
    """
    sign = np.random.default_rng(4).choice([-1.0, 1.0], 61)
    world = field_worlds.make(
        lambda row: 3 + sign[row["item"]] * np.where(row["time"] > 0.5, 1.0, -1.0),
        {},
        clicks=False,
        timed=True,
    )
    mean = world.sizes.statistics["label_mean"]
    config = {"dim": 2, "bins": 8, "l2_drift": 0.001, "l2_bias": 0.001}
    model = field_worlds.fit("mf_temporal", config, world)
    assert world.share(field_worlds.predictions(model, world), mean) > 0.7
    # No row knows its time
    still = replace(world, train=replace(world.train, ts=torch.full_like(world.train.ts, 10**6)))
    assert (
        world.share(
            field_worlds.predictions(field_worlds.fit("mf_temporal", config, still), still), mean
        )
        < 0.5
    )
    assert (
        world.share(
            field_worlds.predictions(field_worlds.fit("mf_bias", {"dim": 2}, world), world), mean
        )
        < 0.5
    )


def test_users_who_drift():
    """Half of the users get milder, half stricter, all along; past the end of training they stay as
    they are.
    """
    slope = np.random.default_rng(4).choice([-2.0, 2.0], 241)
    world = field_worlds.make(
        lambda row: 3 + slope[row["user"]] * (np.minimum(row["time"], 0.8) - 0.4),
        {},
        clicks=False,
        timed=True,
    )
    mean = world.sizes.statistics["label_mean"]
    config = {"dim": 2, "bins": 8, "l2_drift": 0.001, "l2_bias": 0.001}
    model = field_worlds.fit("mf_temporal", config, world)
    assert world.share(field_worlds.predictions(model, world), mean) > 0.5
    with torch.no_grad():
        model.drift.weight.zero_()
    assert world.share(field_worlds.predictions(model, world), mean) < 0.5
