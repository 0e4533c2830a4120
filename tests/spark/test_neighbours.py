"""item_knn, user_knn, ease and association_rules from events to scores: by hand, and against dense
numpy.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from scipy import sparse

from recsys_spark.baselines import association_rules, ease, item_knn, user_knn
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix, nearest, weighting
from recsys_spark.core.errors import DataError
from recsys_spark.scoring import index, scorer

USERS, ITEMS = 24, 15
Event = tuple[int, int, int, float]  # user, item, time, value


def world(seed: int = 0) -> list[Event]:
    """Users 1..22 of 24 and items 1..13 of 15 have events; some come twice."""
    draw = np.random.default_rng(seed)
    items = np.arange(1, ITEMS - 1)
    pairs = [
        (u, int(i))
        for u in range(1, USERS - 1)
        for i in draw.choice(items, int(draw.integers(1, 8)), replace=False)
    ]
    return [
        (u, i, 100 * n, float(draw.integers(1, 6))) for n, (u, i) in enumerate(pairs + pairs[::7])
    ]


EVENTS = world()


def training(
    spark: SparkSession, events: list[Event] = EVENTS, users: int = USERS, items: int = ITEMS
) -> Training:
    return Training(
        spark.createDataFrame(events, "query_idx int, item_idx int, ts bigint, value double"),
        users,
        items,
        seed=1,
    )


def dense(values: bool = False) -> np.ndarray:
    made = np.zeros((USERS + 1, ITEMS + 1))
    for user, item, _, value in EVENTS:
        made[user, item] = made[user, item] + value if values else 1.0
    return made


def scores_of(folder: Path, users: list[int]) -> np.ndarray:
    """(B, I + 1): what the scorer gives each item, -inf to what is not listed (the history), NaN in
    all of a cold user's row.
    """
    made, history = scorer.load(folder, k=ITEMS, seed=1), dense()
    columns: dict[str, Any] = {
        "query_idx": pa.array(users, pa.int32()),
        "history": pa.array(
            [np.flatnonzero(history[u]).tolist() for u in users], pa.list_(pa.int32())
        ),
    }
    if index.facts(folder).queries:
        own = {row["query_idx"]: row for row in pq.read_table(folder / "queries").to_pylist()}
        for name, kind in (("rows", pa.int32()), ("weights", pa.float32())):
            columns[name] = pa.array(
                [own[u][name] if u in own else None for u in users], pa.list_(kind)
            )
    found = np.full((len(users), ITEMS + 1), -np.inf)
    for row, (items, scores, cold) in enumerate(
        zip(*made.rank(pa.RecordBatch.from_pydict(columns)).columns[1:], strict=True)
    ):
        found[row, items.as_py()] = scores.as_py()
        found[row] = np.nan if cold.as_py() else found[row]
    return found


def expected_scores(scores: np.ndarray, users: list[int], cold: set[int]) -> np.ndarray:
    made = np.where(dense()[users] > 0, -np.inf, scores[users])
    made[:, 0] = -np.inf
    made[[u in cold for u in users]] = np.nan
    return made


def nearest_of(likeness: np.ndarray, most: int) -> np.ndarray:
    """Row by row the `most` largest, of equal ones the first; 0 elsewhere."""
    kept = np.zeros_like(likeness)
    for row, values in enumerate(likeness):
        best = [
            column
            for column in np.argsort(-np.round(values, 9), kind="stable")[:most]
            if values[column] > 0
        ]
        kept[row, best] = values[best]
    return kept


def cosine(rows: np.ndarray, shrink: float = 0.0) -> np.ndarray:
    norms = np.sqrt((rows**2).sum(axis=1))
    below = norms[:, None] * norms[None, :] + shrink
    made = np.divide(rows @ rows.T, below, out=np.zeros_like(below), where=below > 0)
    np.fill_diagonal(made, 0)
    return made


ALL = list(range(1, USERS + 1))


@pytest.mark.parametrize("whose", ["scored", "history"])
def test_item_knn_is_the_dense_computation(spark: SparkSession, tmp_path: Path, whose: str) -> None:
    facts = item_knn.write(
        training(spark),
        item_knn.Config(neighbours=3, shrink=1.5, neighbours_of=whose),
        tmp_path / "index",
    )
    kept = nearest_of(cosine(dense().T, shrink=1.5), 3)  # row: an item, columns: its nearest
    weights = kept.T if whose == "scored" else kept
    reached = {u for u in ALL if (dense()[u] @ weights).any()}
    assert scores_of(tmp_path / "index", ALL) == pytest.approx(
        expected_scores(dense() @ weights, ALL, set(ALL) - reached), rel=1e-5, nan_ok=True
    )
    assert facts == {
        "pairs": int(dense().sum()),
        "multiplications": int((dense().sum(axis=1) ** 2).sum()),
        "entries": int((kept > 0).sum()),
        "cold_items": 2,
    }
    assert np.load(tmp_path / "index" / "fallback.npy").tolist() == dense().sum(axis=0).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]  # nothing is left beside it


def test_item_knn_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    """Items 1 and 2 share both users of 2, of the three of 1: 2 / sqrt(6). Item 3 shares one with
    each: 1 / sqrt(3), 1 / sqrt(2).
    """
    events = [
        (1, 1, 0, 1.0),
        (1, 2, 0, 1.0),
        (2, 1, 0, 1.0),
        (2, 2, 0, 1.0),
        (2, 3, 0, 1.0),
        (3, 1, 0, 1.0),
    ]
    item_knn.write(
        training(spark, events, 3, 4),
        item_knn.Config(neighbours=1, neighbours_of="history"),
        tmp_path / "index",
    )
    found = index.matrix(tmp_path / "index", index.facts(tmp_path / "index"))
    assert found.indptr.tolist() == [0, 0, 1, 2, 3, 3] and found.indices.tolist() == [2, 1, 2]
    assert found.data.tolist() == pytest.approx([2 / 6**0.5, 2 / 6**0.5, 1 / 2**0.5])


def test_user_knn_is_the_dense_computation(spark: SparkSession, tmp_path: Path) -> None:
    """With values: similarities of the summed values, and a neighbour's items count by theirs."""
    facts = user_knn.write(
        training(spark), user_knn.Config(neighbours=4, values=True), tmp_path / "index"
    )
    weights = dense(values=True)
    scores = nearest_of(cosine(weights), 4) @ weights
    cold = {u for u in ALL if not scores[u].any()}
    assert {USERS - 1, USERS} <= cold and facts["pairs"] == dense().sum()
    assert scores_of(tmp_path / "index", ALL) == pytest.approx(
        expected_scores(scores, ALL, cold), rel=1e-5, nan_ok=True
    )


