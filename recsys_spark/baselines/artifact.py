"""Writes an index artefact (contracts.Index): the folder that the one scorer reads, whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Index, NormalEquations

FILE, QUERIES = "index.json", "queries"
VECTOR = "vector"
ROWS, WEIGHTS, OFFSET = "rows", "weights", "offset"


class Csr(NamedTuple):
    """The files of a sparse matrix: row r holds the columns indices[indptr[r] : indptr[r + 1]], and their values beside them in `data`."""

    indptr: Path  # .npy int64 (rows + 1,)
    indices: Path  # .npy int32
    data: Path  # .npy float32


def write_dot(folder: Path, *, model: str, items: NDArray[np.float32], popularity: NDArray[np.float32], queries: DataFrame | None = None,
              constant: tuple[float, ...] = (), bias: NDArray[np.float32] | None = None,
              limits: tuple[float, float] | None = None, fold_in: NormalEquations | None = None,
              gram: NDArray[np.float64] | None = None) -> Index:
    """items (I + 1, D), row 0 zero; queries (user_idx int, vector array<float>), or one `constant` vector (D,) for all.

    popularity (I + 1,): the scores of a query without a vector. bias (I + 1,): added to every score. limits: what predictions are
    clamped to. fold_in, gram (D, D): how a query without a vector gets one of its history. Queries are written by the executors, never
    collected.
    """
    assert (fold_in is None) == (gram is None), "folding in takes the equations and the Gram matrix"
    assert (queries is None) == bool(constant), "the vector of a query comes with it, or is constant"
    index = Index(kind="dot", model=model, num_items=len(items) - 1, dim=items.shape[1], items="items.npy", constant=constant,
                  bias="" if bias is None else "bias.npy",
                  queries=QUERIES if queries is not None else "", fallback_scores="fallback.npy",
                  low=limits[0] if limits else None, high=limits[1] if limits else None,
                  fold_in=fold_in, gram="" if gram is None else "gram.npy")
    with artifacts.new_folder(folder) as new:
        np.save(new / index.items, items.astype(np.float32))
        np.save(new / index.fallback_scores, popularity.astype(np.float32))
        if bias is not None:
            np.save(new / index.bias, bias.astype(np.float32))
        if gram is not None:
            np.save(new / index.gram, gram.astype(np.float64))
        if queries is not None:
            queries.select(c.USER_IDX, F.col(VECTOR)).write.parquet(str(new / QUERIES))
        artifacts.write_model(new / FILE, index)
    return index


def write_sparse(folder: Path, *, model: str, num_rows: int, matrix: Path | Csr, popularity: NDArray[np.float32],
                 queries: DataFrame | None = None, history: bool = False, bias: NDArray[np.float32] | None = None,
                 dampen: float | None = None, limits: tuple[float, float] | None = None) -> Index:
    """matrix: one dense .npy float32 (num_rows + 1, I + 1), or a CSR of as many rows; its files are moved into the artefact.

    popularity (I + 1,): the scores of a query that reaches no row. queries (user_idx int, rows array<int>, weights array<float>): the
    query's own rows, written by the executors; without them a query is its history, and the rows are items. history: the rows are items,
    and a query that is not among `queries` is its history. bias (I + 1,), dampen, limits: of one that predicts ratings; its queries have
    an `offset` float too (contracts.Index).
    """
    assert (dampen is None) == (bias is None), "ratings are predicted from a bias"
    assert not history or num_rows == len(popularity) - 1, "a history can only choose rows that are items"
    dense = isinstance(matrix, Path)
    names = {"matrix": "matrix.npy"} if dense else {name: f"{name}.npy" for name in Csr._fields}
    index = Index(kind="sparse", model=model, num_items=len(popularity) - 1, num_rows=num_rows, **names,
                  queries=QUERIES if queries is not None else "", history=history and queries is not None, fallback_scores="fallback.npy",
                  bias="" if bias is None else "bias.npy", dampen=dampen,
                  low=limits[0] if limits else None, high=limits[1] if limits else None)
    with artifacts.new_folder(folder) as new:
        np.save(new / index.fallback_scores, popularity.astype(np.float32))
        if bias is not None:
            np.save(new / index.bias, bias.astype(np.float32))
        if queries is not None:
            offset = [F.col(OFFSET).cast("float")] if OFFSET in queries.columns else []
            own = queries.select(c.USER_IDX, F.col(ROWS).cast("array<int>"), F.col(WEIGHTS).cast("array<float>"), *offset)
            own.write.parquet(str(new / QUERIES))
        for source, name in zip([matrix] if isinstance(matrix, Path) else matrix, names.values(), strict=True):
            shutil.move(source, new / name)
        artifacts.write_model(new / FILE, index)
    return index


def counts(events: DataFrame, num_items: int) -> NDArray[np.float32]:
    """Events of each item, float32 (I + 1,), by item_idx; items are few enough for one machine (4 bytes each)."""
    found = events.groupBy(c.ITEM_IDX).count().toArrow()
    scores = np.zeros(num_items + 1, dtype=np.float32)
    scores[found.column(c.ITEM_IDX).to_numpy()] = found.column("count").to_numpy()
    return scores
