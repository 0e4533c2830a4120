"""RMSE and MAE by hand, against scikit-learn, and over any partitioning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from recsys_spark.metrics import rating
from recsys_spark.metrics.ranking import Sums


def measured(label: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    return rating.finish(Sums.of(rating.from_rows(label, prediction)).means())


def test_by_hand() -> None:
    assert measured(np.array([5.0, 3.0, 1.0]), np.array([4.0, 3.0, 3.0])) == {
        "rmse": math.sqrt(5 / 3),
        "mae": 1.0,
    }


def test_agrees_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    label, prediction = draw.integers(1, 6, 5000).astype(float), draw.normal(3, 2, 5000)
    found = measured(label, prediction)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(label, prediction), abs=1e-9)
    assert found["mae"] == pytest.approx(mean_absolute_error(label, prediction), abs=1e-9)


def test_rmse_is_over_rows_whatever_the_parts() -> None:
    draw = np.random.default_rng(1)
    label, prediction = draw.normal(size=100), draw.normal(size=100)
    parts = [
        Sums.of(rating.from_rows(label[part], prediction[part]))
        for part in (slice(0, 7), slice(7, 90), slice(90, 100))
    ]
    merged = rating.finish(parts[2].merge(parts[0]).merge(parts[1]).means())
    assert merged == pytest.approx(measured(label, prediction), abs=1e-12)


def test_float32_input_is_added_in_float64() -> None:
    many = np.full(3_000_000, 0.1, np.float32)
    assert measured(many * 0, many)["mae"] == pytest.approx(float(np.float32(0.1)), abs=1e-12)
