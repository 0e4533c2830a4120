"""Baselines against their equations, and the stage that writes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark.baselines import global_bias, popularity
from recsys_spark.baselines.fitting import registry
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.scoring import index
from recsys_spark.stages import prepare, train_baseline
from tests.spark.chained import Chain
from tests.spark.prepared import crowd

# No user 4, no item 4
RATINGS = [
    (1, 1, 5.0),
    (1, 2, 3.0),
    (2, 1, 4.0),
    (2, 3, 1.0),
    (3, 2, 2.0),
    (3, 3, 2.0),
    (3, 1, 4.0),
    (5, 2, 5.0),
]


def training(spark: SparkSession, rows: list[tuple[int, int, float]] = RATINGS) -> Training:
    timed = [(user, item, 0, value) for user, item, value in rows]
    events = spark.createDataFrame(timed, "query_idx int, item_idx int, ts long, value double")
    return Training(events, num_users=5, num_items=4, seed=1)


def least_squares(reg_user: float, reg_item: float) -> tuple[float, np.ndarray, np.ndarray]:
    """min sum (r - mean - b_u - b_i)^2 + reg_user sum b_u^2 + reg_item sum b_i^2, by its normal
    equations.
    """
    mean = float(np.mean([value for _, _, value in RATINGS]))
    design = np.zeros((len(RATINGS), 6 + 5))
    for row, (user, item, _) in enumerate(RATINGS):
        design[row, user] = design[row, 6 + item] = 1.0
    ridge = np.diag([reg_user] * 6 + [reg_item] * 5)
    bias = np.linalg.solve(
        design.T @ design + ridge, design.T @ np.array([value - mean for _, _, value in RATINGS])
    )
    return mean, bias[:6], bias[6:]


def test_global_bias_solves_the_least_squares(spark: SparkSession, tmp_path: Path) -> None:
    config = global_bias.Config(reg_user=2.0, reg_item=0.5, sweeps=30, tolerance=1e-9)
    facts = global_bias.write(training(spark), config, tmp_path / "index")
    mean, users, items = least_squares(2.0, 0.5)
    found = index.facts(tmp_path / "index")
    assert facts["mean"] == mean and facts["sweeps"] < 30
    assert np.load(tmp_path / "index" / found.bias) == pytest.approx(mean + items, abs=1e-6)
    queries = {
        row["query_idx"]: row["vector"]
        for row in pq.read_table(tmp_path / "index" / found.queries).to_pylist()
    }
    assert queries == {user: pytest.approx([users[user]], abs=1e-6) for user in (1, 2, 3, 5)}
    assert (found.low, found.high) == (1.0, 5.0) and np.load(tmp_path / "index" / found.items)[
        1:
    ].tolist() == [[1.0]] * 4
    # An item without ratings: the mean
    assert np.load(tmp_path / "index" / found.fallback_scores)[4] == np.float32(mean)


def test_popularity_counts(spark: SparkSession, tmp_path: Path) -> None:
    facts = popularity.write(training(spark), popularity.Config(), tmp_path / "index")
    assert facts == {"events": 8, "cold_items": 1}
    assert np.load(tmp_path / "index" / "items.npy").tolist() == [[0.0], [3.0], [3.0], [2.0], [0.0]]
    assert index.facts(tmp_path / "index").constant == (1.0,)


def test_the_stage_fits_on_the_parts_it_names(spark: SparkSession, tmp_path: Path) -> None:
    steps = Chain(spark, tmp_path)
    steps.ingest(crowd(users=12, items=8, most=6))
    steps.run("prepare", prepare, source="ingest")
    counts = {}
    for fit in ("train", "train+valid"):
        run = steps.run(fit, train_baseline, source="prepare", model="popularity", fit=fit)
        counts[fit] = np.load(Path(run.run_dir) / "index" / "items.npy")[:, 0]
        assert run.summary["value_of_an_event"] == "ignored"
        assert run.summary["task"] == "ranking" and run.input_versions == {
            "splits": run.output_versions["splits"]
        }
    rows = steps.rows("splits", "prepare")
    for fit, parts in (("train", {"train"}), ("train+valid", {"train", "valid"})):
        by_hand = Counter(row.item_idx for row in rows if row.part in parts)
        assert counts[fit].tolist() == [float(by_hand[i]) for i in range(len(counts[fit]))]
    planned = train_baseline.plan(
        steps.context("plan"), train_baseline.Job(source="prepare", model="popularity", fit="train")
    )
    assert planned["events"] == counts["train"].sum()

    steps.done["prepare"] = steps.done["prepare"].model_copy(
        update={"summary": steps.done["prepare"].summary | {"split": "none"}}
    )
    with pytest.raises(
        DataError,
        match=r"events to fit on: found none; expected at least one\. To mend: change the "
        r"prepare step",
    ):
        steps.run("empty", train_baseline, source="prepare", model="popularity", fit="train")
    assert not (tmp_path / "runs" / "empty" / "index").exists()


@pytest.mark.parametrize(
    ("model", "config", "used"),
    [
        ("popularity", {}, False),
        ("als", {}, False),
        ("als", {"implicit": False}, True),
        ("ease", {}, False),
        ("ease", {"values": True}, True),
        ("global_bias", {}, True),
        ("user_knn", {"task": "rating"}, True),
    ],
)
def test_whether_values_are_used_is_known(model: str, config: dict[str, Any], used: bool) -> None:
    settings = registry.find(model).Config(**config)
    assert registry.uses_values(model, settings) is used


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            {"model": "popularty"},
            ConfigError,
            r"baseline: found 'popularty'; expected one of als, .*popularity.* \(did you mean "
            r"'popularity'\?\)",
        ),
        (
            {"model": "global_bias", "config": {"reg_user": -1.0}},
            ConfigError,
            r"baseline global_bias, config\.reg_user: found -1\.0",
        ),
        (
            {"model": "global_bias", "config": {"reg": 1.0}},
            ConfigError,
            r"unknown key config\.reg: found 1\.0; expected one of reg_item, reg_user",
        ),
        ({"model": "popularity", "fit": "all"}, ValidationError, r"fit"),
    ],
)
def test_impossible_jobs_are_refused(
    values: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train_baseline.Job(source="prepare", **values)
