"""A user who did nothing wrong is not warned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
from recsys_spark.lake.session import session
from recsys_spark.pipeline.context import SparkSettings
spark = session(SparkSettings(master="local[1]", driver_memory="512m"), "quiet")
try:  # what ALS asks for first: where the system has none, Spark warns and does it in Java
    spark._jvm.dev.ludovic.netlib.blas.NativeBLAS.getInstance()
except Exception:
    pass
spark._jvm.org.apache.hadoop.util.NativeCodeLoader.isNativeCodeLoaded()
spark._jvm.java.lang.System.err.println("a real complaint")
print(spark.range(3).count())
"""


def test_a_session_starts_without_a_word_and_real_complaints_are_shown() -> None:
    clean = {name: value for name, value in os.environ.items() if name != "JAVA_TOOL_OPTIONS"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=clean | {"SPARK_CONF_DIR": str(ROOT / "deploy" / "spark"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("3\n", "a real complaint\n")
