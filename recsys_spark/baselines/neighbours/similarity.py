"""Similarity of two rows of a matrix (items by users, or users by items): weights of the entries,
and the similarity from a product of two rows.

Papers: S. Robertson, H. Zaragoza. The Probabilistic Relevance Framework: BM25 and Beyond. FnTIR
    3(4), 2009, doi:10.1561/1500000019; F. Aiolli. Efficient Top-N Recommendation for Very Large
    Scale Binary Rated Datasets. RecSys 2013, doi:10.1145/2507157.2507189 (the asymmetric cosine,
    and similarities raised to a power); as put together in M. Ferrari Dacrema et al. A Troubling
    Analysis of Reproducibility and Progress in Recommender Systems Research. ACM TOIS 39(2), 2021,
    doi:10.1145/3434185.
Differs: log((N + 1) / (n + 1)) as the inverse document frequency, which is never negative.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys_spark.core.config import Settings

Numbers = NDArray[np.float64]


class Similarity(Settings):
    values: bool = False  # entries are the sum of a pair's values; false: 1
    weighting: Literal["none", "tf_idf", "bm25"] = "none"  # rows are documents, columns their words
    k1: float = Field(1.2, ge=0)  # bm25: saturation of an entry's value
    b: float = Field(0.75, ge=0, le=1)  # bm25: normalisation by row length
    similarity: Literal["cosine", "jaccard", "dot"] = "cosine"  # of two rows
    # Cosine: exponent of the row's own squared norm in the denominator; the neighbour's is 1 - this
    alpha: float = Field(0.5, ge=0, le=1)
    # Cosine, jaccard: added to the denominator; lowers similarities from few common entries
    shrink: float = Field(0.0, ge=0)
    exponent: float = Field(1.0, gt=0)  # of the similarity; above 1, near neighbours count more
    neighbours: int = Field(100, ge=1)  # nearest rows kept for each row


def weights(config: Similarity, values: Numbers, length: Numbers, frequency: Numbers) -> Numbers:
    """Weights (entries,) of entries. values: of the entries; length: of their row, relative to the
    mean; frequency: inverse document frequency of their column.
    """
    if config.weighting == "none":
        return values
    if config.weighting == "tf_idf":
        return np.sqrt(np.maximum(values, 0.0)) * frequency
    return (
        values
        * (config.k1 + 1)
        / (values + config.k1 * (1 - config.b + config.b * length))
        * frequency
    )


def inverse_frequency(rows: int, found_in: NDArray[np.int64]) -> Numbers:
    """log((rows + 1) / (n + 1)) of columns that have an entry in n rows."""
    return np.log((rows + 1) / (found_in + 1.0))


def of_products(config: Similarity, products: Numbers, own: Numbers, other: Numbers) -> Numbers:
    """Similarities (n,) from products (n,) of two rows with squared norms own (n,) and other (n,);
    0 where the denominator is 0.
    """
    if config.similarity == "cosine":
        below = own**config.alpha * other ** (1 - config.alpha) + config.shrink
    elif config.similarity == "jaccard":
        below = own + other - products + config.shrink
    else:
        below = np.ones_like(products)
    similarities = np.divide(products, below, out=np.zeros_like(products), where=below > 0)
    return (
        similarities if config.exponent == 1.0 else np.maximum(similarities, 0.0) ** config.exponent
    )
