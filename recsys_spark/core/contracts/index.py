"""`Index`: the artefact with which queries are scored without a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION


class NormalEquations(Settings):
    """Equations of an implicit factorization for a row's vector x, from the vectors v of its n
    items and the sum `gram` of v v' over all items:

    (unobserved * gram + observed * sum v v' + reg * (n + offset)^exponent * 1) x = pull * sum v.
    """

    unobserved: float  # weight of "0 everywhere"
    observed: float  # weight added where there is an event
    pull: float  # weight of an event times its target
    reg: float
    exponent: float  # 0: the same for every row; 1: in proportion to n + offset
    offset: float  # added to n


class Index(Settings):
    """`index.json` of an index artefact: everything needed to score a query without its model.

    dot: score = vector . items[i] + bias[i]; `vector` is a column of the query, or constant.

    sparse: score = sum over the query's pairs (row, weight) of weight * matrix[row, i]. The pairs
    are columns of the query (`rows` and `weights`), or, where `queries` is empty, its history (rows
    are then items): the last `last` of it, or all, the n-th from the end with weight `decay` ** n.
    With `history`, a query whose own pairs reach no item, such as that of a user who came after the
    fit, also uses its history. With `dampen` it predicts ratings:
    bias[i] + the query's `offset` + (sum of weight * matrix[row, i]) / (dampen + sum of the weights
    of the rows that have i).

    sessions: `sparse`, with rows of the sessions of the fit. A query's pairs are the `neighbours`
    sessions most like its history, among the `sample` latest that share an item with it (0: all),
    without itself (a session's row is its query_idx): sum over the shared items of their weight in
    the history (`last` and `decay`, as above) * their entry in `postings`; times `nearness` ** the
    place from the end of the newest shared one.

    shown: a list that was shown stays in its order, but for what `lift` puts first; with `fields`,
    score = the sum of weights * fields of the item in its list, or what `trees` make of them. A
    query without a list gets the fallback.
    """

    version: int = VERSION
    kind: Literal["dot", "sparse", "sessions", "shown"]
    model: str
    num_items: int
    dim: int = 0
    items: str = ""  # .npy float32 (num_items + 1, dim), row 0 zero
    bias: str = ""  # .npy float32 (num_items + 1,); empty: none
    constant: tuple[
        float, ...
        # the vector of every query, when queries have no vector column
    ] = ()
    # Parquet folder (query_idx int, vector array<float>; sparse: rows array<int>, weights
    # array<float>, perhaps offset float); empty: none
    queries: str = ""
    fold_in: NormalEquations | None = (
        None  # dot: gives a vector to a query with a history alone; none: such a query is cold
    )
    gram: str = ""  # .npy float64 (dim, dim), for fold_in
    # sparse without `queries`, sessions: how many of the newest items of a history count (0: all),
    # and the weight of each against the one after it
    last: int = Field(0, ge=0)
    decay: float = Field(1.0, gt=0, le=1)
    # sparse, with `queries`: the rows are items, so that a history can replace a query's own pairs
    history: bool = False
    dampen: float | None = (
        # sparse: it predicts ratings, shrunk towards bias + offset by this much weight; none: it
        # ranks
        None
    )
    num_rows: int = (
        0  # sparse: the matrix has num_rows + 1 rows, row 0 empty, and num_items + 1 columns
    )
    matrix: str = ""  # sparse: one dense .npy float32 (num_rows + 1, num_items + 1); or else a CSR:
    indptr: str = ""  # .npy int64 (num_rows + 2,)
    indices: str = ""  # .npy int32 (entries,)
    data: str = ""  # .npy float32 (entries,)
    # sessions: a CSR (items, sessions), as the matrix below; of each item its latest sessions
    postings_indptr: str = ""
    postings_indices: str = ""
    postings_data: str = ""
    latest: str = ""  # .npy int64 (num_rows + 1,): time of each session's last event
    neighbours: int = 0
    sample: int = 0
    nearness: float = Field(1.0, gt=0, le=1)
    fallback: str = "popularity"  # what a query without vector or history gets; always stated
    fallback_scores: str = (
        ""  # .npy float32 (num_items + 1,); rating: the value predicted for a query without vector
    )
    lift: Literal["", "last"] = ""  # shown: the last item of the history; empty: nothing
    fields: tuple[str, ...] = ()  # shown: of etl/shown_features.py
    weights: tuple[float, ...] = ()  # shown: one a field
    trees: str = ""  # shown: LightGBM's text, over the fields; empty: weights
    low: float | None = (
        None  # rating: predictions are clamped to low..high, the range of the training values
    )
    high: float | None = None
