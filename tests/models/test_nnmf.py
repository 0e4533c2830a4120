"""nnmf by hand, its turns, and a planted world of tastes that no product of a few factors
describes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.core import columns
from recsys_spark.core.contracts import Train, TrainJob, Workers
from recsys_spark.models import registry, store
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import blockwise
from tests import shardsets, training
from tests.models import worlds
from tests.shardsets import Events

TRAINING = Context(training=True)


def rows(users, items, labels):
    return Rows(
        torch.tensor(users),
        torch.tensor(items),
        torch.tensor(labels, dtype=torch.float64),
        torch.ones(len(users), dtype=torch.float64),
        torch.arange(len(users)),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def hand():
    """D = D' = 1, two layers of width 1: u = 2, v = -1, u' v' = 3 * 0.5."""
    config = {"dim": 1, "product_dim": 1, "hidden_dim": 1, "num_layers": 2, "l2": 0.1}
    model = registry.build(
        "nnmf", config, Sizes(1, 1, {"label_min": 1.0, "label_max": 5.0}), seed=1
    ).double()
    with torch.no_grad():
        model.user.weight[1], model.item.weight[1] = (
            torch.tensor([2.0, 3.0]),
            torch.tensor([-1.0, 0.5]),
        )
        model.first.weight[:], model.first.bias[:] = torch.tensor([[0.5, 1.0, 2.0]]), 0.25
        model.hidden[0].weight[:], model.hidden[0].bias[:] = 3.0, -1.0
        model.output.weight[:], model.output.bias[:] = 2.0, 1.5
    return model


def test_a_rating_by_hand(hand):
    first = sigmoid(0.5 * 2 + 1.0 * -1 + 2.0 * 1.5 + 0.25)
    expected = 2 * sigmoid(3 * first - 1) + 1.5
    batch = rows([1], [1], [4.0])
    assert hand(batch, TRAINING)["rating"].item() == pytest.approx(expected, abs=1e-12)
    assert hand.score(
        Query(torch.tensor([1]), worlds.ragged([[]])), torch.tensor([1])
    ).item() == pytest.approx(expected, abs=1e-12)
    assert hand.predict(batch)["rating"].item() == pytest.approx(expected, abs=1e-12)


def test_the_objective_by_hand(hand):
    batch = rows([1, 1], [1, 1], [4.0, 2.0])
    parts = hand.loss(batch, hand(batch, TRAINING), TRAINING)
    rating = hand(batch, TRAINING)["rating"][0].item()
    assert parts["squared_error"].sum.item() == pytest.approx((rating - 4) ** 2 + (rating - 2) ** 2)
    assert parts["l2"].sum.item() == 2 * (4 + 9 + 1 + 0.25)
    assert [(float(term.count), term.coefficient) for term in parts.values()] == [(2, 1), (2, 0.1)]


def test_layers_may_be_regularised_too(hand):
    model = registry.build(
        "nnmf", {**hand.config.model_dump(), "l2_network": 0.5}, hand.sizes, seed=1
    ).double()
    model.load_state_dict(hand.state_dict())
    batch = rows([1, 1], [1, 1], [4.0, 2.0])
    term = model.loss(batch, model(batch, TRAINING), TRAINING)["l2_network"]
    assert term.sum.item() == 2 * (0.25 + 1 + 4 + 9 + 4) and (
        float(term.count),
        term.coefficient,
    ) == (2, 0.5)


def test_predictions_are_clamped(hand):
    with torch.no_grad():
        hand.output.bias[:] = 9.0
    assert hand.predict(rows([1], [1], [4.0]))["rating"].item() == 5.0


def test_it_starts_at_the_mean():
    model = registry.build("nnmf", {}, worlds.SIZES, seed=1)
    assert model.output.bias.item() == 3.5 and (model.config.dim, model.config.product_dim) == (
        10,
        60,
    )


