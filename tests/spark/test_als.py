"""Spark ALS finds a planted structure, and its factors depend on nothing but its settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import als
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.scoring import index

USERS, ITEMS = 60, 30


@pytest.fixture(scope="module")
def events(spark: SparkSession) -> DataFrame:
    """Two groups of users, each with its own half of the items."""
    rng = np.random.default_rng(0)
    rows = [
        (user, int(item), 0, 1.0)
        for user in range(1, USERS + 1)
        for item in rng.permutation(15)[:9] + 1 + 15 * (user % 2)
    ]
    return (
        spark.createDataFrame(rows, "query_idx int, item_idx int, ts long, value double")
        .repartition(3)
        .persist()
    )


def test_the_same_factors_however_the_events_lie(events: DataFrame) -> None:
    config = als.Config(rank=4, reg=0.05, iterations=3, blocks=2)
    twice = events.unionByName(events)  # a pair counts once
    one, two = (
        als.fit(rows, config, num_items=ITEMS, seed=1).items
        for rows in (events, twice.repartition(5, "value"))
    )
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
    assert not one[0].any() and one[1:].any(axis=1).all()


@pytest.mark.parametrize("implicit", [True, False])
def test_many_iterations_do_not_overflow_the_stack(
    events: DataFrame, tmp_path: Path, implicit: bool
) -> None:
    """Without a cut in its history a plan of so many ends the JVM, and with it all tests."""
    config = als.Config(implicit=implicit, rank=2, iterations=40, blocks=2)
    als.write(Training(events, USERS, ITEMS, seed=1), config, tmp_path / "index")
    assert np.isfinite(np.load(tmp_path / "index" / "items.npy")).all()
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "no checkpoint stays"


def test_an_explicit_model_adds_the_mean_and_keeps_the_range(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [
        (u, i, 0, 4.0 if (u + i) % 2 else 2.0)
        for u in range(1, 21)
        for i in range(1, 21)
        if (u * 7 + i) % 9
    ]
    rated = spark.createDataFrame(rows, "query_idx int, item_idx int, ts long, value double")
    config = als.Config(implicit=False, rank=4, reg=0.01, iterations=5, blocks=2)
    als.write(Training(rated, num_users=20, num_items=21, seed=1), config, tmp_path / "index")
    facts = index.facts(tmp_path / "index")
    assert als.task(config) == "rating" and (facts.low, facts.high) == (2.0, 4.0)
    mean = np.mean([row[3] for row in rows])
    assert np.load(tmp_path / "index" / facts.bias) == pytest.approx(mean)
    items = np.load(tmp_path / "index" / facts.items)
    vectors = {
        row["query_idx"]: row["vector"]
        for row in spark.read.parquet(str(tmp_path / "index" / facts.queries)).collect()
    }
    held = [
        (u, i, 4.0 if (u + i) % 2 else 2.0)
        for u in range(1, 21)
        for i in range(1, 21)
        if not (u * 7 + i) % 9
    ]
    # The mean alone: 1
    assert max(abs(np.dot(vectors[u], items[i]) + mean - value) for u, i, value in held) < 0.5
    assert not items[21].any()  # an item without ratings is predicted by the mean
