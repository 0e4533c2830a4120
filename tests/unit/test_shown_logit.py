"""The likelihood of the linear re-ranker by hand; gradient and Hessian by finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.baselines import shown_logit


def test_likelihood_by_hand() -> None:
    """Two lists, of two and three items; a weight of ln 2 doubles the odds of an item with 1."""
    values = np.array([[1.0], [0.0], [0.0], [1.0], [0.0]])
    lengths, chosen = np.array([2, 3]), np.array([0, 2])
    sums = shown_logit.of_lists(values, lengths, chosen, np.array([np.log(2.0)]))
    assert sums[0] == 2 and sums[1] == pytest.approx(np.log(2 / 3) + np.log(1 / 4))
    assert sums[2] == pytest.approx((1 - 2 / 3) + (0 - 2 / 4))
    assert sums[3] == pytest.approx(2 / 9 + 1 / 4)


def test_gradient_and_hessian_are_those_of_the_likelihood() -> None:
    draw = np.random.default_rng(1)
    lengths = np.array([3, 1, 5, 2])
    chosen, values = draw.integers(0, lengths), draw.normal(size=(11, 3))
    weights, step = draw.normal(size=3), 1e-5

    def at(moved: np.ndarray) -> np.ndarray:
        return shown_logit.of_lists(values, lengths, chosen, moved)

    sums = at(weights)
    for place, unit in enumerate(np.eye(3) * step):
        up, down = at(weights + unit), at(weights - unit)
        assert (up[1] - down[1]) / (2 * step) == pytest.approx(sums[2 + place], abs=1e-7)
        assert (down[2:5] - up[2:5]) / (2 * step) == pytest.approx(
            sums[5 + 3 * place : 8 + 3 * place], abs=1e-7
        )


def test_a_step_too_far_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that nearly always decides makes plain Newton diverge from 0."""
    draw = np.random.default_rng(2)
    lengths, chosen = np.full(400, 25), np.zeros(400, np.int64)
    values = np.stack([draw.random(10_000), np.zeros(10_000)], axis=1)
    values[::25, 1] = draw.random(400) < 0.6  # of the chosen item
    values[1::50, 1] = 1.0 - values[::50, 1]  # in every second list of another

    def sums(lists: object, names: object, weights: np.ndarray) -> tuple[object, ...]:
        total = shown_logit.of_lists(values, lengths, chosen, weights)
        return 400, total[1], total[2:4], total[4:].reshape(2, 2)

    monkeypatch.setattr(shown_logit, "_sums", sums)
    config = shown_logit.Config(reg=1.0)
    weights, facts = shown_logit._newton(None, ("a", "b"), config)  # type: ignore[arg-type]
    gradient = sums(None, None, weights)[2] - config.reg * weights  # type: ignore[operator]
    assert np.abs(gradient).max() < 0.05 and facts["iterations"] < config.iterations
    assert facts["log_likelihood"] > -np.log(25)
