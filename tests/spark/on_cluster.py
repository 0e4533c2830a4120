"""What test_standalone.py runs as the driver of a cluster: trains on its executors, kills a rank
there, asks for what cannot be.

python -m tests.spark.on_cluster FOLDER CLUSTER_DIR ENGINE EPOCHS    ($SPARK_MASTER: the cluster)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from recsys_spark.core import log
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import RecsysError
from recsys_spark.lake import session
from recsys_spark.pipeline.context import SparkSettings
from recsys_spark.stages.bridge import launch_spark
from tests import shardsets, training
from tests.distributed import ranks


def on_executor(cluster: Path, rank: int) -> list[int]:
    """Process ids of a Horovod rank that this cluster's executors started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_text().split("\0")
            if f"HOROVOD_RANK={rank}" in environment and (folder / "cwd").resolve().is_relative_to(
                cluster
            ):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError, UnicodeDecodeError):
            continue
    return found


def kill(job: TrainJob, cluster: Path) -> None:
    ranks.wait(lambda: ranks.steps(job) >= 25, 200)
    for process in on_executor(cluster, 1):
        os.kill(process, signal.SIGKILL)


def main() -> None:
    log.configure()
    folder, cluster, engine, epochs = (
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
    )
    made = shardsets.pointwise(folder / "rows")
    conf = {
        "spark.driver.host": "127.0.0.1",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": "1",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s",
    }
    spark = session.session(
        SparkSettings(master=os.environ["SPARK_MASTER"], driver_memory="512m", conf=conf), "tests"
    )
    told: dict[str, object] = {}
    job = training.job(
        folder / "run",
        folder / "rows",
        made,
        engine=engine,
        num_workers=2,
        epochs=epochs,
        patience=epochs,
        checkpoint_steps=5,
    )
    job = job.model_copy(
        update={
            "workers": job.workers.model_copy(
                update={"launch": "spark", "restarts": 1, "min_workers": 1}
            )
        }
    )
    if engine == "horovod":
        threading.Thread(target=kill, args=(job, cluster), daemon=True).start()
    told["steps"] = launch_spark.train(spark, job).steps
    told["again"] = launch_spark.train(spark, job).steps
    many = training.job(folder / "many", folder / "rows", made, num_workers=4)
    for name, settings in (
        ("four", {"num_workers": 4}),
        ("cuda", {"num_workers": 2, "device": "cuda"}),
    ):
        try:
            launch_spark.train(
                spark, many.model_copy(update={"workers": many.workers.model_copy(update=settings)})
            )
        except RecsysError as problem:
            told[name] = f"{type(problem).__name__} {problem}"
    (folder / "told.json").write_text(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main()
