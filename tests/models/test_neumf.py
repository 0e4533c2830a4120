"""neumf by hand and against plain numpy: equations 7 to 13 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.query import Query
from recsys_spark.models import registry, store
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import blockwise, tables
from tests.models import taste_worlds, test_contract, worlds

NO_HISTORY = worlds.ragged([[]])


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
    """k = 1: GMF 2 * 3 = 6; MLP [p q] = [1 -1 | 2 4] -> relu -> relu."""
    model = registry.build("neumf", {"dim": 1, "init_std": 1.0}, Sizes(1, 1), seed=1).double()
    with torch.no_grad():
        model.user.weight[1], model.item.weight[1] = (
            torch.tensor([2.0, 1, -1]),
            torch.tensor([3.0, 2, 4]),
        )
        first, second = model.tower
        first.weight[:], first.bias[:] = (
            torch.tensor([[1.0, 1, 1, 0], [0, 1, 0, -1]]),
            torch.tensor([0.5, 1]),
        )
        second.weight[:], second.bias[:] = torch.tensor([[2.0, 5]]), torch.tensor([-1.0])
        model.output.weight[:], model.output.bias[:] = (
            torch.tensor([[0.5, -0.25]]),
            torch.tensor([0.125]),
        )
    return model


def test_by_hand(hand):
    # first layer: [1 - 1 + 2 + 0.5, -1 - 4 + 1] = [2.5, -4] -> [2.5, 0]; second: 2 * 2.5 - 1 = 4;
    # logit 0.5 * 6 - 0.25 * 4 + 0.125
    batch = rows([1], [1], [1.0])
    assert hand(batch, Context())["logit"].tolist() == [2.125]
    assert hand.score(Query(torch.tensor([1]), NO_HISTORY), torch.tensor([1])).tolist() == [[2.125]]
    assert hand.predict(batch)["ranking"].item() == pytest.approx(
        1 / (1 + np.exp(-2.125)), abs=1e-12
    )


def test_equation_7(hand):
    """-log sigmoid(2.125) for the positive row, -log(1 - sigmoid(2.125)) for the negative one."""
    batch = rows([1, 1], [1, 1], [1.0, 0.0])
    parts = hand.loss(batch, hand(batch, Context()), Context())
    assert list(parts) == ["cross_entropy"]
    assert parts["cross_entropy"].sum.item() == pytest.approx(
        np.log1p(np.exp(-2.125)) + np.log1p(np.exp(2.125)), abs=1e-12
    )
    assert float(parts["cross_entropy"].count) == 2


def test_l2_counts_the_rows_of_the_batch():
    model = worlds.stirred("neumf", {"dim": 2, "l2": 0.1})
    batch = rows([1, 1, 3], [4, 5, 5], [1.0, 0, 0])
    term = worlds.terms(model, batch, Context(training=True))["l2"]
    user, item = (
        model.user.weight.detach().square().sum(1),
        model.item.weight.detach().square().sum(1),
    )
    assert term.sum.item() == pytest.approx((2 * user[1] + user[3] + item[4] + 2 * item[5]).item())
    assert (float(term.count), term.coefficient) == (3, 0.1)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_against_numpy(num_layers):
    """Separate tables and a concatenation, as the paper draws it (figure 3)."""
    k = 3
    model = worlds.stirred("neumf", {"dim": k, "num_layers": num_layers})
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    shapes = [layer.weight.shape for layer in model.tower]
    # [4k, 2k, k]
    assert [tuple(shape) for shape in shapes] == [
        (k * 2 ** (n - 1), k * 2**n) for n in range(num_layers, 0, -1)
    ]
    batch = worlds.batch("pointwise")
    expected = []
    for u, i in zip(batch.user.tolist(), batch.item.tolist(), strict=True):
        (p_g, p_m), (q_g, q_m) = (
            np.split(weights["user.weight"][u], [k]),
            np.split(weights["item.weight"][i], [k]),
        )
        z = np.concatenate([p_m, q_m])
        for n in range(num_layers):
            z = np.maximum(weights[f"tower.{n}.weight"] @ z + weights[f"tower.{n}.bias"], 0)
        expected.append(
            weights["output.weight"][0] @ np.concatenate([p_g * q_g, z]) + weights["output.bias"][0]
        )
    np.testing.assert_allclose(model(batch, Context())["logit"].detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("block", [1, 60, 1 << 21])
def test_the_catalogue_in_blocks_equals_forward(block, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", block)
    model = worlds.stirred("neumf", {"dim": 4})
    users = torch.arange(1, 6)
    scores = model.score(Query(users, worlds.ragged([[]] * 5)))
    everything = rows(users.repeat_interleave(26).tolist(), list(range(26)) * 5, [0.0] * 130)
    torch.testing.assert_close(
        scores, model(everything, Context())["logit"].view(5, 26), rtol=1e-12, atol=1e-12
    )


def test_both_branches_count():
    """With one branch's half of the output layer at zero, the other still moves the logit: the
    halves are not mixed up.
    """
    model, batch = worlds.stirred("neumf", {"dim": 4}), worlds.batch("pointwise")
    with torch.no_grad():
        model.output.weight[0, 4:] = 0  # GMF alone: a weighted dot product
        p, q = model.user(batch.user)[:, :4], model.item(batch.item)[:, :4]
        expected = (p * q) @ model.output.weight[0, :4] + model.output.bias
    torch.testing.assert_close(model(batch, Context())["logit"], expected)


PRETRAINED = {"dim": 3, "num_layers": 2, "pretrain_epochs": 2, "alpha": 0.25}


def test_pretrained_models_are_joined():
    """Equation 13: embeddings and layers as they were, the outputs' weights mixed, so the logit is
    that mixture of both logits.
    """
    model, batch = worlds.stirred("neumf", PRETRAINED), worlds.batch("pointwise")
    model.begin("gmf")
    assert not torch.equal(model.user.weight[:, :3], model.gmf.user.weight), (
        "only the joint phase takes them over"
    )
    model.begin("joint")
    mixed = (
        0.25 * model.gmf(batch, Context())["logit"] + 0.75 * model.mlp(batch, Context())["logit"]
    )
    torch.testing.assert_close(model(batch, Context())["logit"], mixed, rtol=1e-12, atol=1e-12)
    assert torch.equal(
        model.user.weight, torch.cat([model.gmf.user.weight, model.mlp.user.weight], 1)
    )
    assert torch.equal(
        model.output.weight,
        torch.cat([0.25 * model.gmf.output.weight, 0.75 * model.mlp.output.weight], 1),
    )


def test_phases_of_pretraining():
    model = worlds.stirred("neumf", {**PRETRAINED, "joint_lr": 0.5})
    gmf, mlp, joint = model.phases()
    assert [(phase.name, phase.model, phase.epochs) for phase in (gmf, mlp, joint)] == [
        ("gmf", model.gmf, 2),
        ("mlp", model.mlp, 2),
        ("joint", None, 0),
    ]
    assert (
        gmf.optim is None
        and mlp.optim is None
        and (joint.optim.name, joint.optim.lr) == ("sgd", 0.5)
    )
    assert (
        registry.find("neumf").Config().alpha == 0.5
        and len(worlds.stirred("neumf", {}).phases()) == 1
    )
    assert (
        model.gmf.config.num_negatives
        == model.mlp.config.num_negatives
        == model.config.num_negatives
    )


def test_every_weight_of_a_pretrained_model_is_trained_in_its_phase():
    test_contract.test_every_weight_is_trained(worlds.stirred("neumf", PRETRAINED))


def test_saved_with_its_pretrained_models(tmp_path):
    model = worlds.stirred("neumf", PRETRAINED)
    store.save(tmp_path, model, "neumf")
    assert torch.equal(store.load(tmp_path).score(worlds.query()), model.score(worlds.query()))


def test_pretraining_takes_plain_sgd_where_it_would_not_come_by_itself():
    """The same joint training finds what users like after pre-training, and misses it from random
    weights.
    """
    world, config, steps = (
        taste_worlds.make(),
        {"dim": 4, "init_std": 0.1},
        {"steps": 300, "rows": 256},
    )
    joint = {"steps": 100, "rows": 256, "lr": 0.01, "by": torch.optim.SGD}
    model = registry.build("neumf", {**config, "pretrain_epochs": 1}, world.sizes, seed=1)
    for part, name in ((model.gmf, "gmf"), (model.mlp, "ncf_mlp")):
        part.load_state_dict(
            worlds.fit(name, config, world.train, world.sizes, **steps, lr=0.02).state_dict()
        )
    model.begin("joint")
    worlds.fit("neumf", {}, world.train, world.sizes, start=model, **joint)
    assert taste_worlds.share(model, world) > 0.5
    assert (
        taste_worlds.share(worlds.fit("neumf", config, world.train, world.sizes, **joint), world)
        < 0.5
    )


def test_both_branches_find_what_users_like(monkeypatch):
    """From random weights, by Adam. Without products and with linear layers nothing is left that
    tells users apart.
    """
    world = taste_worlds.make()
    model = worlds.fit(
        "neumf", {"dim": 4, "init_std": 0.1}, world.train, world.sizes, steps=400, rows=256, lr=0.02
    )
    assert taste_worlds.share(model, world) > 0.5
    with torch.no_grad():
        model.output.weight[0, :4] = 0.0
    monkeypatch.setattr(torch.nn.functional, "relu", lambda z: z)
    assert taste_worlds.share(model, world) < 0.5


@pytest.mark.parametrize("name", ["neumf", "ncf_mlp", "fm", "mf_side", "deepfm", "logistic"])
def test_rows_taken_as_they_come_give_the_same(name, monkeypatch):
    """The way of a GPU: no user or item of a batch is taken together with its like."""
    found = []
    for way in (tables.distinct, lambda index: tables.Distinct(index, None)):
        for module in ("neumf", "ncf_mlp", "_features"):
            monkeypatch.setattr(f"recsys_spark.models.pointwise.{module}.distinct", way)
        model, batch = worlds.stirred(name, {}), worlds.batch("pointwise", rows=300)
        assert len(batch.user.unique()) < 100 < len(batch)
        worlds.total(worlds.terms(model, batch, Context(seed=3, training=True))).backward()
        found.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