@pytest.mark.parametrize("block", [1, 500, 1 << 21])
def test_the_catalogue_in_blocks_equals_forward(block, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", block)
    model = worlds.stirred("nnmf", {"dim": 3, "product_dim": 4, "hidden_dim": 5})
    users = torch.arange(1, 6)
    scores = model.score(Query(users, worlds.ragged([[]] * 5)))
    everything = rows(users.repeat_interleave(26).tolist(), list(range(26)) * 5, [0.0] * 130)
    torch.testing.assert_close(
        scores, model(everything, Context())["rating"].view(5, 26), rtol=1e-12, atol=1e-12
    )


def near(seed: int = 1) -> tuple[Events, Events, Sizes]:
    """(train, held, sizes): users and items lie on a circle; a rating is about 5 for an item that
    is near and about 2 for any other.
    """
    rng = np.random.default_rng(seed)
    here, there = rng.uniform(size=150), rng.uniform(size=80)
    distance = np.abs((here[:, None] - there + 0.5) % 1 - 0.5)
    item = rng.permuted(np.tile(np.arange(80), (150, 1)), axis=1)[:, :40].ravel()
    user = np.repeat(np.arange(150), 40)
    value = np.where(distance[user, item] < 0.15, 5.0, 2.0) + 0.3 * rng.normal(size=len(user))
    ratings = Events(
        (user + 1).astype(np.int32), (item + 1).astype(np.int32), value.astype(np.float32)
    )
    held = rng.uniform(size=len(user)) < 0.2
    statistics = {"label_mean": float(ratings.where(~held).value.mean())}
    return ratings.where(~held), ratings.where(held), Sizes(150, 80, statistics)


WIDTHS = {
    "dim": 4,
    "product_dim": 1,
    "hidden_dim": 16,
    "num_layers": 2,
    "l2": 0.001,
    "init_std": 0.3,
}


def share(model, train: Events, held: Events) -> float:
    """Of the way from the mean to the truth (whose error is the noise, 0.3)."""
    made = worlds.rows_of(held)
    error, spread = (
        (value - made.label).square().mean().item()
        for value in (model.predict(made)["rating"], float(train.value.mean()))
    )
    return (spread - error) / (spread - 0.09)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of a training by turns on the planted world."""
    folder = tmp_path_factory.mktemp("near")
    train, held, sizes = near()
    parts = {
        name: shardsets.deal(
            pa.table(
                {
                    columns.QUERY_IDX: events.user,
                    columns.ITEM_IDX: events.item,
                    columns.LABEL: events.value,
                }
            ),
            8,
        )
        for name, events in ((columns.TRAIN, train), (columns.VALID, held))
    }
    made = shardsets.write(
        folder / "shards",
        "pointwise",
        shardsets.POINTWISE,
        parts,
        virtual_shards=8,
        row_group=2000,
        num_users=150,
        num_items=80,
        labels=train.value,
    )
    run = folder / "run"
    run.mkdir()
    settings = Train(
        batch_size=128, epochs=30, patience=6, optim={"lr": 0.02}, reader={"engine": "arrow"}
    )
    training.train_here(
        TrainJob(
            run_id="run",
            run_dir=str(run),
            shards=str(folder / "shards"),
            shard_fingerprint=made.fingerprint,
            model="nnmf",
            config=WIDTHS,
            train=settings,
            seed=1,
            workers=Workers(threads=1),
        )
    )
    return run


def test_network_and_factors_take_turns(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines[:4]] == ["latents", "network"] * 2
    assert (
        min(line["rmse"] for line in lines)
        == json.loads((trained / "best.json").read_text())["rmse"]
    )
    for turn in ("latents", "network"):
        gains = [
            before["rmse"] - after["rmse"]
            for before, after in zip(lines, lines[1:], strict=False)
            if after["phase"] == turn
        ]
        assert max(gains) > 0.01, f"{turn} have no part in it"


def test_a_network_learns_what_products_of_few_factors_cannot(trained, monkeypatch):
    train, held, sizes = near()
    best = store.load(trained / json.loads((trained / "best.json").read_text())["checkpoint"])
    assert share(best, train, held) > 0.5
    # A linear network: biases and a product of single factors
    monkeypatch.setattr(torch.Tensor, "sigmoid", lambda z: z)
    assert share(worlds.fit("nnmf", WIDTHS, train, sizes, steps=1000, rows=512), train, held) < 0.5
