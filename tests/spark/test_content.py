"""Content baselines: terms by hand, neighbours against a dense computation, and items that nobody has yet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from scipy import sparse

from recsys_spark.baselines import content, content_knn, content_latent, matrix, popularity, profiles
from recsys_spark.baselines.training import Training
from recsys_spark.core.errors import DataError
from recsys_spark.scoring import scorer

Said = dict[int, tuple[str | None, dict[str, str]]]  # item: title, fields
EVENT = "user_idx int, item_idx int, ts long, value double"

GENRES = ("drama", "comedy", "war", "film noir")
WORDS = ("red", "planet", "dawn", "ape", "night", "été", "2001")


class World(NamedTuple):
    """Items 1..40 with genres, words and a year; 31..39 are cold, 40 says nothing. Users 1..12."""

    said: Said
    events: list[tuple[int, int, int, float]]

    def training(self, spark: SparkSession, partitions: int = 2) -> Training:
        items = [(item, title, fields) for item, (title, fields) in self.said.items()]
        described = spark.createDataFrame(items, "item_idx int, title string, fields map<string,string>")
        events = spark.createDataFrame(self.events, EVENT)
        return Training(events.repartition(partitions), num_users=12, num_items=40, seed=1, items=described.repartition(partitions))


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(4)
    said: Said = {}
    for item in range(1, 40):
        genres = [GENRES[place].title() for place in rng.permutation(4)[: rng.integers(1, 4)]]
        words = [WORDS[place] for place in rng.integers(0, 7, rng.integers(1, 6))]
        said[item] = " - ".join(words).upper(), {"genres": "|".join(genres), "year": str(1990 + rng.integers(5))}
    said[40] = None, {}
    events = [(user, int(item), int(rng.integers(50)), float(rng.integers(1, 6)))
              for user in range(1, 13) for item in rng.permutation(30)[:8] + 1]
    return World(said, events)


def dense(world: World, config: content.Config) -> np.ndarray:
    """Item vectors (41, terms), straight from the definitions."""
    tokens = {item: Counter([("title", word.lower()) for word in (title or "").split(" - ") if word]
                            + [(field, value.lower()) for field, text in fields.items() for value in text.split("|")])
              for item, (title, fields) in world.said.items()}
    fitted = sorted({item for _, item, _, _ in world.events})
    names = sorted({name for item in fitted for name in tokens[item] if not config.fields or name[0] in config.fields})
    made = np.zeros((41, len(names)))
    for column, name in enumerate(names):
        n, of_field = sum(name in tokens[item] for item in fitted), name[0]
        if n < config.min_items:
            continue
        lengths = {item: sum(times for (field, _), times in tokens[item].items() if field == of_field) for item in tokens}
        mean = np.mean([lengths[item] for item in fitted if lengths[item]])
        for item in tokens:
            times = tokens[item][name]
            if not times:
                continue
            if config.weighting == "tfidf":
                weight = (1 + math.log(times)) * math.log(len(fitted) / n)
            else:
                idf = math.log(1 + (len(fitted) - n + 0.5) / (n + 0.5))
                weight = idf * times * (config.k1 + 1) / (times + config.k1 * (1 - config.b + config.b * lengths[item] / mean))
            made[item, column] = config.fields.get(of_field, 1.0) * weight
    return made


def likeness(world: World, config: content_knn.Config) -> np.ndarray:
    """(41, 41): row history item, column scored item; each column's nearest fitted items."""
    vectors = dense(world, config)
    norms = np.linalg.norm(vectors, axis=1)
    similar = (vectors @ vectors.T / np.maximum(np.outer(norms, norms) + config.shrink, 1e-12)) ** config.exponent
    fitted = np.zeros(41, dtype=bool)
    fitted[[item for _, item, _, _ in world.events]] = True
    similar[~fitted] = 0.0
    np.fill_diagonal(similar, 0.0)
    for column in range(41):
        order = sorted(range(41), key=lambda row: (-round(similar[row, column], 6), row))
        similar[order[config.neighbours :], column] = 0.0
    return similar


def weights(folder: Path) -> np.ndarray:
    data, indices, indptr = (np.load(folder / f"{name}.npy") for name in ("data", "indices", "indptr"))
    return sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1,) * 2).toarray()


