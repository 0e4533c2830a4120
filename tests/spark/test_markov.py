"""Transitions: by hand, against a plain count, and in the order that the source gives."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.baselines import markov
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.scoring import index
from recsys_spark.stages import prepare, score, train_baseline
from tests.spark.chained import Chain

Sequences = list[list[int]]


def training(spark: SparkSession, sequences: Sequences, items: int) -> Training:
    """Rows in any order: the place says which is first."""
    rows = [
        (query, item, 7, 1.0, place)
        for query, sequence in enumerate(sequences, 1)
        for place, item in enumerate(sequence, 1)
    ]
    random.Random(3).shuffle(rows)
    shape = "query_idx int, item_idx int, ts long, value double, place int"
    return Training(spark.createDataFrame(rows, shape), len(sequences), items, seed=1)


def fitted(
    spark: SparkSession, folder: Path, sequences: Sequences, items: int, config: markov.Config
) -> np.ndarray:
    """The matrix (I + 1, I + 1) that the index holds."""
    markov.write(training(spark, sequences, items), config, folder)
    matrix = index.matrix(folder, index.facts(folder))
    dense = np.zeros((items + 1, items + 1))
    rows = np.repeat(np.arange(items + 1), np.diff(matrix.indptr))
    dense[rows, matrix.indices] = matrix.data
    return dense


def counted(sequences: Sequences, items: int, config: markov.Config) -> np.ndarray:
    followers = np.zeros((items + 1, items + 1))
    number = np.bincount(np.concatenate(sequences), minlength=items + 1)
    for sequence in sequences:
        for place, item in enumerate(sequence):
            for d in range(1, min(config.window, place) + 1):
                if sequence[place - d] != item:
                    followers[sequence[place - d], item] += d**-config.distance
    sums = np.maximum(followers.sum(axis=1, keepdims=True), 1e-12)
    return followers / sums**config.normalise / np.maximum(number, 1) ** config.discount


def test_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    """1 2 3 and 1 3: after 1 came 2 once, 3 once at once and once at distance two (a half)."""
    config = markov.Config(window=2, normalise=0, discount=0)
    matrix = fitted(spark, tmp_path / "index", [[1, 2, 3], [1, 3], [2]], 4, config)
    expected = np.zeros((5, 5))
    expected[1, 2], expected[1, 3], expected[2, 3] = 1.0, 1.5, 1.0
    assert matrix.tolist() == expected.tolist()
    facts = index.facts(tmp_path / "index")
    assert (facts.last, facts.decay) == (config.last, config.decay)
    assert np.load(tmp_path / "index" / facts.fallback_scores).tolist() == [0, 2, 2, 2, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 1, "normalise": 1.0, "discount": 0.0},
        {"window": 4, "normalise": 0.5, "discount": 0.3, "distance": 0.7},
    ],
)
def test_against_a_plain_count(spark: SparkSession, tmp_path: Path, settings: dict) -> None:
    draw = random.Random(5)
    sequences = [[draw.randint(1, 9) for _ in range(draw.randint(1, 12))] for _ in range(40)]
    config = markov.Config(**settings)
    matrix = fitted(spark, tmp_path / "index", sequences, 10, config)
    np.testing.assert_allclose(matrix, counted(sequences, 10, config), rtol=1e-6)


def test_no_transition_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no query with two events on different items"):
        fitted(spark, tmp_path / "index", [[1], [2, 2]], 3, markov.Config())


def test_what_follows_is_listed_first(spark: SparkSession, tmp_path: Path) -> None:
    """Users walk round a ring of items, from different places: the next one is listed first, for
    nearly all; of times that are equal the source's `step` is the order.
    """
    chain = Chain(spark, tmp_path)
    ring = 12
    events = [
        (f"u{user}", f"i{(user + n) % ring:02d}", 1000, 1.0) for user in range(24) for n in range(8)
    ]
    chain.ingest(events)
    rows = chain.lake.read(c.INTERACTIONS).collect()
    stepped = [row.asDict() | {c.STEP: _place(row, ring)} for row in rows]
    schema = chain.lake.read(c.INTERACTIONS).schema
    chain.lake.overwrite(c.INTERACTIONS, spark.createDataFrame(stepped, schema))
    chain.done["ingest"].output_versions[c.INTERACTIONS] = chain.lake.version(c.INTERACTIONS)
    chain.run("last", prepare, source="ingest", rule="leave_last_out")
    chain.run("markov", train_baseline, source="last", model="markov")
    chain.run("lists", score, model="markov", source="last", k=3)
    lists = chain.rows(c.RECOMMENDATIONS, "lists")
    first = {row[c.QUERY_ID]: row[c.ITEM_ID] for row in lists if row[c.RANK] == 1}
    # The eighth of each walk is held out
    assert first == {f"u{user}": f"i{(user + 7) % ring:02d}" for user in range(24)}


def _place(row: object, ring: int) -> int:
    user, item = int(row[c.USER_ID][1:]), int(row[c.ITEM_ID][1:])
    return (item - user) % ring
