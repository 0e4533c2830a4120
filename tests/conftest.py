"""Fixtures that every Spark test shares: one session, one lake a test, one folder of raw data."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import pytest

if TYPE_CHECKING:  # the model tests run without a JVM
    from pyspark.sql import SparkSession

    from recsys_spark.lake.tables import Lake

# Every JVM of a test, also those of the commands that it runs, ends before the slow compiler pays.
# Without it the code cache is a fifth as large, and sweeping it took as long as the tests.
JVM = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=512m -XX:MetaspaceSize=512m"
)
# For tables of a few rows, where generating and compiling code, planning again between stages and
# tasks without rows are most of a query. `make soak` runs the demo with what is shipped.
TINY = {
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
    # What a UI would show of the last thousand queries filled the heap of a worker's session: its
    # last tests took five times as long as they do alone.
    "spark.sql.ui.retainedExecutions": "10",
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
    "spark.ui.retainedTasks": "1000",
    # A vacuum lists folders in so many tasks; 10,000 by default
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
}
# Two workers share the cores: threads that wait for each other took a test ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A second worker has it from the first process
if JVM not in os.environ.get("JAVA_TOOL_OPTIONS", ""):
    os.environ["JAVA_TOOL_OPTIONS"] = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {JVM}".strip()


@pytest.fixture(autouse=True)
def unconfigured_log() -> None:
    """An earlier test may have run a command in this process, which configures the log: `caplog`
    would then have each record twice, or none.
    """
    logger = logging.getLogger("recsys_spark")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One small local session for the whole test run."""
    from recsys_spark.lake.session import session
    from recsys_spark.pipeline.context import SparkSettings

    scratch = tmp_path_factory.mktemp("spark")
    conf = TINY | {
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.autoBroadcastJoinThreshold": "10MB",
    }
    made = session(
        SparkSettings(master="local[2]", driver_memory="2g", shuffle_partitions=2, conf=conf),
        "tests",
    )
    yield made
    made.stop()


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    """An empty lake of this test's own."""
    from recsys_spark.lake.tables import Lake

    return Lake(spark, str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ml-1m/`: RECSYS_DATA when it is set (the real set), else a small generated one
    in the same format.
    """
    named = os.environ.get("RECSYS_DATA")
    if named and (Path(named) / "ml-1m" / "ratings.dat").exists():
        return Path(named)
    from recsys_spark.datasets.generators import synthetic

    made = tmp_path_factory.mktemp("data")
    synthetic.generate(
        request.getfixturevalue("spark"),
        made / "ml-1m",
        users=300,
        items=200,
        ratings=12_000,
        seed=1,
    )
    return made