def test_lists_do_not_depend_on_the_tasks(spark: SparkSession, tmp_path: Path) -> None:
    users, items = matrix.interactions(training(spark), tmp_path, values=False)
    config = user_knn.Config(neighbours=5, weighting="bm25")
    made = weighting.weighted(users, items, config)
    one, many = (
        nearest.rows(spark, made, config, made.product.work(), tasks).orderBy("row").toArrow()
        for tasks in (1, 7)
    )
    assert one.equals(many) and len(one) >= 20


def test_ease_is_the_closed_form(spark: SparkSession, tmp_path: Path) -> None:
    facts = ease.write(training(spark), ease.Config(l2=2.0), tmp_path / "index")
    there = np.flatnonzero(dense().any(axis=0))
    inverse = np.linalg.inv(dense().T @ dense() + 2.0 * np.eye(ITEMS + 1))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    assert facts == {
        "pairs": int(dense().sum()),
        "items": len(there),
        "cold_items": ITEMS - len(there),
    }
    assert index.matrix(tmp_path / "index", index.facts(tmp_path / "index")) == pytest.approx(
        weights, rel=1e-6, abs=1e-7
    )
    cold = {u for u in ALL if not dense()[u].any()}
    assert scores_of(tmp_path / "index", ALL) == pytest.approx(
        expected_scores(dense() @ weights, ALL, cold), rel=1e-4, nan_ok=True
    )
    # Among many items that no event names, the same weights are stored as a sparse matrix.
    ease.write(training(spark, items=40), ease.Config(l2=2.0), tmp_path / "sparse")
    stored = index.matrix(tmp_path / "sparse", index.facts(tmp_path / "sparse"))
    made = sparse.csr_array((stored.data, stored.indices, stored.indptr), shape=(41, 41)).toarray()
    assert (
        made[: ITEMS + 1, : ITEMS + 1] == pytest.approx(weights, rel=1e-6, abs=1e-7)
        and not made[ITEMS + 1 :].any()
    )


def test_ease_refuses_what_no_driver_can_hold(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"items of ease: found 13 with events \(0\.0 GB .*\); expected at most 12\. To "
        r"mend: leave rare",
    ):
        ease.write(training(spark), ease.Config(max_items=12), tmp_path / "index")
    assert not list(tmp_path.iterdir())


def brute_force(
    baskets: list[set[int]], config: association_rules.Config
) -> dict[tuple[int, int], float]:
    found = {}
    for left, right in itertools.permutations(range(1, ITEMS + 1), 2):
        both, one, other = (
            sum(needed <= basket for basket in baskets)
            for needed in ({left, right}, {left}, {right})
        )
        if (
            both
            and both / len(baskets) >= config.min_support
            and both / one >= config.min_confidence
        ):
            found[left, right] = (
                both / one
                if config.measure == "confidence"
                else (both / one) / (other / len(baskets))
            )
    return found


