"""Steps by hand: a context for a stage's `run` without a pipeline, and interactions to feed it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Context, Env, Outcome, SparkSettings

Event = tuple[str, str, int, float]  # user, item, ts, value


class Steps:
    """Runs stages one after another in one lake; remembers their completed runs."""

    def __init__(self, spark: SparkSession, root: Path, seed: int = 1) -> None:
        self.spark, self.root, self.seed = spark, root, seed
        self.lake = Lake(spark, str(root / "lake"))
        self.done: dict[str, Run] = {}

    def ingest(self, events: list[Event]) -> None:
        """As the ingest stage would leave it: the new events are added to `interactions`."""
        rows = self.spark.createDataFrame(
            events, "user_id string, item_id string, ts long, value double"
        )
        for field in SCHEMAS[c.INTERACTIONS]:
            if field.name not in rows.columns:
                rows = rows.withColumn(field.name, F.lit(None).cast(field.dataType))
        self.lake.create(c.INTERACTIONS)
        rows.select(*SCHEMAS[c.INTERACTIONS].fieldNames()).write.format("delta").mode(
            "append"
        ).save(self.lake.where(c.INTERACTIONS))
        self._record(
            "ingest",
            "ingest",
            Outcome(tables={c.INTERACTIONS: self.lake.version(c.INTERACTIONS)}),
            {},
        )

    def context(self, step: str) -> Context:
        folder = self.root / "runs" / step
        folder.mkdir(parents=True, exist_ok=True)
        env = Env(lake=self.lake.root, runs=str(self.root / "runs"), spark=SparkSettings())
        return Context(
            spark=self.spark,
            lake=self.lake,
            env=env,
            pipeline="test",
            step=step,
            run_id=f"{step}-1",
            run_dir=folder,
            inputs=self.done,
            seed=self.seed,
            now=0.0,
        )

    def run(self, step: str, stage: Any, **job: Any) -> Run:
        ctx = self.context(step)
        return self._record(
            step,
            stage.__name__.rsplit(".", 1)[-1],
            stage.run(ctx, stage.Job(**job)),
            ctx.read_versions,
        )

    def _record(self, step: str, stage: str, outcome: Outcome, read: dict[str, int]) -> Run:
        self.done[step] = Run(
            run_id=f"{step}-1",
            pipeline="test",
            step=step,
            stage=stage,
            key=step,
            config={},
            upstream={},
            input_versions=read,
            output_versions=outcome.tables,
            shard_fingerprint=outcome.shard_fingerprint,
            run_dir=str(self.root / "runs" / step),
            code_version="",
            seed=self.seed,
            started_at=0.0,
            ended_at=0.0,
            summary=outcome.summary,
        )
        return self.done[step]


SPLIT_EVENT = (
    "split string, run_id string, query_idx int, item_idx int, query_id string, item_id string, "
    "ts long, value double, part string"
)


def of_split(events: DataFrame) -> DataFrame:
    """Events of users with the columns of a split that they lack: ids made from the numbers, null
    otherwise.
    """
    known = {
        c.QUERY_ID: F.col(c.QUERY_IDX),
        c.ITEM_ID: F.col(c.ITEM_IDX),
        c.USER_ID: F.col(c.QUERY_ID),
        c.QUERY_KIND: F.lit(c.USER),
    }
    for field in sorted(SCHEMAS[c.SPLITS], key=lambda field: field.name):
        if field.name not in events.columns:
            value = known.get(field.name, F.lit(None)).cast(field.dataType)
            events = events.withColumn(field.name, value)
    return events


def crowd(users: int = 30, items: int = 25, most: int = 14, seed: int = 5) -> list[Event]:
    """User n has 1 + n % most events with different items, at times with many ties; values 1..5."""
    draw = random.Random(seed)
    return [
        (f"u{user}", f"i{item}", draw.randrange(40), float(draw.randint(1, 5)))
        for user in range(users)
        for item in draw.sample(range(items), 1 + user % most)
    ]
