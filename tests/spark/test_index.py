"""Dense numbers: they never move, new ones follow a fixed order, partitions change nothing."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core.errors import DataError
from recsys_spark.etl import index


def frame(spark: SparkSession, ids: list[str | None]) -> DataFrame:
    return spark.createDataFrame([(one,) for one in ids], "user_id string")


def extended(known: DataFrame, ids: DataFrame, taken: int) -> tuple[DataFrame, int]:
    new = index.lacking(known, ids, "user_id")
    return index.number(new, "user_id", "user_idx", taken)


def numbers(rows: DataFrame) -> dict[str, int]:
    return {row["user_id"]: row["user_idx"] for row in rows.collect()}


@pytest.mark.parametrize("bucket", [index.BUCKET, 40, 1])  # in 1, 8 and 512 buckets
def test_new_ids_follow_on_in_the_stated_order_and_known_ones_keep_theirs(
    spark: SparkSession, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BUCKET", bucket)
    known = spark.createDataFrame([("zoe", 1), ("ann", 2)], "user_id string, user_idx int")
    ids = frame(spark, [f"u{i}" for i in range(300)] * 2 + ["ann", None])
    hashes = {
        row["user_id"]: row["hash"]
        for row in ids.dropna().select("user_id", F.xxhash64("user_id").alias("hash")).collect()
    }
    # Written out again in Python: as unsigned, then by id.
    expected = sorted(
        (one for one in hashes if one != "ann"),
        key=lambda one: (hashes[one] % 2**64 >> 54, hashes[one], one),
    )
    rows, count = extended(known, ids, 2)
    assert numbers(rows) == {one: number for number, one in enumerate(expected, start=3)}
    assert count == 300
    shuffled, _ = extended(known, ids.repartition(7).orderBy(F.desc("user_id")), 2)
    assert numbers(shuffled) == numbers(rows)


def test_nothing_new_gives_no_row(spark: SparkSession) -> None:
    known = spark.createDataFrame([("a", 1)], "user_id string, user_idx int")
    rows, count = extended(known, frame(spark, ["a", "a"]), 1)
    assert (rows.count(), count) == (0, 0)


def test_numbers_beyond_int32_are_refused(spark: SparkSession) -> None:
    known = spark.createDataFrame([("a", index.LAST)], "user_id string, user_idx int")
    with pytest.raises(
        DataError,
        match=r"column user_id: found 2147483648 different ids; expected at most 2147483647",
    ):
        extended(known, frame(spark, ["b"]), index.LAST)
