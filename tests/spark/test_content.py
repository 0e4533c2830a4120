"""Content baselines: terms by hand, neighbours against a dense computation, and items that nobody
has yet.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from scipy import sparse

from recsys_spark.baselines import content_knn, popularity
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.item_content import content, profiles
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.core.errors import DataError
from recsys_spark.scoring import scorer
from tests.spark.described import EVENT, GENRES, Said, World, asked, dense, described


def likeness(world: World, config: content_knn.Config) -> np.ndarray:
    """(41, 41): row history item, column scored item; each column's nearest fitted items."""
    vectors = dense(world, config)
    norms = np.linalg.norm(vectors, axis=1)
    similar = (
        vectors @ vectors.T / np.maximum(np.outer(norms, norms) + config.shrink, 1e-12)
    ) ** config.exponent
    fitted = np.zeros(41, dtype=bool)
    fitted[[item for _, item, _, _ in world.events]] = True
    similar[~fitted] = 0.0
    np.fill_diagonal(similar, 0.0)
    for column in range(41):
        order = sorted(range(41), key=lambda row: (-round(similar[row, column], 6), row))
        similar[order[config.neighbours :], column] = 0.0
    return similar


def weights(folder: Path) -> np.ndarray:
    data, indices, indptr = (
        np.load(folder / f"{name}.npy") for name in ("data", "indices", "indptr")
    )
    return sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1,) * 2).toarray()


def test_terms_and_their_weights_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    said = [
        (1, "Red, RED Dawn!", {"genres": "Drama | War", "title": "not this"}),
        (2, "Dawn of Été", {"genres": "War"}),
        (3, None, {"genres": "drama||"}),
        (4, "red été", {"genres": "War"}),
        (5, "", {}),
    ]
    items = spark.createDataFrame(said, "item_idx int, title string, fields map<string,string>")
    # 4 is cold, 5 says nothing
    events = spark.createDataFrame(
        [(1, 1, 0, 1.0), (1, 2, 0, 1.0), (2, 3, 0, 1.0), (2, 5, 0, 1.0)], EVENT
    )
    config = content.Config(min_items=1, fields={"title": 2.0, "genres": 1.0})
    found = content.read(Training(events, 2, 5, 1, items=items), config, tmp_path)
    plain = matrix.mapped(found.items)
    vectors = sparse.csr_array((plain.data, plain.indices, plain.indptr), shape=(6, 7)).toarray()
    # In one or two of the three fitted items that say anything
    one, two = (
        math.log(3 / 1),
        math.log(3 / 2),
    )
    # (none), drama, war | dawn, of, red, été
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [0, two, two, 2 * two, 0, 2 * (1 + math.log(2)) * one, 0],
            [0, 0, two, 2 * two, 2 * one, 0, 2 * one],
            [0, two, 0, 0, 0, 0, 0],
            [0, 0, two, 0, 0, 2 * one, 2 * one],
            [0, 0, 0, 0, 0, 0, 0],
        ]
    )
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert found.facts() == {"terms": 6, "items_without_content": 1, "cold_items": 1}
    turned = matrix.mapped(found.terms)
    fitted = (
        sparse.csr_array((turned.data, turned.indices, turned.indptr), shape=(7, 6)).toarray().T
    )
    np.testing.assert_allclose(
        fitted, np.where([[True], [True], [True], [True], [False], [True]], vectors, 0.0)
    )
    np.testing.assert_allclose(found.norms, (expected**2).sum(axis=1), rtol=1e-6)


CONFIGS = (
    content_knn.Config(neighbours=4, shrink=1.5, exponent=1.5),
    content_knn.Config(
        neighbours=30, weighting="bm25", min_items=4, fields={"genres": 1.0, "title": 0.4}
    ),
)


@pytest.fixture(scope="module")
def world() -> World:
    return described()


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, world: World, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Any, Path, dict[str, Any]]]:
    """Each configuration, its index and the facts that came with it."""
    folder = tmp_path_factory.mktemp("content")
    paths = [folder / config.weighting for config in CONFIGS]
    return [
        (config, path, content_knn.write(world.training(spark), config, path))
        for config, path in zip(CONFIGS, paths, strict=True)
    ]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_the_nearest_agree_with_a_dense_computation(made: Any, world: World, number: int) -> None:
    config, folder, facts = made[number]
    expected = likeness(world, config)
    np.testing.assert_allclose(weights(folder), expected, rtol=0, atol=2e-5)
    assert (
        facts["entries"] == (expected > 0).sum()
        and facts["items_without_content"] == 1
        and facts["cold_items"] == 10
    )
    histories = [[1, 2, 3], [40], [], [5, 40]]
    ranked = scorer.load(folder, k=5, seed=1).rank(asked(histories)).to_pydict()
    assert ranked["cold"] == [False, True, True, False]  # nothing is said of item 40
    for history, items, scores in zip(histories, ranked["item_idx"], ranked["score"], strict=True):
        wanted = (
            expected[history].sum(axis=0)
            if expected[history].any()
            else np.bincount([e[1] for e in world.events], minlength=41)
        )
        np.testing.assert_allclose(scores, wanted[items], atol=1e-4)
        assert min(scores) >= np.sort(np.delete(wanted, [0, *history]))[-5] - 1e-4


