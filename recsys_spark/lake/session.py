"""The only place that builds a SparkSession: local by default, Delta inside, UTC, quiet."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Mapping, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.find_spark_home import _find_spark_home
from pyspark.sql import SparkSession

from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError

logger = log.get(__name__)
# What a session has had since its start
_STARTED_WITH = ("env.spark.master", "env.spark.driver_memory")
DELTA_CLASS = "io.delta.sql.DeltaSparkSessionExtension"
# On small data the JVM's work is mostly thousands of methods that run a little: its optimising
# compiler took two fifths of its time on the demo. So a method has to run ten times as often
# before it is optimised (400,000 turns of a loop, which a long job has done within a second), and
# classes and code have room to grow without a collection.
JVM = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
    "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000 "
    "-XX:MetaspaceSize=256m -XX:ReservedCodeCacheSize=512m"
)


class Settings(Protocol):
    """What `session` reads of `pipeline.context.SparkSettings` (read-only, so that a frozen object
    fits).
    """

    @property
    def master(self) -> str: ...
    @property
    def driver_memory(self) -> str: ...
    @property
    def shuffle_partitions(self) -> int | None: ...
    @property
    def conf(self) -> Mapping[str, str]: ...


def session(settings: Settings, app: str) -> SparkSession:
    """The running session, or a new one. Raises ConfigError when Java or Delta's JARs are missing.

    On Databricks the platform's own session is used as it is; under `spark-submit` its master and
    memory win over `settings`. The log says which settings have no effect.
    """
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return on_platform(SparkSession.builder.getOrCreate(), settings)
    # The JVM runs already: spark-submit started us
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if submitted:
        logger.info(log.fields(event="decided_by_spark_submit", settings=",".join(_STARTED_WITH)))
    if not submitted:
        _require_java()
        _require_jars(settings.conf)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers take the system's python
    builder = SparkSession.Builder().appName(app)
    for key, value in {**_defaults(settings, submitted), **settings.conf}.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel(settings.conf.get("spark.log.level", "ERROR"))
    _require_delta(spark)
    return spark


def on_platform(spark: SparkSession, settings: Settings) -> SparkSession:
    """The platform's session with those of the settings that Spark takes at run time; a warning
    names those that it does not.
    """
    conf = {"spark.sql.session.timeZone": "UTC", **settings.conf}
    if settings.shuffle_partitions is not None:
        conf["spark.sql.shuffle.partitions"] = str(settings.shuffle_partitions)
    fixed = [key for key in conf if not spark.conf.isModifiable(key)]
    for key, value in conf.items():
        if key not in fixed:
            spark.conf.set(key, value)
    logger.info(log.fields(event="decided_by_the_platform", settings=",".join(_STARTED_WITH)))
    if fixed:
        logger.warning(
            log.fields(
                event="settings_ignored",
                settings=",".join(fixed),
                why="a running session does not take them",
                remedy="set them on the cluster",
            )
        )
    return spark


def _defaults(settings: Settings, submitted: bool) -> dict[str, str]:
    conf = {
        "spark.sql.extensions": DELTA_CLASS,
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # 50 by default: a merge of a tiny table took 18 s
        "spark.databricks.delta.snapshotPartitions": "2",
        # 100 by default, fewer than a pipeline has: the same queries were compiled again and again
        "spark.sql.codegen.cache.maxEntries": "1000",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Lists of a user's items are gathered in a hash table of so many users a task; by default a
        # 129th user makes Spark sort instead.
        "spark.sql.objectHashAggregate.sortBased.fallbackThreshold": "20000",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if (partitions := _shuffle_partitions(settings, submitted)) is not None:
        conf |= {"spark.sql.shuffle.partitions": str(partitions)}
    if not submitted:
        conf |= {"spark.master": settings.master, "spark.driver.memory": settings.driver_memory}
        # Before `extraJavaOptions`, in which a user's own win
        conf |= {"spark.driver.defaultJavaOptions": JVM}
        if settings.master.startswith("local"):  # a laptop's host name may not resolve
            conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return conf


def _shuffle_partitions(settings: Settings, submitted: bool) -> int | None:
    """As set; else two a core of a local master. None: the cluster's own."""
    if settings.shuffle_partitions is not None:
        return settings.shuffle_partitions
    local = re.match(r"local(\[(\d+|\*)|$)", settings.master)
    if submitted or local is None:
        return None
    cores = local[2] or "1"
    return 2 * (os.cpu_count() or 1 if cores == "*" else int(cores))


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if home and not (Path(home) / "bin" / "java").exists():
        raise ConfigError(
            "JAVA_HOME",
            found=home,
            expected="a folder with bin/java",
            remedy="point JAVA_HOME at a JDK 17, or unset it",
        )
    if not home and shutil.which("java") is None:
        raise ConfigError(
            "java",
            found="no such program on PATH",
            expected="a JDK 17",
            remedy="install a JDK 17, or set JAVA_HOME",
        )


def _require_jars(conf: Mapping[str, str]) -> None:
    """Before the JVM starts, because Spark itself only warns and fails much later."""
    if "spark.jars" in conf or "spark.jars.packages" in conf:
        return
    folder = Path(_find_spark_home()) / "jars"
    for name in ("delta-spark_*.jar", "delta-storage-*.jar"):
        if not any(folder.glob(name)):
            raise ConfigError(
                "Delta's JARs",
                found=f"no {name} in {folder}",
                expected="delta-spark and delta-storage beside Spark's JARs",
                remedy="run `make setup`, or set spark.jars.packages under env.spark.conf",
            )


def _require_delta(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None, "a classic session has a JVM"
    found = [name.strip() for name in (spark.conf.get("spark.sql.extensions", "") or "").split(",")]
    try:
        jvm.java.lang.Thread.currentThread().getContextClassLoader().loadClass(DELTA_CLASS)
    except Py4JJavaError:  # ClassNotFoundException
        raise ConfigError(
            "Delta's JARs",
            found="not on Spark's class path",
            expected=f"a JAR with {DELTA_CLASS}",
            remedy="run `make setup`, or pass --packages to spark-submit",
        ) from None
    if DELTA_CLASS not in found:
        raise ConfigError(
            "the running Spark session",
            found=f"spark.sql.extensions={','.join(found) or 'none'}",
            expected=DELTA_CLASS,
            remedy="stop that session first, or start it with Delta's extension",
        )
