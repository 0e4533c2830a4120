"""The kinds of popularity: by hand, through the scorer, whatever the order of the rows, and never
from held-out events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import popularity
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.popularity import DAY_S, Config
from recsys_spark.core.errors import DataError
from recsys_spark.lake.tables import Lake
from recsys_spark.scoring import scorer
from recsys_spark.stages import train_baseline
from tests.spark.prepared import SPLIT_EVENT, of_split
from tests.spark.scored_world import RULE, World, run_of

# user, item, days. Item 4 has no event; user 5 none either. Item 1 is the most common, item 3 the
# latest.
EVENTS = [
    (1, 1, 0.0),
    (2, 1, 1.0),
    (3, 1, 2.0),
    (1, 2, 8.0),
    (2, 2, 10.0),
    (4, 3, 9.0),
    (4, 3, 10.0),
    (3, 3, 10.0),
]
GENDERS = {1: "F", 2: "F", 3: "M", 4: "M", 5: "F", 6: "X", 7: " "}


def training(spark: SparkSession, users: DataFrame | None = None, partitions: int = 0) -> Training:
    rows = [(user, item, int(days * DAY_S), 1.0) for user, item, days in EVENTS]
    events = spark.createDataFrame(rows, "query_idx int, item_idx int, ts long, value double")
    return Training(
        events.repartition(partitions, "ts") if partitions else events,
        num_users=7,
        num_items=4,
        seed=1,
        users=users,
    )


@pytest.fixture(scope="module")
def users(spark: SparkSession) -> DataFrame:
    rows = [(user, {"gender": gender}) for user, gender in GENDERS.items()]
    return spark.createDataFrame(rows, "query_idx int, fields map<string,string>")


def scores(folder: Path) -> np.ndarray:
    return np.load(folder / "items.npy")


@pytest.mark.parametrize(
    ("config", "expected", "facts"),
    [
        ({"kind": "all_time"}, [0, 3, 2, 3, 0], {"events": 8, "cold_items": 1}),
        # 2^-10 + 2^-9 + 2^-8; 2^-2 + 1; 2^-1 + 1 + 1
        (
            {"kind": "decayed", "half_life_days": 1.0},
            [0, 7 / 1024, 1.25, 2.5, 0],
            {"events": 8, "cold_items": 1, "events_used": 8},
        ),
        # an event as old as the window is outside it
        (
            {"kind": "last_days", "days": 2.0},
            [0, 0, 1, 3, 0],
            {"events": 8, "cold_items": 2, "events_used": 4},
        ),
        # users with an event: 4; items 1 (3 users) and 2, 3 (2 users each)
        ({"novelty_cap": 0.6}, [0, -1, 2, 3, 0], {"events": 8, "cold_items": 1, "capped_items": 1}),
        (
            {"kind": "decayed", "half_life_days": 1.0, "novelty_cap": 0.6},
            [0, -1, 1.25, 2.5, 0],
            {"events": 8, "cold_items": 1, "capped_items": 1, "events_used": 8},
        ),
    ],
)
def test_one_list_for_all_by_hand(
    spark: SparkSession,
    tmp_path: Path,
    config: dict[str, Any],
    expected: list[float],
    facts: dict[str, int],
) -> None:
    assert popularity.write(training(spark), Config(**config), tmp_path / "index") == facts
    assert scores(tmp_path / "index")[:, 0].tolist() == expected
    assert np.load(tmp_path / "index" / "fallback.npy").tolist() == expected


def test_decay_agrees_with_numpy(spark: SparkSession, tmp_path: Path) -> None:
    popularity.write(
        training(spark), Config(kind="decayed", half_life_days=2.7), tmp_path / "index"
    )
    expected = np.zeros(5)
    np.add.at(
        expected,
        [item for _, item, _ in EVENTS],
        [2.0 ** (-(10.0 - days) / 2.7) for _, _, days in EVENTS],
    )
    np.testing.assert_allclose(scores(tmp_path / "index")[:, 0], expected, rtol=1e-6)


def test_a_user_is_ranked_by_their_segment(
    spark: SparkSession, users: DataFrame, tmp_path: Path
) -> None:
    facts = popularity.write(
        training(spark, users),
        Config(kind="by_segment", segment="gender", min_users=2),
        tmp_path / "index",
    )
    assert facts == {"events": 8, "cold_items": 1, "segments": 2, "users_in_segments": 5}
    # All; F: users 1 and 2; M: users 3 and 4. X has too few users, a blank is no segment.
    assert scores(tmp_path / "index").tolist() == [
        [0, 0, 0],
        [3, 2, 1],
        [2, 2, 0],
        [3, 0, 3],
        [0, 0, 0],
    ]
    vectors = {
        row["query_idx"]: row["vector"]
        for row in pq.read_table(tmp_path / "index" / "queries").to_pylist()
    }
    columns = {user: vector.index(1.0) for user, vector in vectors.items()}
    assert columns == {1: 1, 2: 1, 5: 1, 3: 2, 4: 2, 6: 0, 7: 0} and all(
        sum(vector) == 1 for vector in vectors.values()
    )
    asked = [5, 4, 6, 99]  # the last is unknown: the scores of all, and said to be cold
    batch = pa.RecordBatch.from_pydict(
        {
            "query_idx": pa.array(asked, pa.int32()),
            "history": pa.array([[1], [], [3], [1]], pa.list_(pa.int32())),
            "vector": pa.array([vectors.get(user) for user in asked], pa.list_(pa.float32())),
        }
    )
    ranked = scorer.load(tmp_path / "index", k=1, seed=1).rank(batch).to_pydict()
    assert ranked["item_idx"] == [[2], [3], [1], [3]] and ranked["cold"] == [
        False,
        False,
        False,
        True,
    ]


def test_segments_lean_on_all_and_are_limited(
    spark: SparkSession, users: DataFrame, tmp_path: Path
) -> None:
    config = Config(kind="by_segment", segment="gender", min_users=1, max_segments=1, prior=4.0)
    assert popularity.write(training(spark, users), config, tmp_path / "index")["segments"] == 1
    # F and M have two users each: the first by name stays. 4 events more, dealt 3 : 2 : 3 over
    # items 1, 2, 3.
    assert scores(tmp_path / "index").tolist() == [[0, 0], [3, 3.5], [2, 3], [3, 1.5], [0, 0]]


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "decayed", "half_life_days": 3.3},
        {"kind": "by_segment", "segment": "gender", "min_users": 2},
    ],
)
def test_the_order_of_the_rows_changes_nothing(
    spark: SparkSession, users: DataFrame, tmp_path: Path, config: dict[str, Any]
) -> None:
    popularity.write(training(spark, users), Config(**config), tmp_path / "one")
    popularity.write(
        training(spark, users.repartition(3, "query_idx"), partitions=5),
        Config(**config),
        tmp_path / "two",
    )
    assert (tmp_path / "one" / "items.npy").read_bytes() == (
        tmp_path / "two" / "items.npy"
    ).read_bytes()


def test_held_out_events_change_nothing(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    """Moving the validation and test events a year ahead, and to other items, leaves the index as
    it was.
    """
    world = World(spark, lake, tmp_path)
    made = []
    for shift in (0, 1):
        rows = [
            ("s", "prepare-1", user, item, f"u{user}", f"i{item}", int(days * DAY_S), 1.0, "train")
            for user, item, days in EVENTS
        ]
        rows += [
            (
                "s",
                "prepare-1",
                user,
                1 + shift,
                f"u{user}",
                "i",
                (11 + 365 * shift) * DAY_S,
                1.0,
                part,
            )
            for user, part in ((1, "valid"), (2, "test"), (3, "test"))
        ]
        version = lake.replace(
            "splits", of_split(spark.createDataFrame(rows, SPLIT_EVENT)), {"split": "s"}
        )
        world.inputs["prepare"] = run_of(
            "prepare",
            "prepare",
            {"splits": version},
            summary={"split": "s", "num_users": 7, "num_items": 4, **RULE},
        )
        job = train_baseline.Job(
            source="prepare",
            model="popularity",
            fit="train",
            config={"kind": "decayed", "half_life_days": 1.0},
        )
        train_baseline.run(world.context("popularity"), job)
        made.append(scores(tmp_path / "index")[:, 0].tolist())
    assert made[0] == made[1] == [0, 7 / 1024, 1.25, 2.5, 0]


def test_a_segment_that_cannot_be(spark: SparkSession, users: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="by_segment needs `segment`"):
        Config(kind="by_segment")
    missing = (
        r"by segment 'genre': found no such field of the users; expected one of gender \(did you "
        r"mean 'gender'"
    )
    with pytest.raises(DataError, match=missing):
        popularity.write(
            training(spark, users), Config(kind="by_segment", segment="genre"), tmp_path / "index"
        )
    with pytest.raises(DataError, match="expected users with fields"):
        popularity.write(
            training(spark), Config(kind="by_segment", segment="gender"), tmp_path / "index"
        )
    assert not (tmp_path / "index").exists()
