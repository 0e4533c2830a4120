"""bpr_mf by hand: BPR-OPT and LearnBPR's update, and the cross entropy of the tuned dot product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from tests import shardsets, training
from tests.models import worlds

TRAINING = Context(training=True)
W, H, BIAS = [1.0, 2.0], [[0.5, 0.25], [2.0, -1.0], [-1.0, 1.0]], [0.5, -0.25, 0.125]


def pairs(users, items, negatives):
    return Pairs(
        torch.tensor(users), torch.tensor(items), torch.tensor(negatives), torch.arange(len(users))
    )


def hand(**config):
    """1 user, 3 items, width 2."""
    made = registry.build("bpr_mf", {"dim": 2, "l2": 0.0, **config}, Sizes(1, 3), seed=1).double()
    with torch.no_grad():
        made.user.weight[1] = torch.tensor(W)
        made.item.weight[1:] = torch.tensor(H)
        made.item_bias.weight[1:, 0] = torch.tensor(BIAS)
        if made.config.loss == "bce":
            made.user_bias.weight[1], made.bias[...] = 0.25, -1.0
    return made


def softplus(x):
    return np.log1p(np.exp(x))


def test_scores_by_hand():
    # x_u1 = .5 + .5 + .5, x_u2 = 2 - 2 - .25, x_u3 = -1 + 2 + .125
    model = hand()
    assert model.score(Query(torch.tensor([1, 0]), worlds.ragged([[], []]))).tolist() == [
        [0, 1.5, -0.25, 1.125],
        [0, *BIAS],
    ]
    factors = model.index()
    user = model.encode(Query(torch.tensor([1]), worlds.ragged([[]])))[0]
    assert (user.tolist(), factors.items[1:].tolist(), factors.bias[1:].tolist()) == (
        W,
        H,
        BIAS,
    )


def test_bpr_opt():
    """-ln sigmoid(x_uij) over the triples: (1, 2) 1.75, (1, 3) .375, then (2, 3) -1.375, (2, 1)
    -1.75.
    """
    parts = worlds.terms(hand(num_negatives=2), pairs([1, 1], [1, 2], [[2, 3], [3, 1]]), TRAINING)
    assert list(parts) == ["bpr"]
    assert parts["bpr"].sum.item() == pytest.approx(
        sum(softplus(-x) for x in (1.75, 0.375, -1.375, -1.75)), abs=1e-12
    )
    assert float(parts["bpr"].count) == 4


def test_cross_entropy():
    """Labels 1, 0, 0 at the scores plus the user's bias .25 and the global bias -1, over three
    rows.
    """
    parts = worlds.terms(hand(loss="bce"), pairs([1], [1], [[2, 3]]), TRAINING)
    assert list(parts) == ["bce"]
    assert parts["bce"].sum.item() == pytest.approx(
        softplus(-0.75) + softplus(-1.0) + softplus(0.375), abs=1e-12
    )
    assert float(parts["bce"].count) == 3


@pytest.mark.parametrize(("loss", "of_user", "of_positive"), [("bpr", 2, 2), ("bce", 3, 1)])
def test_l2_counts_a_row_as_often_as_it_is_drawn(loss, of_user, of_positive):
    model = hand(loss=loss, l2=0.1, l2_bias=0.01)
    parts = worlds.terms(model, pairs([1], [1], [[2, 3]]), TRAINING)
    assert parts["l2"].sum.item() == pytest.approx(
        of_user * 5 + of_positive * 0.3125 + 5 + 2, abs=1e-12
    )
    of_biases = of_positive * 0.25 + 0.0625 + 0.015625 + (3 * (0.0625 + 1) if loss == "bce" else 0)
    assert parts["l2_bias"].sum.item() == pytest.approx(of_biases, abs=1e-12)
    assert [(float(parts[key].count), parts[key].coefficient) for key in ("l2", "l2_bias")] == [
        (2 + (loss == "bce"), 0.1),
        (2 + (loss == "bce"), 0.01),
    ]


def test_one_step_is_learn_bpr():
    """Theta += a (sigmoid(-x_uij) dx_uij / dTheta - l Theta), the paper's figure 4, with l = 2 l2;
    other rows stay.
    """
    model = hand(l2=0.05, l2_bias=0.02)
    batch = pairs([1], [1], [[2]])
    worlds.total(worlds.terms(model, batch, TRAINING)).backward()
    torch.optim.SGD(model.parameter_groups(), lr=0.1).step()
    w, (h_i, h_j, h_other), e = np.array(W), np.array(H), 1 / (1 + np.exp(1.75))
    np.testing.assert_allclose(
        model.user.weight[1].detach(), w + 0.1 * (e * (h_i - h_j) - 0.1 * w), rtol=1e-12
    )
    np.testing.assert_allclose(
        model.item.weight[1].detach(), h_i + 0.1 * (e * w - 0.1 * h_i), rtol=1e-12
    )
    np.testing.assert_allclose(
        model.item.weight[2].detach(), h_j + 0.1 * (-e * w - 0.1 * h_j), rtol=1e-12
    )
    np.testing.assert_allclose(
        model.item_bias.weight[1:, 0].detach(),
        [0.5 + 0.1 * (e - 0.04 * 0.5), -0.25 + 0.1 * (-e + 0.04 * 0.25), 0.125],
        rtol=1e-12,
    )
    assert model.item.weight[3].tolist() == h_other.tolist()


def test_one_step_of_cross_entropy_is_that_of_its_examples_together():
    """Theta += a (label - sigmoid(x)) dx / dTheta - a r Theta for each example, as the second paper
    trains, with r = 2 l2 for every parameter and the step size times the number of examples, of
    which the loss is the mean.
    """
    model, a, r = hand(loss="bce", l2=0.05, l2_bias=0.05), 0.1, 0.1
    worlds.total(worlds.terms(model, pairs([1], [1], [[2]]), TRAINING)).backward()
    torch.optim.SGD(model.parameter_groups(), lr=2 * a).step()
    w, (h_i, h_j, h_other) = np.array(W), np.array(H)
    # Label - sigmoid: of 1 at x = .75, of 0 at x = -1
    e_i, e_j = (
        1 / (1 + np.exp(1.5 - 0.75)),
        -1 / (1 + np.exp(0.25 + 0.75)),
    )
    np.testing.assert_allclose(
        model.user.weight[1].detach(), w + a * (e_i * h_i + e_j * h_j - 2 * r * w), rtol=1e-12
    )
    np.testing.assert_allclose(
        model.item.weight[1:].detach(),
        [h_i + a * (e_i * w - r * h_i), h_j + a * (e_j * w - r * h_j), h_other],
    )
    np.testing.assert_allclose(
        model.user_bias.weight[1].item(), 0.25 + a * (e_i + e_j - 2 * r * 0.25), rtol=1e-12
    )
    np.testing.assert_allclose(model.bias.item(), -1 + a * (e_i + e_j + 2 * r), rtol=1e-12)


def test_any_item_may_be_a_negative(tmp_path):
    """Draws over the whole catalogue, as they come: of the 40 items a user has met 11."""
    made = shardsets.pairs(tmp_path / "shards")
    train, _ = shardsets.leave_last_out(shardsets.planted())
    met = worlds.seen(train, Sizes(60, 40))
    for negatives, low, high in (("unmet", 0.0, 0.0), ("any", 0.2, 0.35)):
        config = {"dim": 2, "num_negatives": 8, "negatives": negatives}
        loop = Loop(
            training.job(tmp_path / negatives, tmp_path / "shards", made, "bpr_mf", config=config),
            workers.Workers(),
        )
        batches = [batch for _, batch in loop._batches()]
        drawn = np.concatenate(
            [met[batch.user.numpy()[:, None], batch.negative.numpy()].ravel() for batch in batches]
        )
        assert low <= drawn.mean() <= high and len(drawn) == 660 * 8


def test_cross_entropy_keeps_what_every_model_promises():
    """The contract suite sees the default loss."""
    model, rows = (
        worlds.stirred("bpr_mf", {"dim": 4, "loss": "bce", "l2_bias": 0.1}),
        worlds.batch("pairs"),
    )
    whole = worlds.terms(model, rows, TRAINING)
    halves = [
        worlds.terms(model, worlds.take(rows, index), TRAINING)
        for index in (list(range(7, 12)), list(range(7)))
    ]
    for key, term in whole.items():
        torch.testing.assert_close(
            term.sum, halves[0][key].sum + halves[1][key].sum, rtol=1e-10, atol=0
        )
        assert term.count == halves[0][key].count + halves[1][key].count
    worlds.total(whole).backward()
    assert all(
        weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters()
    )
    query, factors = worlds.query(), model.index()
    torch.testing.assert_close(
        model.encode(query) @ factors.items.T + factors.bias,
        model.score(query),
        rtol=1e-10,
        atol=1e-12,
    )


def test_cross_entropy_learns_a_planted_world():
    train, held, sizes = worlds.planted()
    model = worlds.fit(
        "bpr_mf", {"dim": 8, "loss": "bce", "num_negatives": 4}, train, sizes, steps=200
    )
    assert worlds.hits(model, train, held, sizes) > 2 * worlds.popularity_hits(train, held, sizes)
