"""`Index`: what scores without a model."""

from __future__ import annotations

from typing import Literal

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION


class NormalEquations(Settings):
    """How an implicit factorization makes a row's vector x of its n items' vectors v, given the sum `gram` of v v' over all items:

    (unobserved * gram + observed * sum v v' + reg * (n + offset)^exponent * 1) x = pull * sum v.
    """

    unobserved: float  # weight of "0 everywhere"
    observed: float  # weight added where there is an event
    pull: float  # weight of what an event says times its target
    reg: float
    exponent: float  # 0: the same for every row; 1: in proportion to how much the row takes part
    offset: float  # added to n


class Index(Settings):
    """`index.json` of an index artefact: what a query needs to be scored without its model.

    dot: score = vector . items[i] + bias[i]; `vector` comes with the query (column `vector`), or is constant.
    sparse: score = sum over the query's pairs (row, weight) of weight * matrix[row, i]. The pairs come with the query (columns `rows`
    and `weights`), or, where `queries` is empty, are its history with weight 1 (rows are then items). With `history` a query whose
    own pairs reach nothing, such as that of a user who came after the fit, is its history too. With `dampen` it predicts ratings: bias[i]
    + the query's `offset` + (sum of weight * matrix[row, i]) / (dampen + sum of the weights of the rows that have i).
    """

    version: int = VERSION
    kind: Literal["dot", "sparse"]
    model: str
    num_items: int
    dim: int = 0
    items: str = ""  # .npy float32 (num_items + 1, dim), row 0 zero
    bias: str = ""  # .npy float32 (num_items + 1,); empty: none
    constant: tuple[float, ...] = ()  # the vector of every query, when queries have none of their own
    # Parquet folder (user_idx int, vector array<float>; sparse: rows array<int>, weights array<float>, perhaps offset float); empty: none
    queries: str = ""
    fold_in: NormalEquations | None = None  # dot: what gives a vector to a query that has a history alone; none: it is cold
    gram: str = ""  # .npy float64 (dim, dim), for fold_in
    history: bool = False  # sparse, with `queries`: the rows are items, so that a history can stand for a query's own pairs
    dampen: float | None = None  # sparse: it predicts ratings, drawn to bias and offset as if so much weight spoke for them; none: it ranks
    num_rows: int = 0  # sparse: the matrix has num_rows + 1 rows, row 0 empty, and num_items + 1 columns
    matrix: str = ""  # sparse: one dense .npy float32 (num_rows + 1, num_items + 1); or else a CSR:
    indptr: str = ""  # .npy int64 (num_rows + 2,)
    indices: str = ""  # .npy int32 (entries,)
    data: str = ""  # .npy float32 (entries,)
    fallback: str = "popularity"  # what a query without vector or history gets; stated, never silent
    fallback_scores: str = ""  # .npy float32 (num_items + 1,); rating: the value predicted for a query without vector
    low: float | None = None  # rating: predictions are clamped to low..high, the range of the training values
    high: float | None = None
