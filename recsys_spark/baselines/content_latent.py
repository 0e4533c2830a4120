"""Item descriptions reduced to a few dimensions, and users as regularised profiles in that space.

Paper: S. Deerwester et al. Indexing by Latent Semantic Analysis. JASIS 41(6), 1990,
    doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9; what content-based
    recommendation is: see content_knn.
Differs: content.py's terms and weights, each item's row at length 1. The decomposition is of the
    fitted items; all others are folded in by their terms. A user is the ridge regression of "1 for
    what I have, 0 for everything" on the items' vectors (the user's half of implicit ALS, Hu et al.
    2008, doi:10.1109/ICDM.2008.22); with a large `reg` that is the mean of the history's vectors.

Limits: the decomposition runs on one machine, which maps 8 bytes per term of an item, and holds 8
bytes times `dim` for each fitted item and term.

For: new items whose fields have many rare terms.
Needs: fields of the items.
Cold: new items are ranked by their fields, new users by their history.
Memory: 8 bytes a term of an item, and 8 * `dim` for each item and term, on one machine.
Not for: items with enough events: what users did says more than what items are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import svds

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.item_content import content, profiles
from recsys_spark.baselines.item_content.content import Content
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.core.contracts import NormalEquations
from recsys_spark.core.errors import DataError

TASK = "ranking"
NOTHING = 1e-6  # relative to the largest singular value, or to length 1: below is rounding error


class Config(content.Config, profiles.Config):
    """Settings of content.py and profiles.py, and of the reduced space."""

    dim: int = Field(64, ge=1)  # maximum: it is also below the numbers of fitted items and terms
    unit: bool = (
        True  # item vectors of length 1 (cosine); false: unscaled projections on `dim` directions
    )
    # Weight of "0 for everything": above 0, directions shared by all items count less
    unobserved: float = Field(1.0, ge=0)
    reg: float = Field(10.0, gt=0)  # of a user's ridge regression on the items' vectors


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: vectors of items and users, and the equations that
    fold in a new user's history.

    Raises DataError as content.read does, and where fewer than two items or terms are left.
    """
    with matrix.scratch(folder) as work:
        tagged = content.read(training, config, work)
        items, kept = condense(tagged, config, seeds.derive(training.seed, "content_latent"))
        gram = items[tagged.fitted].astype(np.float64)
        gram = gram.T @ gram
        np.save(work / "vectors.npy", items)
        solve = partial(_solve, items=work / "vectors.npy", gram=gram, config=config)
        queries = profiles.build(training.events, config).mapInArrow(
            solve, f"{c.QUERY_IDX} int, {artifact.VECTOR} array<float>"
        )
        equations = NormalEquations(
            unobserved=config.unobserved,
            observed=1.0,
            pull=1.0,
            reg=config.reg,
            exponent=0.0,
            offset=0.0,
        )
        artifact.write_dot(
            folder,
            model="content_latent",
            items=items,
            queries=queries,
            fold_in=equations,
            gram=gram,
            popularity=artifact.counts(training.events, training.num_items),
        )
        facts = tagged.facts() | {"kept_dim": items.shape[1], "kept_share": round(kept, 4)}
    return facts


def condense(tagged: Content, config: Config, seed: int) -> tuple[NDArray[np.float32], float]:
    """(items (I + 1, D), the share of the fitted rows' squared length that D directions keep). D is
    at most `dim`.

    An item without a component in these directions has the vector zero. Signs are fixed: a
    direction's largest term is positive.
    """
    rows = _unit_rows(tagged)
    fitted = rows[tagged.fitted]
    fitted = fitted[np.diff(fitted.indptr) > 0]
    dim = min(config.dim, fitted.shape[0] - 1, fitted.shape[1] - 2)  # column 0 is empty
    if dim < 1:
        raise DataError(
            "content of the items",
            found=f"{fitted.shape[0]} items with events in {fitted.shape[1] - 1} terms",
            expected="at least 2 of both",
            remedy="take content_knn, or lower config.min_items",
        )
    start = np.random.default_rng(seed).standard_normal(min(fitted.shape))
    _, values, directions = svds(fitted, k=dim, v0=start, solver="arpack")
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > NOTHING * values.max()]
    directions = directions[order]
    signs = np.sign(directions[np.arange(len(order)), np.abs(directions).argmax(axis=1)])
    items = rows @ (directions * signs[:, None]).T
    lengths = np.linalg.norm(items, axis=1)
    items[lengths < NOTHING] = 0.0
    if config.unit:
        items /= np.maximum(lengths, NOTHING)[:, None]
    return items.astype(np.float32), float((values[order] ** 2).sum() / fitted.shape[0])


def _unit_rows(tagged: Content) -> sparse.csr_array:
    """(I + 1, T + 1) float64: each item's row scaled to length 1."""
    items = matrix.mapped(tagged.items)
    values = items.data / np.sqrt(np.repeat(tagged.norms, items.lengths))
    shape = len(tagged.norms), len(matrix.mapped(tagged.terms).lengths)
    return sparse.csr_array((values, items.indices, items.indptr), shape=shape)


def _solve(
    batches: Iterator[pa.RecordBatch], *, items: Path, gram: NDArray[np.float64], config: Config
) -> Iterator[pa.RecordBatch]:
    """Profiles -> (query_idx, vector). A user none of whose items has a vector has no row."""
    vectors = np.load(items, mmap_mode="r")
    has_vector = vectors.any(axis=1)
    for batch in batches:
        users, solved = [], []
        for user, *lists in zip(*(batch.column(name) for name in profiles.COLUMNS), strict=True):
            rows, recency, weights = (values.values.to_numpy() for values in lists)
            usable = has_vector[rows]
            if usable.any():
                users.append(user.as_py())
                solved.append(
                    profile(vectors[rows[usable]], recency[usable], weights[usable], gram, config)
                )
        yield pa.RecordBatch.from_arrays(
            [pa.array(users, pa.int32()), pa.array(solved, pa.list_(pa.float32()))],
            names=[c.QUERY_IDX, artifact.VECTOR],
        )


def profile(
    own: NDArray[np.float32],
    recency: NDArray[np.float32],
    weights: NDArray[np.float32],
    gram: NDArray[np.float64],
    config: Config,
) -> NDArray[np.float32]:
    """(unobserved * gram + sum r v v' + reg * 1) x = sum w v: own (n, D), recency and weights (n,)
    -> (D,).
    """
    near = own.astype(np.float64)
    matrix = config.unobserved * gram + (near.T * recency) @ near
    matrix[np.diag_indices(len(gram))] += config.reg
    return cho_solve(cho_factor(matrix, lower=True), near.T @ weights.astype(np.float64)).astype(
        np.float32
    )
