"""SASRec against its equations, an event at a time, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models import worlds


def normed(layer: Any, x: np.ndarray) -> np.ndarray:
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + layer.eps) * weight + bias


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def test_states_are_those_of_the_equations() -> None:
    """A window of three of five events: the last is at the first place of the table."""
    model: Any = worlds.stirred("sasrec", {"dim": 4, "num_blocks": 2, "length": 5})
    items = [7, 2, 9]
    x = model.item.weight.detach().numpy()[items] * 2.0
    x = x + model.place.weight.detach().numpy()[[3, 2, 1]]
    for block in model.blocks:
        query, key, value = np.split(
            normed(block.attention_norm, x) @ block.attended.weight.detach().numpy().T, 3, axis=1
        )
        attended = np.zeros_like(x)
        for event in range(3):
            weight = np.exp(query[event] @ key[: event + 1].T / 2.0)
            attended[event] = weight / weight.sum() @ value[: event + 1]
        x = x + attended
        x = x + linear(block.outer, np.maximum(linear(block.inner, normed(block.norm, x)), 0))
    states = model.states(worlds.ragged([items]), lambda name, x: x)
    assert states.detach().numpy() == pytest.approx(normed(model.norm, x), rel=1e-10)


def test_no_event_attends_to_padding() -> None:
    model: Any = worlds.stirred("sasrec", {"dim": 4})
    short = worlds.ragged([[3, 4]])
    beside = worlds.ragged([[3, 4], [5, 6, 7, 8, 9]])
    states = [model.states(items, lambda name, x: x)[:2] for items in (short, beside)]
    torch.testing.assert_close(*states, rtol=1e-12, atol=1e-12)
