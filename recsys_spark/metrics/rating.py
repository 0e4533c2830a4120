"""Errors of predicted ratings: values per row whose means, after `finish`, are the metrics.

    mae   mean of |prediction - label|
    rmse  root of the mean of (prediction - label)^2, over all rows at once (not a mean of users'
    roots)

Predictions are measured unchanged: a model that clamps its predictions does so itself and
documents it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
METRICS = ("rmse", "mae")
ROOTS = ("rmse",)  # metrics that are roots of means


def from_rows(label: Floats, prediction: Floats) -> dict[str, Floats]:
    """{metric: values (B,) to average}: `ranking.Sums.of` adds them, `finish` turns the means into
    the metrics.

    >>> values = from_rows(label=np.array([4.0, 2.0]), prediction=np.array([4.0, 4.0]))
    >>> {name: value.tolist() for name, value in values.items()}
    {'rmse': [0.0, 4.0], 'mae': [0.0, 2.0]}
    >>> finish({name: float(value.mean()) for name, value in values.items()})["rmse"] == 2**0.5
    True
    """
    error = np.asarray(prediction, np.float64) - np.asarray(label, np.float64)
    return {"rmse": error**2, "mae": np.abs(error)}


def finish(means: Mapping[str, float]) -> dict[str, float]:
    """The metrics from the means of `from_rows`; other names are unchanged."""
    return {name: float(np.sqrt(mean)) if name in ROOTS else mean for name, mean in means.items()}
