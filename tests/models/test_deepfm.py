"""deepfm: the sum of its two parts over one table, and a world of third-order interactions that
pairs cannot see.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.models.base import Context
from tests.models import field_worlds, worlds

TRAINING = Context(seed=3, training=True)


def test_equation_1_is_the_sum_of_both_parts() -> None:
    """The factorization machine by its own model with the same table; the perceptron by hand on the
    concatenated embeddings.
    """
    config = {"dim": 3, "hidden_dim": 5, "num_layers": 2, "dropout": 0.0}
    model, fm = worlds.stirred("deepfm", config), worlds.stirred("fm", {"dim": 3, "task": "click"})
    fm.load_state_dict(
        {key: value for key, value in model.state_dict().items() if not key.startswith("tower")}
    )
    batch = worlds.batch("pointwise")
    table, slots = model.table.table.weight.detach().numpy(), field_worlds.slots(model, batch)
    deep = []
    for row in range(len(batch)):
        feature, weight = slots.feature[row].tolist(), slots.weight[row].tolist()
        vectors = [
            table[i, 1:] * x * (table[i, 0] != 0) for i, x in zip(feature, weight, strict=True)
        ]
        # user, age, income; item, the mean of three genres; hour, position
        x = np.concatenate(
            [*vectors[:3], vectors[3], vectors[4] + vectors[5] + vectors[6], *vectors[7:]]
        )
        for layer in model.tower.layers:
            x = np.maximum(layer.weight.detach().numpy() @ x + layer.bias.detach().numpy(), 0)
        deep.append(float(model.tower.output.weight.detach().numpy()[0] @ x))
    expected = fm(batch, Context())["output"].detach().numpy() + deep
    np.testing.assert_allclose(
        model(batch, Context())["output"].detach().numpy(), expected, rtol=1e-10
    )


def test_both_parts_share_one_table() -> None:
    model = worlds.stirred("deepfm", {"dim": 3, "hidden_dim": 4})
    tables = [
        key
        for key, value in model.named_parameters()
        if value.shape[:1] == (model.fields.num_features + 1,)
    ]
    assert tables == ["table.table.weight"]


def test_dropout_is_of_rows_and_of_training_alone() -> None:
    model, batch = worlds.stirred("deepfm", {"dropout": 0.5}), worlds.batch("pointwise")
    assert not torch.equal(
        model(batch, TRAINING)["output"], model(batch, Context(seed=4, training=True))["output"]
    )
    assert torch.equal(
        model(batch, Context(seed=3))["output"], model(batch, Context(seed=4))["output"]
    )
    row = worlds.take(batch, [7])
    torch.testing.assert_close(
        model(row, TRAINING)["output"],
        model(batch, TRAINING)["output"][7:8],
        rtol=1e-12,
        atol=1e-12,
    )


def test_half_of_the_layer_is_dropped_and_the_rest_doubled() -> None:
    model = worlds.stirred("deepfm", {"hidden_dim": 400, "num_layers": 1, "dropout": 0.5})
    x = torch.ones(1, sum(model.tower.parts), dtype=torch.float64)
    draws = torch.rand(2000, 400, generator=torch.Generator().manual_seed(1))
    whole = model.tower(x)
    dropped = model.tower(x.expand(2000, -1), lambda name, width: draws)
    assert dropped.mean().item() == pytest.approx(
        whole.item(), abs=5 * dropped.std().item() / 2000**0.5
    )
    assert len(dropped.unique()) > 1000


def third_order() -> field_worlds.World:
    """A click is likely where the number of ones among three fields is odd: no field, and no pair
    of fields, says anything of it.
    """
    return field_worlds.make(
        lambda row: np.where((row["a"] + row["b"] + row["c"]) % 2, 0.9, 0.1),
        {"a": ("user", 2), "b": ("item", 2), "c": ("event", 2)},
        clicks=True,
        rows=16_000,
    )


def test_third_order_interactions() -> None:
    world = third_order()
    rate = world.sizes.statistics["label_mean"]
    config = {"dim": 8, "hidden_dim": 32, "num_layers": 2, "dropout": 0.0}
    model = field_worlds.fit("deepfm", config, world, steps=400, lr=0.01)
    assert world.share(field_worlds.predictions(model, world), rate) > 0.5
    assert (
        world.share(
            field_worlds.predictions(
                field_worlds.fit("fm", {"dim": 8, "task": "click"}, world), world
            ),
            rate,
        )
        < 0.2
    )
