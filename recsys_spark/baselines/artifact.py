"""Writes an index artefact (contracts.Index): the folder that the one scorer reads, whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Index

FILE, QUERIES = "index.json", "queries"
VECTOR = "vector"


def write_dot(folder: Path, *, model: str, items: NDArray[np.float32], popularity: NDArray[np.float32], queries: DataFrame | None = None,
              constant: tuple[float, ...] = (), bias: NDArray[np.float32] | None = None,
              limits: tuple[float, float] | None = None) -> Index:
    """items (I + 1, D), row 0 zero; queries (user_idx int, vector array<float>), or one `constant` vector (D,) for all.

    popularity (I + 1,): the scores of a query without a vector. bias (I + 1,): added to every score. limits: what predictions are
    clamped to. Queries are written by the executors, never collected.
    """
    assert (queries is None) == bool(constant), "the vector of a query comes with it, or is constant"
    index = Index(kind="dot", model=model, num_items=len(items) - 1, dim=items.shape[1], items="items.npy", constant=constant,
                  bias="" if bias is None else "bias.npy",
                  queries=QUERIES if queries is not None else "", fallback_scores="fallback.npy",
                  low=limits[0] if limits else None, high=limits[1] if limits else None)
    with artifacts.new_folder(folder) as new:
        np.save(new / index.items, items.astype(np.float32))
        np.save(new / index.fallback_scores, popularity.astype(np.float32))
        if bias is not None:
            np.save(new / index.bias, bias.astype(np.float32))
        if queries is not None:
            queries.select(c.USER_IDX, F.col(VECTOR)).write.parquet(str(new / QUERIES))
        artifacts.write_model(new / FILE, index)
    return index


def counts(events: DataFrame, num_items: int) -> NDArray[np.float32]:
    """Events of each item, float32 (I + 1,), by item_idx; items are few enough for one machine (4 bytes each)."""
    found = events.groupBy(c.ITEM_IDX).count().toArrow()
    scores = np.zeros(num_items + 1, dtype=np.float32)
    scores[found.column(c.ITEM_IDX).to_numpy()] = found.column("count").to_numpy()
    return scores
