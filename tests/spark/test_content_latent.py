"""Content condensed: against a dense decomposition, folding in, and profiles by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark.baselines import content_latent
from recsys_spark.core.errors import DataError
from recsys_spark.scoring import scorer
from tests.spark.described import World, asked, dense, described

LATENT = content_latent.Config(dim=5, reg=2.0, unobserved=0.5)


@pytest.fixture(scope="module")
def world() -> World:
    return described()


@pytest.fixture(scope="module")
def latent(spark: SparkSession, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent") / "index"
    content_latent.write(world.training(spark), LATENT, folder)
    return folder


def condensed(world: World) -> np.ndarray:
    """(41, 5) by a dense singular value decomposition; the directions may have other signs."""
    vectors = dense(world, LATENT)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    fitted = sorted({item for _, item, _, _ in world.events})
    made = vectors @ np.linalg.svd(vectors[fitted])[2][:5].T
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


def test_vectors_agree_with_a_dense_decomposition(latent: Path, world: World) -> None:
    found, expected = np.load(latent / "items.npy"), condensed(world)
    # Whatever the signs, 31..39 are folded in
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    assert not found[0].any() and not found[40].any()
    fitted = sorted({item for _, item, _, _ in world.events})
    common = 0.5 * expected[fitted].T @ expected[fitted] + 2.0 * np.eye(5)
    for row in pq.read_table(latent / "queries").to_pylist():
        own = expected[[item for user, item, _, _ in world.events if user == row["query_idx"]]]
        scores = np.linalg.solve(common + own.T @ own, own.sum(axis=0)) @ expected.T
        np.testing.assert_allclose(np.array(row["vector"]) @ found.T, scores, atol=1e-5)


def test_a_new_user_is_folded_in_as_one_who_was_there(latent: Path, world: World) -> None:
    histories = [
        [item for user, item, _, _ in world.events if user == number] for number in range(1, 13)
    ]
    own = {row["query_idx"]: row["vector"] for row in pq.read_table(latent / "queries").to_pylist()}
    vectors = pa.array([own[user] for user in range(1, 13)], pa.list_(pa.float32()))
    found = scorer.load(latent, k=4, seed=1)
    known = found.rank(asked(histories).append_column("vector", vectors))
    new = found.rank(asked(histories).append_column("vector", pa.nulls(12, pa.list_(pa.float32()))))
    np.testing.assert_allclose(
        known.column("score").flatten().to_numpy(),
        new.column("score").flatten().to_numpy(),
        atol=1e-5,
    )
    assert known.column("item_idx") == new.column("item_idx") and not any(
        new.column("cold").to_pylist()
    )
    nothing = found.rank(asked([[40]]).append_column("vector", pa.nulls(1, pa.list_(pa.float32()))))
    assert nothing.column("cold").to_pylist() == [True]


def test_the_same_vectors_however_the_rows_lie(
    latent: Path, spark: SparkSession, world: World, tmp_path: Path
) -> None:
    content_latent.write(world.training(spark, partitions=5), LATENT, tmp_path / "index")
    assert (latent / "items.npy").read_bytes() == (tmp_path / "index" / "items.npy").read_bytes()
    one, two = (
        pq.read_table(folder / "queries").sort_by("query_idx")
        for folder in (latent, tmp_path / "index")
    )
    assert one.equals(two)


def test_a_profile_by_hand() -> None:
    """Items at right angles: each coordinate is weight / (gram + recency + ridge)."""
    own, recency, liked = (
        np.eye(2, dtype=np.float32),
        np.array([0.5, 1.0], np.float32),
        np.array([0.5, 3.0], np.float32),
    )
    gram = np.diag([3.0, 1.0])
    config = content_latent.Config(unobserved=1.0, reg=2.0)
    assert content_latent.profile(own, recency, liked, gram, config).tolist() == pytest.approx(
        [0.5 / 5.5, 3.0 / 4.0]
    )
    mean = content_latent.profile(own, recency, liked, gram, content_latent.Config(reg=1e9))
    # A large ridge leaves the sum of the weighted vectors
    assert mean / mean[1] == pytest.approx([0.5 / 3.0, 1.0], rel=1e-6)


def test_content_that_cannot_be_condensed(
    spark: SparkSession, world: World, tmp_path: Path
) -> None:
    one = World(
        {item: (None, {"kind": "film"} if item % 2 else {"kind": ""}) for item in range(1, 41)},
        world.events,
    )
    with pytest.raises(DataError, match="no term that tells"):
        content_latent.write(one.training(spark), LATENT, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
