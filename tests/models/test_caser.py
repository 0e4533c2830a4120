"""caser against its equations, a window at a time, in numpy; and a pattern with a gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.models.base import Context, Sizes
from tests.models import order_worlds, worlds


def test_scores_are_those_of_the_equations() -> None:
    """Over the last three of four events, and over one event with two empty places before it."""
    model: Any = worlds.stirred("caser", {"dim": 4, "last": 3, "horizontal": 2, "vertical": 2})
    parts = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    query = worlds.Query(torch.tensor([4, 0]).int(), worlds.ragged([[9, 7, 2, 11], [6]]))
    for scores, user, read in zip(
        model.score(query).detach().numpy(), (4, 0), ([7, 2, 11], [0, 0, 6]), strict=True
    ):
        image = parts["item.weight"][read]  # (L, D)
        down = image.T @ parts["down.weight"].T + parts["down.bias"]  # (D, filters)
        across = []
        for height in (1, 2, 3):
            for filters, bias in zip(
                parts[f"across.{height - 1}.weight"],
                parts[f"across.{height - 1}.bias"],
                strict=True,
            ):
                slides = [
                    filters @ image[start : start + height].ravel() + bias
                    for start in range(4 - height)
                ]
                across.append(max(0.0, *slides))
        x = np.concatenate([down.ravel(), across])
        z = np.maximum(parts["dense.weight"] @ x + parts["dense.bias"], 0)
        query_vector = np.concatenate([z, parts["user.weight"][user]])
        expected = parts["predicted.weight"] @ query_vector + parts["predicted_bias.weight"][:, 0]
        np.testing.assert_allclose(scores, expected, rtol=1e-10)


def test_the_next_events_are_targets_of_their_row_alone() -> None:
    model: Any = worlds.stirred("caser", {"dim": 4, "ahead": 3})
    batch = worlds.batch("sequence", rows=5)
    state, target = model.targets(batch, Context())
    lengths = batch.items.offsets.diff()
    row = torch.repeat_interleave(torch.arange(5), lengths)
    expected = {
        (s, t)
        for t in range(len(row))
        for s in range(max(0, t - 2), t + 1)
        if row[s] == row[t] and batch.following[t] > 0
    }
    pairs = list(zip(state.tolist(), target.tolist(), strict=True))
    assert set(pairs) == expected and len(pairs) == len(expected)
    (term,) = worlds.terms(model, batch, Context()).values()
    assert float(term.count) == len(expected)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_bias_of_an_item_is_learned(loss: str) -> None:
    model: Any = worlds.stirred("caser", {"dim": 4, "loss": loss})
    worlds.total(worlds.terms(model, worlds.batch("sequence"), Context())).backward()
    assert model.predicted_bias.weight.grad[1:].abs().max() > 0


def test_a_pattern_with_a_gap_needs_more_than_the_last_event() -> None:
    """After item x in 1 to 8 comes one of four fillers, whichever, and then item 12 + x."""
    rng = np.random.default_rng(1)

    def told(starts: np.ndarray) -> np.ndarray:
        fillers = rng.integers(9, 13, starts.shape)
        return np.stack([starts, fillers, 12 + starts], -1).reshape(len(starts), -1)

    train = order_worlds.events(told(rng.integers(1, 9, (40, 5))))
    asked = told(np.tile(np.arange(1, 9), 8)[:, None])
    config = {"dim": 12, "dropout": 0.0, "horizontal": 4, "loss": "softmax", "ahead": 1}
    hits = {}
    for last in (2, 1):
        made = worlds.fit(
            "caser", {**config, "last": last}, train, Sizes(40, 20), steps=50, rows=40, lr=0.04
        )
        best = order_worlds.first(made, [0] * len(asked), asked[:, :2])
        hits[last] = float((best == asked[:, 2]).mean())
    assert hits[2] > 0.9 and hits[1] < 0.4
