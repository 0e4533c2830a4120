"""Old runs' rows and files go; a version that a recorded run names can be read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.commands import clean
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import TableError
from recsys_spark.lake import retention
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake


def test_clean_removes_old_rows_and_keeps_what_is_named(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    def lists(run_id: str) -> DataFrame:
        row = {c.QUERY_ID: "u", c.QUERY_KIND: "user", c.RANK: 1, c.RUN_ID: run_id}
        names = SCHEMAS[c.RECOMMENDATIONS].fieldNames()
        return spark.createDataFrame(
            [tuple(row.get(name) for name in names)], SCHEMAS[c.RECOMMENDATIONS]
        ).coalesce(1)

    def record(run_id: str, ended_at: float, version: int) -> Run:
        return Run(
            run_id=run_id,
            pipeline="t",
            step=run_id,
            stage="score",
            key=run_id,
            config={},
            upstream={},
            input_versions={},
            output_versions={c.RECOMMENDATIONS: version},
            run_dir=str(tmp_path / run_id),
            code_version="",
            seed=1,
            started_at=ended_at,
            ended_at=ended_at,
        )

    versions = [lake.merge_new(c.RECOMMENDATIONS, lists(run_id)) for run_id in ("old", "new")]
    lake.add_runs([record("old", 0.0, versions[0]), record("new", time.time(), versions[1])])
    gone = clean.leftover(lake, runs_dir=tmp_path, kept=(), older_than_s=86_400.0, now=time.time())
    assert [run.run_id for run in gone.runs] == ["old"]
    assert gone.rows == {c.RECOMMENDATIONS: 1, c.RUNS: 1} and gone.table_bytes > 0

    hours = clean.clean(lake, gone, retention_s=0.0)
    assert [run.run_id for run in lake.runs()] == ["new"]
    assert [row.run_id for row in lake.read(c.RECOMMENDATIONS).collect()] == ["new"]
    # The kept run named a version that still has the old one's file
    assert hours[c.RECOMMENDATIONS] >= 1 and hours[c.RUNS] == 0
    assert lake.read(c.RECOMMENDATIONS, versions[1]).count() == 2
    retention.vacuum(lake, c.RECOMMENDATIONS, hours=0)  # what else would have happened
    with pytest.raises((TableError, Exception), match="(?i)not exist|missing|no such file"):
        lake.read(c.RECOMMENDATIONS, versions[1]).collect()
