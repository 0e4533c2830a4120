"""The generator: exact sizes, the same for a seed, and structure that a model can find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.files import folder as folders
from recsys_spark.datasets.files.spec import find
from recsys_spark.datasets.generators import planted, synthetic

USERS, ITEMS, RATINGS = 600, 900, 45_000


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    synthetic.generate(spark, folder, users=USERS, items=ITEMS, ratings=RATINGS, seed=5)
    return folder


@pytest.fixture(scope="module")
def ratings(made: Path) -> np.ndarray:
    """int64 (rows, 4): user, item, stars, seconds."""
    lines = (made / "ratings.dat").read_text().splitlines()
    return np.array([[int(field) for field in line.split("::")] for line in lines])


def test_the_format_and_the_sizes(made: Path, ratings: np.ndarray) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "generated.json",
        "movies.dat",
        "ratings.dat",
        "users.dat",
    ]
    dataset = find("ml-1m")
    raws = folders.files(dataset, made)
    folders.require_whole(raws)
    # Fewer where a user has rated all that a user may rate
    assert abs(len(ratings) - RATINGS) < 0.005 * RATINGS
    written = {
        "ratings.dat": len(ratings),
        "ratings-*.dat": 0,
        "users.dat": USERS,
        "movies.dat": ITEMS,
    }
    assert folders.expected_rows(dataset, made) == written
    assert len({(user, item) for user, item, *_ in ratings}) == len(ratings)
    assert set(ratings[:, 0]) == set(range(1, USERS + 1))
    assert ratings[:, 1].min() >= 1 and ratings[:, 1].max() <= ITEMS
    assert set(ratings[:, 2]) == {1, 2, 3, 4, 5}
    assert dataset.ts_min <= ratings[:, 3].min() and ratings[:, 3].max() <= dataset.ts_max
    assert np.bincount(ratings[:, 0])[1:].min() >= 20
    by_user = [ratings[ratings[:, 0] == user][:, 3] for user in range(1, USERS + 1)]
    assert all((np.diff(times) >= 0).all() for times in by_user)
    titles = (made / "movies.dat").read_text(encoding="latin-1")
    assert "Café" in titles and len(titles.splitlines()) == ITEMS
    assert {line.split("::")[1] for line in (made / "users.dat").read_text().splitlines()} == {
        "F",
        "M",
    }


def test_the_same_for_a_seed_whatever_the_partitions(spark: SparkSession, made: Path) -> None:
    def lines(seed: int, partitions: int) -> list[str]:
        people = planted.people(spark, USERS, ITEMS, RATINGS, seed).repartition(partitions)
        return sorted(row.value for row in planted.rating_lines(people, ITEMS, seed).collect())

    stored = sorted((made / "ratings.dat").read_text().splitlines())
    assert lines(5, 7) == stored
    assert lines(6, 3) != stored


def test_many_files_for_many_rows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "_ROWS_A_FILE", 600)
    synthetic.generate(spark, tmp_path / "set", users=30, items=60, ratings=700, seed=1)
    raws = [
        raw
        for raw in folders.files(find("ml-1m"), tmp_path / "set")
        if raw.file.table == "interactions"
    ]
    assert [raw.name for raw in raws] == ["ratings.dat", "ratings-0001.dat"]
    counts = [len(raw.path.read_text().splitlines()) for raw in raws]
    assert sum(counts) == 700 and min(counts) > 0
    expected = folders.expected_rows(find("ml-1m"), tmp_path / "set")
    assert [expected["ratings.dat"], expected["ratings-*.dat"]] == counts


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"users": 100, "items": 100, "ratings": 1999},
            r"ratings: found 1999; expected at least 2000 \(20 ratings a user",
        ),
        ({"users": 10, "items": 30, "ratings": 200}, "items: found 30; expected at least 40"),
        (
            {"users": 10, "items": 100, "ratings": 501},
            "found 501; expected at most half of users x items, 500",
        ),
    ],
)
def test_sizes_that_cannot_be(
    spark: SparkSession, tmp_path: Path, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic.generate(spark, tmp_path / "set", **sizes)
    assert not (tmp_path / "set").exists()


def test_a_folder_with_files_is_left_alone(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"found files in it; expected a new or empty folder"):
        synthetic.generate(spark, tmp_path, users=30, items=60, ratings=700)


def matrix(ratings: np.ndarray, values: np.ndarray | float) -> np.ndarray:
    made = np.zeros((USERS + 1, ITEMS + 1))
    made[ratings[:, 0], ratings[:, 1]] = values
    return made


def test_tastes_can_be_found_where_popularity_cannot_see_them(ratings: np.ndarray) -> None:
    """Leave the last out, full ranking, NDCG@10: an item-to-item regression (EASE) beats popularity
    by more than a half.
    """
    last = np.append(ratings[1:, 0] != ratings[:-1, 0], True)
    train, test = matrix(ratings[~last], 1.0), ratings[last]
    gram = train.T @ train + 30 * np.eye(ITEMS + 1)
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)

    def ndcg(scores: np.ndarray) -> float:
        scores = np.where(train[test[:, 0]] > 0, -np.inf, scores[test[:, 0]])
        target = scores[np.arange(len(test)), test[:, 1]]
        rank = (scores > target[:, None]).sum(1)
        return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())

    popularity = ndcg(np.tile(train.sum(0), (USERS + 1, 1)))
    assert ndcg(train @ weights) > 1.5 * popularity > 0
    counts = np.sort(train.sum(0))[::-1]
    assert counts[: ITEMS // 10].sum() > 1.6 * counts.sum() / 10  # and popularity is uneven


def test_factors_add_to_biases(ratings: np.ndarray) -> None:
    """RMSE on a random tenth: biases and four factors beat biases alone by 0.005, though the set is
    small (ML-1M: 0.06).
    """
    rng = np.random.default_rng(0)
    held = rng.random(len(ratings)) < 0.1
    train, test = ratings[~held], ratings[held]
    mean = train[:, 2].mean()
    user_bias, item_bias = np.zeros(USERS + 1), np.zeros(ITEMS + 1)
    for _ in range(10):
        for bias, other, column in ((user_bias, item_bias, 0), (item_bias, user_bias, 1)):
            rest = train[:, 2] - mean - other[train[:, 1 - column]]
            bias[:] = np.bincount(train[:, column], rest, len(bias)) / (
                np.bincount(train[:, column], minlength=len(bias)) + 5
            )
    rest = matrix(train, train[:, 2] - mean - user_bias[train[:, 0]] - item_bias[train[:, 1]])
    seen = matrix(train, 1.0)
    left, right = rng.normal(0, 0.1, (USERS + 1, 4)), rng.normal(0, 0.1, (ITEMS + 1, 4))
    for _ in range(10):
        for ours, theirs, residual, mask in (
            (left, right, rest, seen),
            (right, left, rest.T, seen.T),
        ):
            for row in range(len(ours)):
                known = theirs[mask[row] > 0]
                ours[row] = np.linalg.solve(
                    known.T @ known + 8 * np.eye(4), known.T @ residual[row][mask[row] > 0]
                )

    def rmse(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((test[:, 2] - np.clip(predicted, 1, 5)) ** 2)))

    plain = mean + user_bias[test[:, 0]] + item_bias[test[:, 1]]
    assert rmse(plain + (left[test[:, 0]] * right[test[:, 1]]).sum(1)) < rmse(plain) - 0.005
