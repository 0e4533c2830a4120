"""How many Spark jobs a call starts."""

from __future__ import annotations

import uuid
from typing import Any, Callable

from pyspark.sql import SparkSession


def num_jobs(spark: SparkSession, call: Callable[[], Any]) -> int:
    """The jobs that this thread starts while it is in `call`."""
    context, group = spark.sparkContext, uuid.uuid4().hex
    context.setJobGroup(group, "counted")
    try:
        call()
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)
    context._jsc.sc().listenerBus().waitUntilEmpty()
    return len(context.statusTracker().getJobIdsForGroup(group))
