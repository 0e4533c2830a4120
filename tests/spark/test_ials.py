"""Implicit ALS in blocks on Spark against a dense solver, and folding in: of its users and of
Spark's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import als, ials
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.least_squares import csr_blocks, factors
from recsys_spark.batches.base import Ragged
from recsys_spark.core import seeds
from recsys_spark.core.errors import RecsysError
from recsys_spark.scoring import index
from recsys_spark.scoring.fold_in import FoldIn

USERS, ITEMS = 40, 25  # the last user and the last item have no event
CONFIG = ials.Config(dim=4, unobserved=0.15, reg=0.02, exponent=0.6, iterations=3, blocks=3)


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    """(U + 1, I + 1) 0/1: two groups of users, each with most of its own half of the items."""
    own = (np.arange(USERS + 1)[:, None] + np.arange(ITEMS + 1)) % 2
    made = np.random.default_rng(0).random((USERS + 1, ITEMS + 1)) < np.where(own, 0.6, 0.1)
    made[[0, USERS]], made[:, [0, ITEMS]] = False, False
    return made.astype(float)


@pytest.fixture(scope="module")
def events(spark: SparkSession, dense: np.ndarray) -> DataFrame:
    """Every pair that is 1, and one of them twice."""
    pairs = np.argwhere(dense).tolist()
    rows = [(user, item, 0, 1.0) for user, item in [*pairs, pairs[3]]]
    return (
        spark.createDataFrame(rows, "query_idx int, item_idx int, ts long, value double")
        .repartition(3)
        .persist()
    )


def training(events: DataFrame) -> Training:
    return Training(events, num_users=USERS, num_items=ITEMS, seed=5)


def brute_force(
    dense: np.ndarray, config: ials.Config, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Dense float64 half steps from the given users' vectors: (users, items, the objective after
    each).
    """
    items, objective = np.zeros((ITEMS + 1, config.dim)), []
    active = (dense.any(axis=1).sum(), dense.any(axis=0).sum())  # users, items

    parts = np.concatenate(
        [
            events[events > 0] + config.unobserved * others
            for events, others in ((dense.sum(axis=1), active[1]), (dense.sum(axis=0), active[0]))
        ]
    )
    reg = config.reg * parts.sum() / (parts**config.exponent).sum()

    def ridges(events: np.ndarray, others: int) -> np.ndarray:
        return reg * (events + config.unobserved * others) ** config.exponent

    def half(own: np.ndarray, other: np.ndarray, others: int) -> np.ndarray:
        made = np.zeros((len(own), config.dim))
        for row in np.flatnonzero(own.any(axis=1)):
            weights = own[row] + config.unobserved
            matrix = (other.T * weights) @ other + ridges(own[row].sum(), others) * np.eye(
                config.dim
            )
            made[row] = np.linalg.solve(matrix, own[row] @ other)
        return made

    def value() -> float:
        scores = users @ items.T
        return float(
            (dense * (1 - scores) ** 2).sum()
            + config.unobserved * (scores**2).sum()
            + ridges(dense.sum(axis=1), active[1]) @ (users**2).sum(axis=1)
            + ridges(dense.sum(axis=0), active[0]) @ (items**2).sum(axis=1)
        )

    for _ in range(config.iterations):
        items = half(dense.T, users, active[0])
        objective.append(value())
        users = half(dense, items, active[1])
        objective.append(value())
    return users, items, objective


def start(dense: np.ndarray, config: ials.Config) -> np.ndarray:
    # Sqrt(4)
    drawn = factors.normal(
        0, USERS + 1, config.dim, seed=seeds.derive(5, "ials"), scale=config.init_std / 2
    )
    return drawn * dense.any(axis=1)[:, None]


def test_half_steps_are_those_of_a_dense_solver(
    events: DataFrame, dense: np.ndarray, tmp_path: Path
) -> None:
    found = ials.fit(training(events), CONFIG, tmp_path / "three")
    users, items, objective = brute_force(dense, CONFIG, start(dense, CONFIG))
    np.testing.assert_allclose(found.users.whole(), users, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.items.whole(), items, rtol=0, atol=2e-5)
    assert found.objective == pytest.approx(objective, rel=1e-5) and len(found.objective) == 6
    assert all(
        after < before for before, after in zip(found.objective, found.objective[1:], strict=False)
    )
    assert [side.blocks for side in found.sides] == [3, 3]
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == [
        "items",
        "items-3",
        "users",
        "users-3",
    ]

    again = ials.fit(training(events.repartition(5, "item_idx")), CONFIG, tmp_path / "again")
    np.testing.assert_array_equal(again.users.whole(), found.users.whole())
    assert again.objective == found.objective
    one = ials.fit(training(events), CONFIG.model_copy(update={"blocks": 1}), tmp_path / "one")
    np.testing.assert_allclose(one.users.whole(), found.users.whole(), rtol=0, atol=1e-5)


