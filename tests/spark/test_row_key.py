"""Keys of predicted events: one an event, the same from both sides."""

from __future__ import annotations

from pyspark.sql import SparkSession

from recsys_spark.etl import row_key


def test_ids_with_bars_have_keys_of_their_own(spark: SparkSession) -> None:
    events = [("a|b", "c", 1), ("a", "b|c", 1), ("a\\", "b|c", 1), ("a\\|b", "c", 1), ("u", "i", 7)]
    rows = spark.createDataFrame(events, "query_id string, item_id string, ts long")
    keys = [row.key for row in rows.select(row_key.column().alias("key")).collect()]
    assert len(set(keys)) == len(events) and keys[-1] == "u|i|7"
    assert row_key.array(rows.toArrow()).to_pylist() == keys
