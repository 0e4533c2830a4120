"""What test_standalone.py starts and ends by SIGTERM: a driver that trains a job on the executors
of Spark's local mode.

python -m tests.spark.stopped_driver FILE_OF_THE_JOB
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import WorkerError
from recsys_spark.lake import session
from recsys_spark.pipeline.context import SparkSettings
from recsys_spark.stages.bridge import launch_spark


def main() -> None:
    job = TrainJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    spark = session.session(SparkSettings(master="local[2]", driver_memory="512m"), "tests")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        launch_spark.train(spark, job)
    except WorkerError as problem:
        print(problem, flush=True)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before, (
        "the driver's own handlers are back"
    )
    spark.stop()


if __name__ == "__main__":
    main()
