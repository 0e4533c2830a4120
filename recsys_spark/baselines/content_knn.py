"""Items with similar descriptions: a user's score of an item is the sum of its similarities to the
items of the user's history.

Needs no event of the scored item: a new item is recommended from its description alone. The nearest
items of an item are chosen among fitted items (other items are in no history and would only take
their places).

Paper: M. J. Pazzani, D. Billsus. Content-Based Recommendation Systems. The Adaptive Web, LNCS 4321,
    2007, doi:10.1007/978-3-540-72079-9_10; in the form of M. Ferrari Dacrema et al. A Troubling
    Analysis of Reproducibility and Progress in Recommender Systems Research. ACM TOIS 39(2), 2021,
    doi:10.1145/3434185 (ItemKNN-CBF).
Differs: content.py's terms and weights, profiles.py's weights of the history; neighbours are fitted
    items alone.

For: new items, and catalogues with good tags or words.
Needs: fields of the items.
Cold: new items are ranked by their fields, new users by their history.
Memory: 8 bytes for each of the neighbours an item.
Not for: items with enough events: what users did says more than what items are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.item_content import content, profiles
from recsys_spark.baselines.neighbours import matrix, nearest
from recsys_spark.baselines.neighbours.matrix import Rows
from recsys_spark.baselines.neighbours.products import Product
from recsys_spark.baselines.neighbours.similarity import Similarity
from recsys_spark.baselines.neighbours.weighting import Weighted

TASK = "ranking"


class Config(content.Config, profiles.Config):
    """Settings of content.py and profiles.py, and of the cosine.

    The cosine is product / (|a| |b| + shrink), to the power of `exponent`.
    """

    neighbours: int = Field(20, ge=1)  # nearest fitted items of each item
    shrink: float = Field(0.0, ge=0)  # lowers similarities that rest on few or common terms
    exponent: float = Field(1.0, gt=0)  # of the cosine


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: items x items, sparse. Queries are histories, weighted
    if configured (in the history of a user without fitted events every item weighs 1).

    Raises DataError as content.read does.
    """
    with matrix.scratch(folder) as work:
        described = content.read(training, config, work)
        norms = work / "norms.npy"
        np.save(norms, described.norms)
        product = Product(described.items, described.terms, training.num_items + 1)
        likeness = Similarity(
            neighbours=config.neighbours, shrink=config.shrink, exponent=config.exponent
        )
        done = product.work()
        neighbours = nearest.rows(
            training.events.sparkSession, Weighted(product, norms), likeness, done
        )
        kept = matrix.write(
            {"nearest": Rows(nearest.entries(neighbours, turned=True), training.num_items)}, work
        )
        facts = described.facts() | {
            "multiplications": int(done.sum()),
            "entries": len(matrix.mapped(kept["nearest"]).data),
        }
        artifact.write_sparse(
            folder,
            model="content_knn",
            num_rows=training.num_items,
            matrix=kept["nearest"],
            popularity=artifact.counts(training.events, training.num_items),
            queries=profiles.build(training.events, config) if config.weighted else None,
            history=True,
        )
    return facts
