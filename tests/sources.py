"""Small sources of every form, and what ingest makes of them."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from recsys_spark.etl.raw import gathered, quarantine
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Outcome
from recsys_spark.stages import ingest
from tests import rawsets

EVENTS = "customer long, sku string, purchased_at timestamp, stars int, visit string, kind string"
COLUMNS = {
    "user_id": "customer",
    "item_id": "sku",
    "ts": "purchased_at",
    "value": "CASE WHEN kind = 'buy' THEN stars ELSE 1 END",
    "session_id": "visit",
    "action": "kind",
}
# Two shops' events of 2026-01-01 10:00:00 to 10:00:03 UTC, in seconds
T = 1_767_261_600
SOLD = [
    (12, "007", T, 4, "v1", "buy"),
    (12, "08", T + 1, 5, "v1", "view"),
    (2**62 + 1, "007", T + 2, 3, "v2", "buy"),
    (13, "9", T + 3, 2, None, "buy"),
]
TAKEN = [
    ("12", "007", T, 4.0),
    ("12", "08", T + 1, 1.0),
    ("13", "9", T + 3, 2.0),
    (str(2**62 + 1), "007", T + 2, 3.0),
]


def sold(spark: SparkSession, rows: list[tuple] | None = None) -> DataFrame:
    """Events as a shop has them: times as timestamps, customers as numbers."""
    seconds = EVENTS.replace("timestamp", "long")
    events = spark.createDataFrame(SOLD if rows is None else rows, seconds)
    return events.withColumn("purchased_at", F.timestamp_seconds("purchased_at"))


def job(interactions: dict[str, Any], **values: Any) -> ingest.Job:
    """users and items: further entries of `source`; others: settings of the step."""
    entries = {name: values.pop(name) for name in ("users", "items") if name in values}
    events = {"columns": COLUMNS} | interactions
    source = {"interactions": events} | entries
    return ingest.Job.model_validate(
        {"stage": "ingest", "dataset": "shop", "source": source} | values
    )


def run(
    lake: Lake, interactions: dict[str, Any], run_id: str = "ingest-1", **values: Any
) -> Outcome:
    return rawsets.run(lake, job(interactions, **values), run_id)


def rows(lake: Lake) -> list[Row]:
    return sorted(lake.read("interactions").collect())


def judge(lake: Lake, interactions: dict[str, Any], **values: Any) -> tuple[list[Row], list[tuple]]:
    """The events that `run` would publish into an empty lake, and (place, line, reason, raw) of
    what it would quarantine.
    """
    told = job(interactions, **values)
    assert told.source is not None
    checked = gathered.of_source(lake.spark, told.source, told.described()).checked({})
    rejected = quarantine.rejects(checked, run_id="", now=0.0)
    bad = (
        [(row.source_file, row.line, row.reason, row.raw) for row in rejected.collect()]
        if (rejected)
        else []
    )
    return sorted(checked[-1].good.collect()), sorted(bad, key=str)
