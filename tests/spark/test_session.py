"""The one session: what it needs, and what it says when that is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.forms import failures
from recsys_spark.lake import session as sessions
from recsys_spark.pipeline.context import SparkSettings


def test_local_utc_quiet_with_delta(spark: SparkSession) -> None:
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.get("spark.ui.enabled") == "false"
    assert "DeltaSparkSessionExtension" in spark.conf.get("spark.sql.extensions")


def test_the_running_session_is_used(spark: SparkSession) -> None:
    settings = SparkSettings(
        master="local[2]", shuffle_partitions=int(spark.conf.get("spark.sql.shuffle.partitions"))
    )
    assert sessions.session(settings, "another") is spark


def test_missing_jars_are_told_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jars").mkdir()
    monkeypatch.setattr(sessions, "_find_spark_home", lambda: str(tmp_path))
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    with pytest.raises(
        ConfigError, match=r"Delta's JARs: found no delta-spark_\*\.jar in .*jars; .*make setup"
    ):
        sessions.session(SparkSettings(), "x")
    (tmp_path / "jars" / "delta-spark_4.2_2.13-4.4.0.jar").touch()
    with pytest.raises(ConfigError, match=r"no delta-storage-\*\.jar"):
        sessions.session(SparkSettings(), "x")
    # Then Spark fetches them itself
    sessions._require_jars({"spark.jars.packages": "io.delta:..."})


def test_missing_java_is_told_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError,
        match=r"java: found no such program on PATH; expected a JDK 17\. To mend: install a JDK 17",
    ):
        sessions.session(SparkSettings(), "x")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(
        ConfigError, match=r"JAVA_HOME: found .*/gone; .*point JAVA_HOME at a JDK 17"
    ):
        sessions.session(SparkSettings(), "x")


def test_what_spark_submit_gave_is_kept() -> None:
    told = sessions._defaults(SparkSettings(master="local[7]", driver_memory="9g"), submitted=True)
    assert told["spark.databricks.delta.snapshotPartitions"] == "2"  # that of tests: conftest.py
    assert not {"spark.master", "spark.driver.memory", "spark.driver.host"} & set(told)
    assert (
        sessions._defaults(SparkSettings(master="local[7]"), submitted=False)["spark.master"]
        == "local[7]"
    )


def test_a_platforms_session_takes_what_it_can_and_names_the_rest(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    before = {key: spark.conf.get(key) for key in ("spark.sql.shuffle.partitions",)}
    settings = SparkSettings(conf={"spark.sql.shuffle.partitions": "7", "spark.ui.enabled": "true"})
    try:
        assert sessions.on_platform(spark, settings) is spark
        assert spark.conf.get("spark.sql.shuffle.partitions") == "7"
        assert spark.conf.get("spark.ui.enabled") == "false"
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)
    [warned] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "settings=spark.ui.enabled" in warned.message and "cluster" in warned.message


def test_sparks_errors_are_still_its_own_after_one_that_was_kept_quiet(spark: SparkSession) -> None:
    with failures.quiet(), pytest.raises(AnalysisException):
        spark.sql("SELECT no_such_column")
    with pytest.raises(AnalysisException, match="no_such_column"):
        spark.sql("SELECT no_such_column")


@pytest.mark.parametrize(
    ("master", "settings", "submitted", "partitions"),
    [
        ("local[3]", {}, False, 6),
        ("local[*]", {}, False, 2 * (os.cpu_count() or 1)),
        ("local", {}, False, 2),
        ("local[3]", {"shuffle_partitions": 7}, False, 7),
        ("local[*]", {}, True, None),  # the master of spark-submit counts
        ("spark://host:7077", {}, False, None),
        ("yarn", {"shuffle_partitions": 900}, True, 900),
    ],
)
def test_a_cluster_keeps_its_own_number_of_partitions(
    master: str, settings: dict[str, int], submitted: bool, partitions: int | None
) -> None:
    chosen = SparkSettings(master=master, **settings)
    assert sessions._shuffle_partitions(chosen, submitted) == partitions