def asked(histories: list[list[int]], own: dict[int, tuple[list[int], list[float]]] | None = None) -> pa.RecordBatch:
    """Queries 1, 2, ...; `own`: the pairs that some of them bring."""
    users = range(1, len(histories) + 1)
    columns = {"user_idx": pa.array(users, pa.int32()), "history": pa.array(histories, pa.list_(pa.int32()))}
    if own is not None:
        columns["rows"] = pa.array([own[user][0] if user in own else None for user in users], pa.list_(pa.int32()))
        columns["weights"] = pa.array([own[user][1] if user in own else None for user in users], pa.list_(pa.float32()))
    return pa.RecordBatch.from_pydict(columns)


def test_terms_and_their_weights_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    said = [(1, "Red, RED Dawn!", {"genres": "Drama | War", "title": "not this"}), (2, "Dawn of Été", {"genres": "War"}),
            (3, None, {"genres": "drama||"}), (4, "red été", {"genres": "War"}), (5, "", {})]
    items = spark.createDataFrame(said, "item_idx int, title string, fields map<string,string>")
    events = spark.createDataFrame([(1, 1, 0, 1.0), (1, 2, 0, 1.0), (2, 3, 0, 1.0), (2, 5, 0, 1.0)], EVENT)  # 4 is cold, 5 says nothing
    config = content.Config(min_items=1, fields={"title": 2.0, "genres": 1.0})
    found = content.read(Training(events, 2, 5, 1, items=items), config, tmp_path)
    plain = matrix.mapped(found.items)
    vectors = sparse.csr_array((plain.data, plain.indices, plain.indptr), shape=(6, 7)).toarray()
    one, two = math.log(3 / 1), math.log(3 / 2)  # in one or two of the three fitted items that say anything
    # (none), drama, war | dawn, of, red, été
    expected = np.array([[0, 0, 0, 0, 0, 0, 0], [0, two, two, 2 * two, 0, 2 * (1 + math.log(2)) * one, 0],
                         [0, 0, two, 2 * two, 2 * one, 0, 2 * one], [0, two, 0, 0, 0, 0, 0], [0, 0, two, 0, 0, 2 * one, 2 * one],
                         [0, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert found.facts() == {"terms": 6, "items_without_content": 1, "cold_items": 1}
    turned = matrix.mapped(found.terms)
    fitted = sparse.csr_array((turned.data, turned.indices, turned.indptr), shape=(7, 6)).toarray().T
    np.testing.assert_allclose(fitted, np.where([[True], [True], [True], [True], [False], [True]], vectors, 0.0))
    np.testing.assert_allclose(found.norms, (expected**2).sum(axis=1), rtol=1e-6)


CONFIGS = (content_knn.Config(neighbours=4, shrink=1.5, exponent=1.5),
           content_knn.Config(neighbours=30, weighting="bm25", min_items=4, fields={"genres": 1.0, "title": 0.4}))


@pytest.fixture(scope="module", params=CONFIGS, ids=["tfidf", "bm25"])
def made(request: pytest.FixtureRequest, spark: SparkSession, world: World,
         tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[content_knn.Config, Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("content") / "index"
    yield request.param, folder, content_knn.write(world.training(spark), request.param, folder)


def test_the_nearest_agree_with_a_dense_computation(made: tuple[content_knn.Config, Path, dict[str, Any]], world: World) -> None:
    config, folder, facts = made
    expected = likeness(world, config)
    np.testing.assert_allclose(weights(folder), expected, rtol=0, atol=2e-5)
    assert facts["entries"] == (expected > 0).sum() and facts["items_without_content"] == 1 and facts["cold_items"] == 10
    histories = [[1, 2, 3], [40], [], [5, 40]]
    ranked = scorer.load(folder, k=5, seed=1).rank(asked(histories)).to_pydict()
    assert ranked["cold"] == [False, True, True, False]  # nothing is said of item 40
    for history, items, scores in zip(histories, ranked["item_idx"], ranked["score"], strict=True):
        wanted = expected[history].sum(axis=0) if expected[history].any() else np.bincount([e[1] for e in world.events], minlength=41)
        np.testing.assert_allclose(scores, wanted[items], atol=1e-4)
        assert min(scores) >= np.sort(np.delete(wanted, [0, *history]))[-5] - 1e-4


def test_the_order_of_the_rows_changes_nothing(made: tuple[content_knn.Config, Path, dict[str, Any]], spark: SparkSession, world: World,
                                               tmp_path: Path) -> None:
    config, folder, _ = made
    content_knn.write(world.training(spark, partitions=5), config, tmp_path / "index")
    for name in ("data", "indices", "indptr"):
        assert (folder / f"{name}.npy").read_bytes() == (tmp_path / "index" / f"{name}.npy").read_bytes()


@pytest.fixture(scope="module")
def planted() -> World:
    """Four genres of ten items; 31..39 and 40 are cold. Each user has all but one of a genre's warm items."""
    said: Said = {item: (f"film {item}", {"genres": GENRES[item % 4]}) for item in range(1, 41)}
    events = [(user, item, item, 1.0) for user in range(1, 13) for item in range(1, 31) if item % 4 == user % 4 and item // 4 != user // 4]
    return World(said, events)


def test_items_that_nobody_has_are_found_by_what_is_said_of_them(spark: SparkSession, planted: World, tmp_path: Path) -> None:
    training = planted.training(spark)
    content_knn.write(training, content_knn.Config(), tmp_path / "content")
    popularity.write(training, popularity.Config(), tmp_path / "popularity")
    histories = [[item for user, item, _, _ in planted.events if user == number] for number in range(1, 13)]
    batch = asked(histories)
    found = {}
    for name in ("content", "popularity"):
        ranked = scorer.load(tmp_path / name, k=5, seed=1).rank(batch).to_pydict()["item_idx"]
        found[name] = [sum(item > 30 and item % 4 == user % 4 for item in items) for user, items in enumerate(ranked, 1)]
    cold = [sum(item % 4 == user % 4 for item in range(31, 41)) for user in range(1, 13)]  # 2 or 3 of the 10 cold items
    assert found["content"] == cold and found["popularity"] == [0] * 12


def test_what_is_said_of_a_cold_item_changes_no_other(spark: SparkSession, world: World, made: Any, tmp_path: Path) -> None:
    config, folder, _ = made
    told = World(world.said | {35: ("RED - NIGHT - UNHEARD", {"genres": "Drama|Unheard", "year": "1899"})}, world.events)
    content_knn.write(told.training(spark), config, tmp_path / "index")
    before, after = weights(folder), weights(tmp_path / "index")
    assert (before[:, 35] != after[:, 35]).any()
    before[:, 35] = after[:, 35] = 0.0
    np.testing.assert_array_equal(before, after)


def test_profiles_by_hand(spark: SparkSession) -> None:
    events = [(1, 1, 0, 5.0), (1, 2, 10, 1.0), (1, 3, 20, 3.0), (1, 1, 30, 3.0), (2, 4, 7, 2.0)]  # item 1 twice: the latest counts
    rows = profiles.build(spark.createDataFrame(events, EVENT), profiles.Config(half_life_events=2.0, liking=0.5)).collect()
    found = {row.user_idx: (row.rows, row.recency, row.weights) for row in rows}
    mean = (1.0 + 3.0 + 3.0) / 3
    likings = [1 + 0.5 * (1.0 - mean), 1 + 0.5 * (3.0 - mean), 1 + 0.5 * (3.0 - mean)]
    recency = [0.5, 0.5**0.5, 1.0]
    assert found[1][0] == [2, 3, 1] and found[1][1] == pytest.approx(recency)
    assert found[1][2] == pytest.approx([a * b for a, b in zip(recency, likings, strict=True)])
    assert found[2] == ([4], [1.0], [1.0])  # one value: no item is liked more than another
    assert not profiles.Config().weighted and profiles.Config(liking=1.0).weighted


def test_weighted_histories_are_the_queries(spark: SparkSession, world: World, tmp_path: Path) -> None:
    config = content_knn.Config(half_life_events=1.0, neighbours=5)
    content_knn.write(world.training(spark), config, tmp_path / "index")
    own = {row["user_idx"]: (row["rows"], row["weights"]) for row in pq.read_table(tmp_path / "index" / "queries").to_pylist()}
    assert set(own) == set(range(1, 13))
    matrix_ = weights(tmp_path / "index")
    ranked = scorer.load(tmp_path / "index", k=3, seed=1).rank(asked([[1]] * 12, own)).to_pydict()
    for user in range(1, 13):
        expected = np.array(own[user][1]) @ matrix_[own[user][0]]
        np.testing.assert_allclose(ranked["score"][user - 1], expected[ranked["item_idx"][user - 1]], rtol=1e-4)


@pytest.mark.parametrize(("config", "message"), [
    ({"fields": {"genre": 1.0}}, r"field 'genre': found no item with it; expected one of genres, title, year \(did you mean 'genres'\?\)"),
    ({"min_items": 31}, r"found no term that tells 30 items with events apart; expected one in at least 31"),
])
def test_content_that_says_nothing(spark: SparkSession, world: World, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        content_knn.write(world.training(spark), content_knn.Config(**config), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_no_items_table_and_impossible_weights(spark: SparkSession, world: World, tmp_path: Path) -> None:
    training = Training(spark.createDataFrame(world.events, EVENT), num_users=12, num_items=40, seed=1)
    with pytest.raises(DataError, match="table items: found none; expected titles or fields of the items"):
        content_knn.write(training, content_knn.Config(), tmp_path / "index")
    with pytest.raises(ValidationError, match="weights above 0"):
        content_knn.Config(fields={"title": 0.0})


@pytest.fixture(scope="module")
def latent(spark: SparkSession, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent") / "index"
    content_latent.write(world.training(spark), LATENT, folder)
    return folder


LATENT = content_latent.Config(dim=5, reg=2.0, unobserved=0.5)


def condensed(world: World) -> np.ndarray:
    """(41, 5) by a dense singular value decomposition; the directions may have other signs."""
    vectors = dense(world, LATENT)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    fitted = sorted({item for _, item, _, _ in world.events})
    made = vectors @ np.linalg.svd(vectors[fitted])[2][:5].T
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


def test_vectors_agree_with_a_dense_decomposition(latent: Path, world: World) -> None:
    found, expected = np.load(latent / "items.npy"), condensed(world)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)  # whatever the signs, 31..39 are folded in
    assert not found[0].any() and not found[40].any()
    fitted = sorted({item for _, item, _, _ in world.events})
    common = 0.5 * expected[fitted].T @ expected[fitted] + 2.0 * np.eye(5)
    for row in pq.read_table(latent / "queries").to_pylist():
        own = expected[[item for user, item, _, _ in world.events if user == row["user_idx"]]]
        scores = np.linalg.solve(common + own.T @ own, own.sum(axis=0)) @ expected.T
        np.testing.assert_allclose(np.array(row["vector"]) @ found.T, scores, atol=1e-5)


def test_a_new_user_is_folded_in_as_one_who_was_there(latent: Path, world: World) -> None:
    histories = [[item for user, item, _, _ in world.events if user == number] for number in range(1, 13)]
    own = {row["user_idx"]: row["vector"] for row in pq.read_table(latent / "queries").to_pylist()}
    vectors = pa.array([own[user] for user in range(1, 13)], pa.list_(pa.float32()))
    found = scorer.load(latent, k=4, seed=1)
    known = found.rank(asked(histories).append_column("vector", vectors))
    new = found.rank(asked(histories).append_column("vector", pa.nulls(12, pa.list_(pa.float32()))))
    np.testing.assert_allclose(known.column("score").flatten().to_numpy(), new.column("score").flatten().to_numpy(), atol=1e-5)
    assert known.column("item_idx") == new.column("item_idx") and not any(new.column("cold").to_pylist())
    nothing = found.rank(asked([[40]]).append_column("vector", pa.nulls(1, pa.list_(pa.float32()))))
    assert nothing.column("cold").to_pylist() == [True]


def test_the_same_vectors_however_the_rows_lie(latent: Path, spark: SparkSession, world: World, tmp_path: Path) -> None:
    content_latent.write(world.training(spark, partitions=5), LATENT, tmp_path / "index")
    assert (latent / "items.npy").read_bytes() == (tmp_path / "index" / "items.npy").read_bytes()
    one, two = (pq.read_table(folder / "queries").sort_by("user_idx") for folder in (latent, tmp_path / "index"))
    assert one.equals(two)


def test_a_profile_by_hand() -> None:
    """Items at right angles: each coordinate is weight / (gram + recency + ridge)."""
    own, recency, liked = np.eye(2, dtype=np.float32), np.array([0.5, 1.0], np.float32), np.array([0.5, 3.0], np.float32)
    gram = np.diag([3.0, 1.0])
    config = content_latent.Config(unobserved=1.0, reg=2.0)
    assert content_latent.profile(own, recency, liked, gram, config).tolist() == pytest.approx([0.5 / 5.5, 3.0 / 4.0])
    mean = content_latent.profile(own, recency, liked, gram, content_latent.Config(reg=1e9))
    assert mean / mean[1] == pytest.approx([0.5 / 3.0, 1.0], rel=1e-6)  # a large ridge leaves the sum of the weighted vectors


def test_content_that_cannot_be_condensed(spark: SparkSession, world: World, tmp_path: Path) -> None:
    one = World({item: (None, {"kind": "film"} if item % 2 else {"kind": ""}) for item in range(1, 41)}, world.events)
    with pytest.raises(DataError, match="no term that tells"):
        content_latent.write(one.training(spark), LATENT, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
