"""Item-to-item weights that rebuild every history from the rest of it, in closed form.

Paper: H. Steck. Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019,
    doi:10.1145/3308558.3313710 (equation 8); with `dropout` H. Steck. Autoencoders that Don't
    Overfit towards the Identity. NeurIPS 2020 (the full-rank EDLAE: a regulariser that grows with
    an item's popularity).
Differs: a history may be weighted by recency (`decay`, `last`), when it is scored alone.

Spark computes the Gram matrix in blocks; the inversion is not distributed: it takes 8 bytes times
the squared number of items with events on the driver, and time with their cube (20,000 items:
3.2 GB, minutes). Above `max_items` a DataError is raised.

For: the first model to try on up to some 20,000 items: one setting, closed form.
Needs: events; with `decay` or `last` their order.
Cold: a new user with a history is ranked at once; new items are never found.
Memory: 8 bytes * items^2 on the driver while it is fitted, 4 bytes * items^2 in the index.
Not for: more than `max_items` items: memory grows with their square, time with their cube.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import SparkSession
from scipy.linalg import lapack

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix, products, weighting
from recsys_spark.baselines.neighbours.products import Product
from recsys_spark.baselines.neighbours.similarity import Similarity
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"


class Config(Settings):
    l2: float = Field(500.0, gt=0)  # added to the diagonal of the Gram matrix
    # Dropout rate p: adds p / (1 - p) times an item's diagonal entry of the Gram matrix
    dropout: float = Field(0.0, ge=0, lt=1)
    values: bool = False  # entries are the sum of a pair's values; false: 1
    last: int = Field(0, ge=0)  # of a history only so many newest items count; 0: all
    decay: float = Field(1.0, gt=0, le=1)  # weight of each item of a history against the next one
    max_items: int = Field(20_000, ge=1)  # maximum of items with events, for the driver's memory


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: items x items, dense. Queries are histories. Raises
    DataError above `max_items`.
    """
    with matrix.scratch(folder) as work:
        users, items = matrix.interactions(training, work, values=config.values)
        popularity = matrix.mapped(items).lengths
        active = np.flatnonzero(popularity)
        if len(active) > config.max_items:
            raise DataError(
                "items of ease",
                found=f"{len(active):,} with events "
                f"({8 * len(active) ** 2 / 1e9:,.1f} GB on the driver)",
                expected=f"at most {config.max_items:,}",
                remedy="leave rare items out in the prepare "
                "step, raise max_items where the driver has that much memory "
                "outside the JVM, or take item_knn or als",
            )
        product = weighting.weighted(items, users, Similarity(values=config.values)).product
        gram = _gram(training.events.sparkSession, product, active, work)
        solve(gram, config)
        artifact.write_sparse(
            folder,
            model="ease",
            num_rows=training.num_items,
            matrix=_written(gram, active, training.num_items, work),
            popularity=popularity.astype(np.float32),
            last=config.last,
            decay=config.decay,
        )
    return {
        "pairs": int(popularity.sum()),
        "items": len(active),
        "cold_items": training.num_items - len(active),
    }


def solve(gram: NDArray[np.float64], config: Config) -> None:
    """Overwrites the Gram matrix (A, A) with the weights -P[i, j] / P[j, j], where P is the inverse
    of the regularised Gram matrix; 0 on the diagonal.
    """
    own = np.einsum("ii->i", gram)  # a view
    own += config.l2 + config.dropout / (1 - config.dropout) * own
    # Gram.T is in LAPACK's column order, so that nothing is copied
    factor, problem = lapack.dpotrf(gram.T, lower=1, overwrite_a=1, clean=0)
    inverse, unsolved = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if problem or unsolved:
        raise DataError(
            "Gram matrix of ease",
            found="none that can be inverted",
            expected="a positive definite one",
            remedy="raise l2",
        )
    assert np.shares_memory(inverse, gram), "LAPACK made a copy"
    step = max(1, products.CELLS // len(gram))
    for first in range(0, len(gram), step):  # LAPACK fills one triangle only: here the upper one
        last = min(first + step, len(gram))
        gram[first:last, :first] = gram[:first, first:last].T
        corner = gram[first:last, first:last]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
    below = own.copy()
    for first in range(0, len(gram), step):
        gram[first : first + step] /= -below
    own[:] = 0.0


def _gram(
    spark: SparkSession, product: Product, active: NDArray[np.int64], work: Path
) -> NDArray[np.float64]:
    """The Gram matrix (A, A) of the items `active` (A,). Tasks write its rows, the driver reads
    them.
    """
    place = np.full(product.columns, -1)
    place[active] = np.arange(len(active))

    def task(first: int, last: int) -> Iterator[pa.RecordBatch]:
        step = max(1, products.CELLS // product.columns)
        for start, block in product.blocks(first, last):
            for row in range(0, block.shape[0], step):
                some = block[row : row + step].toarray()[:, active]
                kept = place[start + row : start + row + len(some)] >= 0
                np.save(work / f"gram-{start + row}.npy", some[kept])
                yield pa.RecordBatch.from_pydict({"row": pa.array([start + row], pa.int32())})

    written = (
        products.run(spark, task, "row int", product.work()).toArrow().column("row").to_pylist()
    )
    gram = np.empty((len(active), len(active)))
    for row in written:
        some = np.load(work / f"gram-{row}.npy")
        at = int(np.searchsorted(active, row))
        gram[at : at + len(some)] = some
        (work / f"gram-{row}.npy").unlink()
    return gram


def _written(
    weights: NDArray[np.float64], active: NDArray[np.int64], num_items: int, work: Path
) -> Path | Csr:
    """float32 (I + 1, I + 1) with the weights at the rows and columns `active`; sparse if most of
    it is empty.
    """
    if 2 * len(active) ** 2 < (num_items + 1) ** 2:
        files = Csr(*(work / f"weights.{name}.npy" for name in Csr._fields))
        lengths = np.zeros(num_items + 1, dtype=np.int64)
        lengths[active] = len(active)
        np.save(files.indptr, np.concatenate([[0], np.cumsum(lengths)]))
        np.save(files.indices, np.tile(active.astype(np.int32), len(active)))
        np.save(files.data, weights.astype(np.float32).reshape(-1))
        return files
    path = work / "weights.npy"
    row = np.zeros(num_items + 1, dtype="<f4")
    with matrix.npy(path, "<f4", num_items + 1, num_items + 1) as out:
        place = np.full(num_items + 1, -1)
        place[active] = np.arange(len(active))
        for at in place:
            row[active] = weights[at] if at >= 0 else 0.0
            out.write(row.tobytes())
    return path