def test_the_order_of_the_rows_changes_nothing(
    made: Any, spark: SparkSession, world: World, tmp_path: Path
) -> None:
    config, folder, _ = made[1]
    content_knn.write(world.training(spark, partitions=5), config, tmp_path / "index")
    for name in ("data", "indices", "indptr"):
        assert (folder / f"{name}.npy").read_bytes() == (
            tmp_path / "index" / f"{name}.npy"
        ).read_bytes()


@pytest.fixture(scope="module")
def planted() -> World:
    """Four genres of ten items; 31..39 and 40 are cold. Each user has all but one of a genre's warm
    items.
    """
    said: Said = {item: (f"film {item}", {"genres": GENRES[item % 4]}) for item in range(1, 41)}
    events = [
        (user, item, item, 1.0)
        for user in range(1, 13)
        for item in range(1, 31)
        if item % 4 == user % 4 and item // 4 != user // 4
    ]
    return World(said, events)


def test_items_that_nobody_has_are_found_by_what_is_said_of_them(
    spark: SparkSession, planted: World, tmp_path: Path
) -> None:
    training = planted.training(spark)
    content_knn.write(training, content_knn.Config(), tmp_path / "content")
    popularity.write(training, popularity.Config(), tmp_path / "popularity")
    histories = [
        [item for user, item, _, _ in planted.events if user == number] for number in range(1, 13)
    ]
    batch = asked(histories)
    found = {}
    for name in ("content", "popularity"):
        ranked = scorer.load(tmp_path / name, k=5, seed=1).rank(batch).to_pydict()["item_idx"]
        found[name] = [
            sum(item > 30 and item % 4 == user % 4 for item in items)
            for user, items in enumerate(ranked, 1)
        ]
    # 2 or 3 of the 10 cold items
    cold = [sum(item % 4 == user % 4 for item in range(31, 41)) for user in range(1, 13)]
    assert found["content"] == cold and found["popularity"] == [0] * 12


def test_what_is_said_of_a_cold_item_changes_no_other(
    spark: SparkSession, world: World, made: Any, tmp_path: Path
) -> None:
    config, folder, _ = made[0]
    told = World(
        world.said | {35: ("RED - NIGHT - UNHEARD", {"genres": "Drama|Unheard", "year": "1899"})},
        world.events,
    )
    content_knn.write(told.training(spark), config, tmp_path / "index")
    before, after = weights(folder), weights(tmp_path / "index")
    assert (before[:, 35] != after[:, 35]).any()
    before[:, 35] = after[:, 35] = 0.0
    np.testing.assert_array_equal(before, after)


def test_profiles_by_hand(spark: SparkSession) -> None:
    # Item 1 twice: the latest counts
    events = [
        (1, 1, 0, 5.0),
        (1, 2, 10, 1.0),
        (1, 3, 20, 3.0),
        (1, 1, 30, 3.0),
        (2, 4, 7, 2.0),
    ]
    rows = profiles.build(
        spark.createDataFrame(events, EVENT), profiles.Config(half_life_events=2.0, liking=0.5)
    ).collect()
    found = {row.query_idx: (row.rows, row.recency, row.weights) for row in rows}
    mean = (1.0 + 3.0 + 3.0) / 3
    likings = [1 + 0.5 * (1.0 - mean), 1 + 0.5 * (3.0 - mean), 1 + 0.5 * (3.0 - mean)]
    recency = [0.5, 0.5**0.5, 1.0]
    assert found[1][0] == [2, 3, 1] and found[1][1] == pytest.approx(recency)
    assert found[1][2] == pytest.approx([a * b for a, b in zip(recency, likings, strict=True)])
    assert found[2] == ([4], [1.0], [1.0])  # one value: no item is liked more than another
    assert not profiles.Config().weighted and profiles.Config(liking=1.0).weighted


def test_weighted_histories_are_the_queries(
    spark: SparkSession, world: World, tmp_path: Path
) -> None:
    config = content_knn.Config(half_life_events=1.0, neighbours=5)
    content_knn.write(world.training(spark), config, tmp_path / "index")
    own = {
        row["query_idx"]: (row["rows"], row["weights"])
        for row in pq.read_table(tmp_path / "index" / "queries").to_pylist()
    }
    assert set(own) == set(range(1, 13))
    matrix_ = weights(tmp_path / "index")
    ranked = scorer.load(tmp_path / "index", k=3, seed=1).rank(asked([[1]] * 12, own)).to_pydict()
    for user in range(1, 13):
        expected = np.array(own[user][1]) @ matrix_[own[user][0]]
        np.testing.assert_allclose(
            ranked["score"][user - 1], expected[ranked["item_idx"][user - 1]], rtol=1e-4
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"fields": {"genre": 1.0}},
            r"field 'genre': found no item with it; expected one of genres, title, year \(did "
            r"you mean 'genres'\?\)",
        ),
        (
            {"min_items": 31},
            r"found no term that tells 30 items with events apart; expected one in at least 31",
        ),
    ],
)
def test_content_that_says_nothing(
    spark: SparkSession, world: World, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        content_knn.write(world.training(spark), content_knn.Config(**config), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_no_items_table_and_impossible_weights(
    spark: SparkSession, world: World, tmp_path: Path
) -> None:
    training = Training(
        spark.createDataFrame(world.events, EVENT), num_users=12, num_items=40, seed=1
    )
    with pytest.raises(
        DataError, match="table items: found none; expected titles or fields of the items"
    ):
        content_knn.write(training, content_knn.Config(), tmp_path / "index")
    with pytest.raises(ValidationError, match="weights above 0"):
        content_knn.Config(fields={"title": 0.0})
