"""A re-ranker of lists that were shown, by gradient-boosted trees over what is known of each item
in its list (etl/shown_features.py).

Paper: Guolin Ke et al. LightGBM: A Highly Efficient Gradient Boosting Decision Tree. NeurIPS 2017;
    objective: Christopher J. C. Burges. From RankNet to LambdaRank to LambdaMART: An Overview.
    Microsoft Research MSR-TR-2010-82; or Sebastian Bruch. An Alternative Cross Entropy Loss for
    Learning-to-Rank (XE-NDCG). WWW 2021.
Differs: the package's own code (`pip install 'recsys_spark[boost]'`), on the driver: at most
    `lists` lists are fitted on, those with the lowest hashes.

For: re-ranking lists that were shown, where many of them were answered
Needs: the lists that were shown (`impressions`) and what was chosen of them; what else is known
    comes from the events of the query and from answers of earlier days
Cold: works on any list: new items are ranked by what their list and their query say of them
Memory: 76 bytes an item of a list on the driver, 2 kB for a list of 25, and as much again while
    trees grow
Not for: a few hundred lists: there the four weights of `shown_logit` are better
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
READS_LISTS = c.SHOWN_FEATURES
Floats = NDArray[np.float32]


class Config(Settings):
    trees: int = Field(200, ge=1)  # one after the other
    leaves: int = Field(15, ge=2)  # of a tree, at most
    learning_rate: float = Field(0.05, gt=0, le=1)  # how much of a tree's values is added
    min_items: int = Field(50, ge=1)  # of a leaf, at least
    l2: float = Field(1.0, ge=0)  # on the values of leaves
    columns: float = Field(0.8, gt=0, le=1)  # share of the features that a tree may read
    # Pairs weighted by what a swap changes in NDCG, or a cross entropy over the list
    objective: Literal["lambdarank", "rank_xendcg"] = "lambdarank"
    lists: int = Field(200_000, ge=1)  # fitted on, at most

    @model_validator(mode="after")
    def _has_the_package(self) -> Config:
        if importlib.util.find_spec("lightgbm") is None:
            raise ValueError("the package of the trees: pip install 'recsys_spark[boost]'")
        return self


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`. Raises DataError where no list has an answer."""
    assert training.lists is not None, "asked for by READS_LISTS"
    key = F.lit(seeds.derive(training.seed, "lists")).cast("long")
    lists = training.lists.orderBy(F.xxhash64(key, c.QUERY_ID), c.QUERY_ID).limit(config.lists)
    values, lengths, chosen = arrays(lists.select("chosen", *READS_LISTS).toArrow())
    if not len(lengths):
        raise DataError(
            "lists to fit on",
            found="none of which an item was chosen",
            expected="at least one in the fitted parts",
            remedy="give impressions a `value`, and a split of sessions by action",
        )
    text, gains = fit(values, lengths, chosen, config, training.seed)
    counts = artifact.counts(training.events, training.num_items)
    artifact.write_shown(
        folder, model="shown_boosted", popularity=counts, fields=READS_LISTS, trees=text
    )
    share = gains / max(gains.sum(), 1e-12)
    named = {f"gain_{name}": round(float(g), 4) for name, g in zip(READS_LISTS, share, strict=True)}
    return {"lists": len(lengths)} | named


def arrays(lists: pa.Table) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """(values (E, F) of the items of B lists, one list after the other, lengths (B,), chosen
    (B,)) of columns `chosen` and READS_LISTS.
    """
    lists = lists.combine_chunks()
    chosen = lists["chosen"].to_numpy().astype(np.int64)
    columns = [lists[name] for name in READS_LISTS]
    if not len(chosen):
        return np.empty((0, len(columns)), np.float32), chosen, chosen
    lengths = pa.compute.list_value_length(columns[0]).to_numpy().astype(np.int64)
    flat = [pa.compute.list_flatten(column).to_numpy().astype(np.float32) for column in columns]
    return np.stack(flat, axis=1), lengths, chosen


def fit(
    values: Floats,
    lengths: NDArray[np.int64],
    chosen: NDArray[np.int64],
    config: Config,
    seed: int,
) -> tuple[str, NDArray[np.float64]]:
    """(the trees as LightGBM writes them, gain (F,) of each feature): the same for equal arrays and
    settings, on any number of threads.
    """
    import lightgbm

    labels = np.zeros(len(values), np.int32)
    labels[np.cumsum(lengths) - lengths + chosen] = 1
    rows = lightgbm.Dataset(values, labels, group=lengths, free_raw_data=True)
    settings = {
        "objective": config.objective,
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_items,
        "lambda_l2": config.l2,
        "feature_fraction": config.columns,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed % 2**31,
        "verbosity": -1,
    }
    booster = lightgbm.train(settings, rows, num_boost_round=config.trees)
    return booster.model_to_string(), booster.feature_importance("gain")
