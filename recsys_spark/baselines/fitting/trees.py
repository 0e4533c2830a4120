"""Gradient-boosted trees that rank lists: LightGBM's, on the driver.

Paper: Guolin Ke et al. LightGBM: A Highly Efficient Gradient Boosting Decision Tree. NeurIPS 2017.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core import seeds
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

AT = 10  # trees are counted by NDCG at so many items
PATIENCE = 30  # trees without a better one
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Facts = dict[str, Any]


class Config(Settings):
    trees: int = Field(400, ge=1)  # one after the other, at most
    leaves: int = Field(15, ge=2)  # of a tree, at most
    learning_rate: float = Field(0.05, gt=0, le=1)  # how much of a tree's values is added
    min_items: int = Field(50, ge=1)  # of a leaf, at least
    l2: float = Field(1.0, ge=0)  # on the values of leaves
    columns: float = Field(0.8, gt=0, le=1)  # share of the features that a tree may read
    # Pairs weighted by what a swap changes in NDCG, or a cross entropy over the list
    objective: Literal["lambdarank", "rank_xendcg"] = "lambdarank"
    lists: int = Field(200_000, ge=1)  # fitted on, at most
    # Share of the lists that choose the number of trees, before all are fitted on; 0: `trees`
    judged: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_the_package(self) -> Config:
        if importlib.util.find_spec("lightgbm") is None:
            raise ValueError("the package of the trees: pip install 'recsys_spark[boost]'")
        return self


@dataclass(frozen=True)
class Lists:
    """Features of the items of B lists, one list after the other."""

    values: Floats  # (E, F), NaN where nothing is known
    wanted: NDArray[np.int32]  # (E,), 1 for what was chosen
    lengths: Ints  # (B,)

    def first(self, count: int) -> Lists:
        """The first `count` lists."""
        end = int(self.lengths[:count].sum())
        return Lists(self.values[:end], self.wanted[:end], self.lengths[:count])

    def after(self, count: int) -> Lists:
        """The lists from number `count` on."""
        end = int(self.lengths[:count].sum())
        return Lists(self.values[end:], self.wanted[end:], self.lengths[count:])


def write(
    folder: Path,
    *,
    model: str,
    lists: DataFrame,
    names: tuple[str, ...],
    training: Training,
    config: Config,
    empty: DataError,
) -> Facts:
    """Fits trees over the features `names` of `lists` (as `drawn` has them) and writes their index
    at `folder`. Raises `empty` where there is no list.
    """
    fitted_on = drawn(lists, names, config, training.seed)
    if not len(fitted_on.lengths):
        raise empty
    text, facts = fit(fitted_on, names, config, training.seed)
    counts = artifact.counts(training.events, training.num_items)
    artifact.write_shown(folder, model=model, popularity=counts, fields=names, trees=text)
    return facts


def drawn(lists: DataFrame, names: tuple[str, ...], config: Config, seed: int) -> Lists:
    """lists (query_id, wanted array<int>, names..., each an array): at most `config.lists` of them,
    those with the lowest hashes, in the order of these.
    """
    key = F.lit(seeds.derive(seed, "lists")).cast("long")
    lowest = lists.orderBy(F.xxhash64(key, c.QUERY_ID), c.QUERY_ID).limit(config.lists)
    return of_table(lowest.select("wanted", *names).toArrow(), names)


def of_table(table: pa.Table, names: tuple[str, ...]) -> Lists:
    """Lists of the columns `wanted` and names."""
    table = table.combine_chunks()
    if not table.num_rows:
        return Lists(np.empty((0, len(names)), np.float32), np.empty(0, np.int32), np.empty(0, int))
    flat = [pc.list_flatten(table[name]).to_numpy().astype(np.float32) for name in names]
    lengths = pc.list_value_length(table["wanted"]).to_numpy().astype(np.int64)
    wanted = pc.list_flatten(table["wanted"]).to_numpy().astype(np.int32)
    return Lists(np.stack(flat, axis=1), wanted, lengths)


def fit(lists: Lists, names: tuple[str, ...], config: Config, seed: int) -> tuple[str, Facts]:
    """(the trees as LightGBM writes them, facts): the same for equal lists and settings, on any
    number of threads.
    """
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
    trees = _count(lists, settings, config)
    booster = _train(settings, lists, trees)
    gains = booster.feature_importance("gain")
    share = gains / max(gains.sum(), 1e-12)
    facts = {"lists": len(lists.lengths), "trees": trees}
    return booster.model_to_string(), facts | {
        f"gain_{name}": round(float(gain), 4) for name, gain in zip(names, share, strict=True)
    }


def _count(lists: Lists, settings: Facts, config: Config) -> int:
    """The number of trees whose ranking of the last lists is best, grown on the others."""
    fitted = len(lists.lengths) - int(len(lists.lengths) * config.judged)
    if fitted == len(lists.lengths):
        return config.trees
    judged = lists.after(fitted)
    booster = _train(settings, lists.first(fitted), config.trees, judged)
    return int(booster.best_iteration)


def _train(settings: Facts, lists: Lists, trees: int, judged: Lists | None = None) -> Any:
    import lightgbm

    rows = lightgbm.Dataset(lists.values, lists.wanted, group=lists.lengths, free_raw_data=True)
    if judged is None:
        return lightgbm.train(settings, rows, num_boost_round=trees)
    return lightgbm.train(
        settings | {"metric": "ndcg", "eval_at": [AT]},
        rows,
        num_boost_round=trees,
        valid_sets=[rows.create_valid(judged.values, judged.wanted, group=judged.lengths)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
