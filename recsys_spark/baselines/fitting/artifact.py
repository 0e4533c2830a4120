"""Writes an index artefact (contracts.Index): the folder that the scorer reads. It is complete or
absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Index, NormalEquations

FILE, QUERIES, TREES = "index.json", "queries", "trees.txt"
VECTOR = "vector"
ROWS, WEIGHTS, OFFSET = "rows", "weights", "offset"


class Csr(NamedTuple):
    """The files of a sparse matrix: row r has the columns indices[indptr[r] : indptr[r + 1]], and
    their values at the same positions in `data`.
    """

    indptr: Path  # .npy int64 (rows + 1,)
    indices: Path  # .npy int32
    data: Path  # .npy float32


def write_dot(
    folder: Path,
    *,
    model: str,
    items: NDArray[np.float32],
    popularity: NDArray[np.float32],
    queries: DataFrame | None = None,
    constant: tuple[float, ...] = (),
    bias: NDArray[np.float32] | None = None,
    limits: tuple[float, float] | None = None,
    fold_in: NormalEquations | None = None,
    gram: NDArray[np.float64] | None = None,
) -> Index:
    """items (I + 1, D), row 0 zero; queries (query_idx int, vector array<float>), or one `constant`
    vector (D,) for all.

    popularity (I + 1,): the scores of a query without a vector. bias (I + 1,): added to every
    score. limits: range to which predictions are clamped. fold_in, gram (D, D): equations that
    compute the vector of a query without one from its history. Queries are written by the
    executors, never collected.
    """
    assert (fold_in is None) == (gram is None), "folding in takes the equations and the Gram matrix"
    assert (queries is None) == bool(constant), (
        "the vector of a query comes with it, or is constant"
    )
    arrays = {
        "items": items.astype(np.float32),
        "fallback_scores": popularity.astype(np.float32),
        "bias": None if bias is None else bias.astype(np.float32),
        "gram": None if gram is None else gram.astype(np.float64),
    }
    low, high = limits or (None, None)
    index = Index(
        kind="dot",
        model=model,
        num_items=len(items) - 1,
        dim=items.shape[1],
        constant=constant,
        queries=QUERIES if queries is not None else "",
        low=low,
        high=high,
        fold_in=fold_in,
        **_files(arrays),
    )
    with artifacts.new_folder(folder) as new:
        _save(new, arrays)
        if queries is not None:
            queries.select(c.QUERY_IDX, F.col(VECTOR)).write.parquet(str(new / QUERIES))
        artifacts.write_model(new / FILE, index)
    return index


def write_sparse(
    folder: Path,
    *,
    model: str,
    num_rows: int,
    matrix: Path | Csr,
    popularity: NDArray[np.float32],
    queries: DataFrame | None = None,
    history: bool = False,
    bias: NDArray[np.float32] | None = None,
    dampen: float | None = None,
    limits: tuple[float, float] | None = None,
    last: int = 0,
    decay: float = 1.0,
) -> Index:
    """matrix: one dense .npy float32 (num_rows + 1, I + 1), or a CSR with the same number of rows;
    its files are moved into the artefact.

    popularity (I + 1,): the scores of a query that reaches no row. queries (query_idx int, rows
    array<int>, weights array<float>): the query's own rows, written by the executors; without them
    a query is its history, and the rows are items. history: the rows are items, and a query that is
    not among `queries` is its history. bias (I + 1,), dampen, limits: for a model that predicts
    ratings; its queries also have an `offset` float (contracts.Index). last, decay: what of a
    history counts, and how much (contracts.Index); 0 and 1: all of it, alike.
    """
    assert (dampen is None) == (bias is None), "ratings are predicted from a bias"
    assert not history or num_rows == len(popularity) - 1, (
        "a history can only choose rows that are items"
    )
    moved = {"matrix": matrix} if isinstance(matrix, Path) else matrix._asdict()
    arrays = {
        "fallback_scores": popularity.astype(np.float32),
        "bias": None if bias is None else bias.astype(np.float32),
    }
    low, high = limits or (None, None)
    index = Index(
        kind="sparse",
        model=model,
        num_items=len(popularity) - 1,
        num_rows=num_rows,
        queries=QUERIES if queries is not None else "",
        history=history and queries is not None,
        dampen=dampen,
        last=last,
        decay=decay,
        low=low,
        high=high,
        **_files({**arrays, **moved}),
    )
    with artifacts.new_folder(folder) as new:
        _save(new, arrays)
        if queries is not None:
            offset = [F.col(OFFSET).cast("float")] if OFFSET in queries.columns else []
            own = queries.select(
                c.QUERY_IDX,
                F.col(ROWS).cast("array<int>"),
                F.col(WEIGHTS).cast("array<float>"),
                *offset,
            )
            own.write.parquet(str(new / QUERIES))
        for field, source in moved.items():
            shutil.move(source, new / _file(field))
        artifacts.write_model(new / FILE, index)
    return index


def write_sessions(
    folder: Path,
    *,
    model: str,
    num_rows: int,
    matrix: Csr,
    postings: Csr,
    latest: NDArray[np.int64],
    popularity: NDArray[np.float32],
    **settings: Any,
) -> Index:
    """matrix (num_rows + 1, I + 1), postings (I + 1, num_rows + 1): their files are moved into the
    artefact. latest (num_rows + 1,), popularity (I + 1,), settings: contracts.Index.
    """
    moved = matrix._asdict() | {f"postings_{k}": path for k, path in postings._asdict().items()}
    arrays: dict[str, NDArray[Any]] = {
        "fallback_scores": popularity.astype(np.float32),
        "latest": latest,
    }
    index = Index(
        kind="sessions",
        model=model,
        num_items=len(popularity) - 1,
        num_rows=num_rows,
        **settings,
        **_files({**arrays, **moved}),
    )
    with artifacts.new_folder(folder) as new:
        _save(new, arrays)
        for field, source in moved.items():
            shutil.move(source, new / _file(field))
        artifacts.write_model(new / FILE, index)
    return index


def write_shown(
    folder: Path,
    *,
    model: str,
    popularity: NDArray[np.float32],
    lift: Literal["", "last"] = "",
    fields: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
    trees: str = "",
) -> Index:
    """popularity (I + 1,): the scores of a query to which no list was shown. trees: the text of
    LightGBM's, over the fields.
    """
    assert trees or len(fields) == len(weights), "a weight for each field"
    arrays = {"fallback_scores": popularity.astype(np.float32)}
    index = Index(
        kind="shown",
        model=model,
        num_items=len(popularity) - 1,
        lift=lift,
        fields=fields,
        weights=weights,
        trees=TREES if trees else "",
        **_files(arrays),
    )
    with artifacts.new_folder(folder) as new:
        _save(new, arrays)
        if trees:
            (new / TREES).write_text(trees)
        artifacts.write_model(new / FILE, index)
    return index


def _file(field: str) -> str:
    """Name of the file that a field of the index names."""
    return f"{field.removesuffix('_scores')}.npy"


def _files(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """{field of the index: file name} of the arrays that there are."""
    return {field: _file(field) for field, array in arrays.items() if array is not None}


def _save(folder: Path, arrays: Mapping[str, NDArray[Any] | None]) -> None:
    for field, array in arrays.items():
        if array is not None:
            np.save(folder / _file(field), array)


def counts(events: DataFrame, num_items: int) -> NDArray[np.float32]:
    """Number of events by item_idx, float32 (I + 1,), of items up to I; it fits on one machine (4
    bytes per item).
    """
    table = events.where(F.col(c.ITEM_IDX) <= num_items).groupBy(c.ITEM_IDX).count().toArrow()
    scores = np.zeros(num_items + 1, dtype=np.float32)
    scores[table.column(c.ITEM_IDX).to_numpy()] = table.column("count").to_numpy()
    return scores
