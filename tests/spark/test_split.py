"""The split rules, by hand and by their properties."""

from __future__ import annotations

import random

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.etl import order, split
from recsys_spark.etl.filters import Filters, apply

RULES: list[split.Rule] = ["leave_last_out", "global_time", "random"]
SCHEMA = "user_id string, item_id string, ts long, value double"


def frame(spark: SparkSession, rows: list[tuple[str, str, int]]) -> DataFrame:
    return spark.createDataFrame([(*row, 3.0) for row in rows], SCHEMA)


@pytest.fixture(scope="module")
def crowd(spark: SparkSession) -> DataFrame:
    """40 users with 1 to 12 events at 30 different times, so ties abound; no (user, item, ts) twice."""
    draw = random.Random(5)
    rows = {(f"u{u}", f"i{draw.randrange(60)}", draw.randrange(30)) for u in range(40) for _ in range(1 + u % 12)}
    return frame(spark, sorted(rows)).cache()


def parts(rows: DataFrame) -> dict[tuple[str, str, int], str]:
    return {(row["user_id"], row["item_id"], row["ts"]): row["part"] for row in rows.collect()}


def test_leave_last_out_by_hand(spark: SparkSession) -> None:
    rows = [("a", "x", 10), ("a", "y", 40), ("a", "z", 20), ("a", "w", 30), ("b", "x", 1), ("b", "y", 2)]
    found = parts(split.assign(frame(spark, rows), "leave_last_out"))
    assert found == {("a", "x", 10): "train", ("a", "z", 20): "train", ("a", "w", 30): "valid", ("a", "y", 40): "test",
                     ("b", "x", 1): "train", ("b", "y", 2): "train"}  # b has too few


def test_leave_last_out_breaks_ties_by_the_written_rule(spark: SparkSession) -> None:
    rows = frame(spark, [("a", item, 7) for item in "vwxyz"])
    hashes = {row["item_id"]: row["hash"] for row in rows.select("item_id", F.xxhash64("user_id", "item_id").alias("hash")).collect()}
    test, valid, *train = sorted(hashes, key=lambda item: (hashes[item], item))
    expected = {test: "test", valid: "valid", **dict.fromkeys(train, "train")}
    assert {item: part for (_, item, _), part in parts(split.assign(rows, "leave_last_out")).items()} == expected


def test_global_time_by_hand(spark: SparkSession) -> None:
    # 10 events; 60 % and 80 % fall on the 7th and the 9th of the sorted times: 6 and 8. Ties of 6 all go to valid.
    times = [0, 1, 2, 3, 6, 6, 6, 7, 8, 9]
    found = parts(split.assign(frame(spark, [("a", f"i{n}", ts) for n, ts in enumerate(times)]), "global_time", fractions=(0.6, 0.2, 0.2)))
    assert [found["a", f"i{n}", ts] for n, ts in enumerate(times)] == ["train"] * 4 + ["valid"] * 4 + ["test"] * 2


def test_global_time_puts_no_training_event_as_late_as_a_test_event(crowd: DataFrame) -> None:
    found = parts(split.assign(crowd, "global_time"))
    latest = {part: max(ts for (_, _, ts), other in found.items() if other == part) for part in ("train", "valid")}
    first = {part: min(ts for (_, _, ts), other in found.items() if other == part) for part in ("valid", "test")}
    assert latest["train"] < first["valid"] <= latest["valid"] < first["test"]


def test_leave_last_out_trains_on_nothing_later_than_the_users_test_event(crowd: DataFrame) -> None:
    found = parts(split.assign(crowd, "leave_last_out"))
    held = {part: {user: ts for (user, _, ts), other in found.items() if other == part} for part in ("valid", "test")}
    assert len(held["test"]) == len(held["valid"]) > 20
    for (user, _, ts), part in found.items():
        if user in held["test"]:
            assert ts <= (held["valid"] if part == "train" else held["test"])[user]
        else:
            assert part == "train"


@pytest.mark.parametrize("rule", RULES)
def test_parts_are_disjoint_and_complete_on_any_partitioning(crowd: DataFrame, rule: split.Rule) -> None:
    made = split.assign(crowd, rule, seed=3)
    found = parts(made)
    assert made.count() == len(found) == crowd.count()
    assert set(found.values()) == {"train", "valid", "test"}
    again = split.assign(crowd.repartition(5, "item_id").sortWithinPartitions(F.rand(1)), rule, seed=3)
    assert parts(again) == found


def test_random_depends_on_seed_and_event_alone(spark: SparkSession, crowd: DataFrame) -> None:
    found = parts(split.assign(crowd, "random", seed=3))
    fewer = parts(split.assign(crowd.where("user_id < 'u2'"), "random", seed=3))
    assert fewer and all(found[event] == part for event, part in fewer.items())
    assert parts(split.assign(crowd, "random", seed=4)) != found
    many = frame(spark, []).unionByName(spark.range(20_000).selectExpr(
        "cast(id as string) user_id", "'i' item_id", "id ts", "1D value"))
    counted = split.assign(many, "random", fractions=(0.9, 0.0, 0.1), seed=1).groupBy("part").count()
    counts = {row["part"]: row["count"] for row in counted.collect()}
    assert set(counts) == {"train", "test"} and abs(counts["test"] - 2000) < 5 * (20_000 * 0.09) ** 0.5


def test_ranks_are_those_of_the_sorted_column(spark: SparkSession) -> None:
    draw = random.Random(2)
    numbers = sorted([draw.randrange(-50, 50) for _ in range(500)] + [draw.randrange(10**6) for _ in range(500)])
    found = order.ranks(spark.createDataFrame([(n,) for n in numbers], "n long"), F.col("n"))
    wanted = [0, 1, 250, 499, 500, 750, 998, 999]
    assert found.count == 1000 and found.at(wanted) == [numbers[rank] for rank in wanted]
    slots = spark.range(12).select(order.slot(F.col("id"), [2, 5, 5, 9]).alias("slot")).collect()
    assert [row["slot"] for row in slots] == [0, 0, 1, 1, 1, 3, 3, 3, 3, 4, 4, 4]


def test_filters_run_value_then_items_then_users_and_count_what_they_drop(spark: SparkSession) -> None:
    rows = [("a", "x", 1.0), ("a", "y", 5.0), ("a", "z", 5.0), ("b", "y", 5.0), ("b", "z", 5.0), ("c", "y", 4.0), ("c", "w", 4.0)]
    events = spark.createDataFrame([(user, item, 1, value) for user, item, value in rows], SCHEMA)
    kept, dropped = apply(events, Filters(min_value=4.0, min_item_events=2, min_user_events=2))
    assert dropped == {"min_value": 1, "min_item_events": 1, "min_user_events": 1}  # (a,x) by value, (c,w) its item, (c,y) then its user
    assert sorted((row["user_id"], row["item_id"]) for row in kept.collect()) == [("a", "y"), ("a", "z"), ("b", "y"), ("b", "z")]
    assert apply(events, Filters()) == (events, {})