def folding(folder: Path) -> FoldIn:
    facts = index.facts(folder)
    assert facts.fold_in is not None
    items = index.array(folder, facts.items, (facts.num_items + 1, facts.dim))
    return FoldIn(facts.fold_in, items, index.gram(folder, facts), facts.model)


def histories(dense: np.ndarray) -> Ragged:
    return Ragged(
        torch.from_numpy(np.append(0, np.cumsum(dense.sum(axis=1))).astype(np.int64)),
        torch.from_numpy(np.nonzero(dense)[1].astype(np.int32)),
    )


def vectors(spark: SparkSession, folder: Path) -> dict[int, list[float]]:
    return {
        row["query_idx"]: row["vector"]
        for row in spark.read.parquet(str(folder / "queries")).collect()
    }


def test_a_training_user_folded_in_is_the_solvers_user(
    spark: SparkSession, events: DataFrame, dense: np.ndarray, tmp_path: Path
) -> None:
    facts = ials.write(training(events), CONFIG, tmp_path / "index")
    assert facts["cold_items"] == 1 and [path.name for path in tmp_path.iterdir()] == ["index"]
    own, made = (
        vectors(spark, tmp_path / "index"),
        folding(tmp_path / "index").vectors(histories(dense)).numpy(),
    )
    assert sorted(own) == np.flatnonzero(dense.any(axis=1)).tolist()
    np.testing.assert_allclose(
        made[sorted(own)], [own[user] for user in sorted(own)], rtol=0, atol=1e-5
    )
    assert np.load(tmp_path / "index" / "fallback.npy").tolist() == dense.sum(axis=0).tolist()
    assert not np.load(tmp_path / "index" / "items.npy")[[0, ITEMS]].any() and not made[USERS].any()


def test_spark_users_are_what_folding_in_gives(
    spark: SparkSession, events: DataFrame, dense: np.ndarray, tmp_path: Path
) -> None:
    """Spark's last half step solves the users: its equations, from its items' final vectors, give
    its users' final vectors.
    """
    als.write(
        training(events),
        als.Config(rank=4, reg=0.03, alpha=2.0, iterations=3, blocks=2),
        tmp_path / "index",
    )
    own, made = (
        vectors(spark, tmp_path / "index"),
        folding(tmp_path / "index").vectors(histories(dense)).numpy(),
    )
    assert len(own) == dense.any(axis=1).sum()
    np.testing.assert_allclose(
        made[sorted(own)], [own[user] for user in sorted(own)], rtol=0, atol=1e-5
    )


def test_equations_without_a_solution_are_named(events: DataFrame, tmp_path: Path) -> None:
    # More dimensions than users
    config = ials.Config(dim=60, unobserved=1e-6, reg=0.0, iterations=1)
    with pytest.raises(
        RecsysError,
        match=r"normal equations of row \d+ in .*items-1: found a matrix that is not.*set a "
        r"larger `reg`",
    ):
        ials.write(training(events), config, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_blocks_hold_every_pair_once(
    spark: SparkSession, events: DataFrame, dense: np.ndarray, tmp_path: Path
) -> None:
    sides = csr_blocks.write(events, tmp_path, num_users=USERS, num_items=ITEMS, blocks=4)
    for side, expected in zip(sides, (dense, dense.T), strict=True):
        found = np.zeros_like(expected)
        for number in range(side.blocks):
            indptr, indices = side.block(number)
            assert (
                len(indptr) == side.bounds[number + 1] - side.bounds[number] + 1
                and len(indices) == indptr[-1] > 0
            )
            np.add.at(
                found,
                (
                    np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) + side.bounds[number],
                    indices,
                ),
                1,
            )
        np.testing.assert_array_equal(found, expected)
        assert side.active == expected.any(axis=1).sum()