@pytest.mark.parametrize(
    "config",
    [
        association_rules.Config(min_support=0.12, min_confidence=0.4, miner="fp_growth"),
        association_rules.Config(
            min_support=0.05, measure="lift", session_gap_s=150, miner="pairs"
        ),
    ],
    ids=lambda config: f"{config.miner}-{config.measure}",
)
def test_rules_are_those_of_a_brute_force_count(
    spark: SparkSession, tmp_path: Path, config: association_rules.Config
) -> None:
    """Sessions: the second of two equal pairs comes long after the first, so it makes a basket of
    its own.
    """
    baskets: list[set[int]] = []
    for _, mine in itertools.groupby(
        sorted(EVENTS, key=lambda event: (event[0], event[2])), key=lambda event: event[0]
    ):
        last = None
        for _, item, at, _ in mine:
            if last is None or (config.session_gap_s and at - last > config.session_gap_s):
                baskets.append(set())
            baskets[-1].add(item)
            last = at
    facts = association_rules.write(training(spark), config, tmp_path / "index")
    expected = brute_force(baskets, config)
    stored = index.matrix(tmp_path / "index", index.facts(tmp_path / "index"))
    rows = np.repeat(np.arange(ITEMS + 1), np.diff(stored.indptr))
    assert dict(
        zip(
            zip(rows.tolist(), stored.indices.tolist(), strict=True),
            stored.data.tolist(),
            strict=True,
        )
    ) == pytest.approx(expected)
    assert facts["baskets"] == len(baskets) and facts["rules"] == len(expected) > 5


def test_no_rule_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    message = (
        r"association rules: found none in 22 baskets; expected pairs that 22 baskets hold\. To "
        r"mend: lower min_support"
    )
    with pytest.raises(DataError, match=message):
        association_rules.write(
            training(spark),
            association_rules.Config(min_support=1.0, miner="pairs"),
            tmp_path / "index",
        )


def test_user_knn_predicts_what_is_usual_and_the_departures_of_the_like(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Against dense numpy: the usual value solved here as regularised least squares, then cosine,
    shrinkage, nearest, damped mean.
    """
    # Each pair once
    events = [event for event in EVENTS if event not in EVENTS[-(len(EVENTS) // 8) :]]
    once = list({(u, i): (u, i, ts, value) for u, i, ts, value in events}.values())
    config = user_knn.Config(
        task="rating",
        neighbours=6,
        shrink=2.0,
        dampen=0.5,
        bias={"reg_user": 3.0, "reg_item": 4.0, "sweeps": 500, "tolerance": 1e-12},
    )
    user_knn.write(training(spark, once), config, tmp_path / "index")

    user, item = np.array([u for u, *_ in once]), np.array([i for _, i, *_ in once])
    value = np.array([event[3] for event in once])
    design = np.zeros((len(once), USERS + 1 + ITEMS + 1))
    design[np.arange(len(once)), user] = design[np.arange(len(once)), USERS + 1 + item] = 1.0
    ridge = np.diag([3.0] * (USERS + 1) + [4.0] * (ITEMS + 1))
    solved = np.linalg.solve(design.T @ design + ridge, design.T @ (value - value.mean()))
    of_user, of_item = solved[: USERS + 1], solved[USERS + 1 :]
    departs, rated = np.zeros((USERS + 1, ITEMS + 1)), np.zeros((USERS + 1, ITEMS + 1), bool)
    departs[user, item], rated[user, item] = (
        value - value.mean() - of_user[user] - of_item[item],
        True,
    )
    norms = np.linalg.norm(departs, axis=1)
    like = departs @ departs.T / (np.outer(norms, norms) + 2.0)
    np.fill_diagonal(like, 0.0)
    expected = np.zeros((USERS + 1, ITEMS + 1))
    for u in range(1, USERS + 1):
        near = [v for v in np.argsort(-like[u], kind="stable")[:6] if like[u, v] > 0]
        for i in range(ITEMS + 1):
            weight = sum(like[u, v] for v in near if rated[v, i])
            mean = sum(like[u, v] * departs[v, i] for v in near) / (weight + 0.5) if weight else 0.0
            expected[u, i] = np.clip(
                value.mean() + of_user[u] + (of_item[i] if i else 0.0) + mean, 1.0, 5.0
            )

    own = {
        row["query_idx"]: row for row in pq.read_table(tmp_path / "index" / "queries").to_pylist()
    }
    # In no order; 24 and 15 are unknown to the fit
    rows = [(u, i) for u in (3, 24, 1, 3, 17, 22, 3) for i in (0, 1, 5, 13, 15)]
    batch = pa.RecordBatch.from_pydict(
        {
            "query_idx": pa.array([u for u, _ in rows], pa.int32()),
            "item_idx": pa.array([i for _, i in rows], pa.int32()),
            "rows": pa.array([own.get(u, {}).get("rows") for u, _ in rows], pa.list_(pa.int32())),
            "weights": pa.array(
                [own.get(u, {}).get("weights") for u, _ in rows], pa.list_(pa.float32())
            ),
            "offset": pa.array([own.get(u, {}).get("offset") for u, _ in rows], pa.float32()),
        }
    )
    found = scorer.load(tmp_path / "index", k=3, seed=1).predict(batch)
    assert np.abs(found.to_numpy() - [expected[u, i] for u, i in rows]).max() < 1e-5
    assert len({own[u]["offset"] for u in own}) > 10 and any(
        expected[3] != np.clip(value.mean() + of_user[3] + of_item, 1, 5)
    )
    with pytest.raises(ValueError, match="weighting none and similarity cosine"):
        user_knn.Config(task="rating", weighting="bm25")
