"""Runs as rows of the table `runs`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pyspark.sql import DataFrame, Row, SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.lake.schemas import SCHEMAS


def rows(spark: SparkSession, runs: Iterable[Run], folder: Path | None) -> DataFrame:
    """In one partition, for one file. folder: that of the run folders."""
    records = [Row(**run.row(folder)) for run in runs]
    return spark.createDataFrame(records, SCHEMAS[c.RUNS]).coalesce(1)
