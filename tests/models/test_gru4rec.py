"""GRU4Rec against its equations, and against the faults that were found in other implementations of
it (Hidasi and Czapp, RecSys 2023). What concerns sasrec alike, such as rows that end and dropout,
is in test_sequence.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.models.base import Context
from recsys_spark.scoring import topk
from tests.models import worlds


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_states_are_those_of_the_equations() -> None:
    """From the zero state, the gates in torch's order: reset, update, new."""
    model: Any = worlds.stirred("gru4rec", {"dim": 4})
    w, u, b, c = (
        getattr(model.gru, f"{name}_l0").detach().numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, expected = np.zeros(4), []
    for x in model.item.weight.detach().numpy()[[7, 2, 9]]:
        read, kept = w @ x + b, u @ h + c
        reset, update = sigmoid(read[:4] + kept[:4]), sigmoid(read[4:8] + kept[4:8])
        h = (1 - update) * np.tanh(read[8:] + reset * kept[8:]) + update * h
        expected.append(h)
    states = model.states(worlds.ragged([[7, 2, 9]]), lambda name, x: x)
    assert states.detach().numpy() == pytest.approx(np.stack(expected), rel=1e-10)


def test_gradients_reach_the_first_event() -> None:
    """Users' histories are trained through time."""
    model: Any = worlds.stirred("gru4rec", {"dim": 4})
    model.states(worlds.ragged([[7, 2, 9]]), lambda name, x: x)[-1].sum().backward()
    assert all(model.item.weight.grad[item].abs().max() > 1e-6 for item in (7, 2, 9))


def test_scores_are_not_activated() -> None:
    """A list is ranked by the numbers that the softmax gets, which have no bound."""
    model: Any = worlds.stirred("gru4rec", {"dim": 4, "tied": False})
    query = worlds.query()
    with torch.no_grad():
        scores = model.score(query)
        model.predicted.weight.mul_(100)
        torch.testing.assert_close(model.score(query), 100 * scores)


def test_equal_scores_favour_no_item() -> None:
    """A network that says nothing finds a target as often as chance: of 25 items, 5 in 25."""
    model: Any = worlds.stirred("gru4rec", {"dim": 4})
    with torch.no_grad():
        model.item.weight.zero_()
    users = torch.arange(1, 1001)
    query = worlds.Query(users.int(), worlds.ragged([[3]] * 1000))
    best = topk.top_k(model.score(query).detach(), users, None, 5, seed=1)
    assert abs(float((best.items == 4).any(1).float().mean()) - 0.2) < 0.04


def test_the_items_it_reads_and_predicts_are_shared_or_apart() -> None:
    tied, apart = (worlds.stirred("gru4rec", {"dim": 4, "tied": tied}) for tied in (True, False))
    assert tied.output is tied.item and apart.output is not apart.item
    batch = worlds.batch("sequence")
    worlds.total(worlds.terms(apart, batch, Context())).backward()
    unread = sorted(set(range(1, 26)) - set(batch.items.values.tolist()))
    assert unread and not apart.item.weight.grad[unread].any()
    assert apart.predicted.weight.grad[unread].any()
