"""Errors of predicted ratings: values per row whose means, finished, are the metrics.

    mae   mean of |prediction - label|
    rmse  root of the mean of (prediction - label)^2, over all rows at once (not a mean of users' roots)

Predictions are measured as they are: a model that clamps its predictions does so itself and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
METRICS = ("rmse", "mae")
ROOTS = ("rmse",)  # roots of means


def from_rows(label: Floats, prediction: Floats) -> dict[str, Floats]:
    """What is averaged, by metric, each (B,): `ranking.Sums.of` adds it, `finish` turns the means into the metrics."""
    error = np.asarray(prediction, np.float64) - np.asarray(label, np.float64)
    return {"rmse": error**2, "mae": np.abs(error)}


def finish(means: Mapping[str, float]) -> dict[str, float]:
    """The metrics from the means of `from_rows`; other names pass unchanged."""
    return {name: float(np.sqrt(mean)) if name in ROOTS else mean for name, mean in means.items()}
