"""cml by hand, in its ball, and where distance says what a dot product cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from tests.models import order_worlds, worlds

POINTS = [[0.0, 0.0], [0.6, 0.0], [0.0, 0.8], [-1.0, 0.0], [0.3, 0.4]]  # items 1 to 5


def hand(**config: Any) -> Any:
    """A user at (0.6, 0.8)."""
    settings = {"dim": 2, "margin": 0.5, "num_negatives": 3, **config}
    model: Any = registry.build("cml", settings, Sizes(1, 5), seed=1).double()
    with torch.no_grad():
        model.user.weight[1] = torch.tensor([0.6, 0.8])
        model.item.weight[1:] = torch.tensor(POINTS)
    return model


# The positive is item 2, at .64; the negatives 3, 4 and 5, at .36, 3.2 and .25
BATCH = Pairs(torch.tensor([1]), torch.tensor([2]), torch.tensor([[3, 4, 5]]), torch.arange(1))


def test_the_hinge_is_of_the_nearest_and_weighs_by_the_rank() -> None:
    terms = worlds.terms(hand(covariance=0.0), BATCH, Context())
    # Two of three are within the margin: rank 5 * 2 / 3
    assert list(terms) == ["hinge"] and terms["hinge"].count == 1
    assert terms["hinge"].sum.item() == pytest.approx(
        (0.5 + 0.64 - 0.25) * np.log(1 + 5 * 2 / 3), rel=1e-6
    )
    terms = worlds.terms(hand(covariance=0.0, rank_weight=False), BATCH, Context())
    assert terms["hinge"].sum.item() == pytest.approx(0.5 + 0.64 - 0.25, rel=1e-6)


def test_covariance_of_all_points() -> None:
    points = np.array([[0.6, 0.8], *POINTS])
    expected = 2 * np.cov(points.T, bias=True)[0, 1] ** 2
    term = worlds.terms(hand(covariance=3.0), BATCH, Context())["covariance"]
    assert term.sum.item() == pytest.approx(expected, rel=1e-6) and term.coefficient == 3.0


def test_scores_are_distances_less_a_term_of_the_user() -> None:
    query = worlds.Query(torch.tensor([1]), worlds.ragged([[]]))
    scores = hand().score(query)[0, 1:].detach().numpy()
    distances = ((np.array(POINTS) - [0.6, 0.8]) ** 2).sum(1)
    np.testing.assert_allclose(scores - 1.0, -distances, rtol=1e-6)


def test_a_step_ends_in_the_unit_ball() -> None:
    model = hand()
    with torch.no_grad():
        model.item.weight[1] = torch.tensor([3.0, 4.0])
        before = model.item.weight.clone()
    model.after_step()
    assert model.item.weight[1].tolist() == pytest.approx([0.6, 0.8])
    assert torch.equal(model.item.weight[2:], before[2:]) and not model.item.weight[0].any()


def test_users_in_the_middle_of_their_items_need_distances() -> None:
    """Items on a grid, users among them who met the eight nearest but one: it is next. By products
    alone the items at the rim come first.
    """
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 7)), -1).reshape(-1, 2)
    places = rng.uniform(-0.7, 0.7, (150, 2))
    nearest = ((places[:, None] - grid) ** 2).sum(-1).argsort(1)[:, :8] + 1
    held = rng.integers(0, 8, 150)
    met = [np.delete(row, place) for row, place in zip(nearest, held, strict=True)]
    train, sizes = order_worlds.events(met), Sizes(150, 49)
    target = nearest[np.arange(150), held]
    config = {"dim": 2, "num_negatives": 10, "margin": 0.1, "covariance": 0.0, "init_std": 0.3}
    model: Any = worlds.fit("cml", config, train, sizes, steps=250, rows=256, lr=0.05)
    users, items = model.user.weight.detach().numpy(), model.item.weight.detach().numpy()
    assert max(np.linalg.norm(points, axis=1).max() for points in (users, items)) <= 1 + 1e-6

    def hits(scores: np.ndarray) -> float:
        scores = np.where(worlds.seen(train, sizes)[1:], -np.inf, scores)[:, 1:]
        best = 1 + np.argsort(-scores, axis=1)[:, :3]
        return float((best == target[:, None]).any(1).mean())

    by_distance = hits(-((users[1:, None] - items) ** 2).sum(-1))
    assert by_distance > 0.7 and hits(users[1:] @ items.T) < by_distance / 2
