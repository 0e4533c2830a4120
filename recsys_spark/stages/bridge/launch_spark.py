"""The ranks of a training as tasks on Spark's executors: horovod.spark.run, or TorchDistributor for
the engine torch.

Every executor must reach the run folder and the shards by the path that the driver uses: a shared
or object-store mount. A rank runs what it runs everywhere (train/entry.py); there is no launcher
beside it, so each rank watches the others' signs of life itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_spark.core import contracts, log
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.core.errors import ConfigError, WorkerError
from recsys_spark.train import entry
from recsys_spark.train.launcher import launch, verdict
from recsys_spark.train.ranks import watch, workers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SIGNALS = "SIGTERM or Ctrl-C"
GPU = "spark.task.resource.gpu.amount"
_log = log.get("stages.launch_spark")


def train(spark: SparkSession, job: TrainJob) -> TrainResult:
    """As `train.launch.launch`, its ranks placed on executors. Raises what that raises, and
    ConfigError when the executors cannot train this job: too few of them, without the package, or
    without the folders.
    """
    return launch.launch(job, partial(_attempt, spark))


def _attempt(spark: SparkSession, job: TrainJob, enough: Callable[[], bool]) -> bool:
    number = job.workers.num_workers
    gpus = _gpus(spark, job)
    hosts = _reached(spark, job)
    _log.info(log.fields(event="placed", num_workers=number, hosts=",".join(sorted(set(hosts)))))
    entry.clear(job)
    silence = watch.Silence([entry.beat_file(job, rank) for rank in range(number)])
    with _signals() as asked, _relayed(job, lambda: asked() or enough()):
        try:
            codes = _codes(job, gpus)
            if all(code == entry.DONE for code in codes):
                return True
            ended = set(codes) <= {entry.DONE, entry.STOPPED}
            if ended and asked():
                raise verdict.stopped(job, SIGNALS)
            if ended and enough():
                return False
            raise verdict.cause(job, codes)
        except watch.Lost as problem:
            # Horovod.spark kills a rank that takes more than five seconds to save and to end
            if asked():
                raise verdict.stopped(job, SIGNALS) from problem
            silence.look()
            problem.step = silence.step
            raise


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C has come. horovod.spark puts handlers of its own in place of ours,
    which end its ranks, and leaves them there: so a signal is heard where Python tells of it
    whoever handles it, and all handlers are put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals = bytearray()
    ours, pythons = socket.socketpair()
    ours.setblocking(False)
    pythons.setblocking(False)

    def asked() -> bool:
        with contextlib.suppress(BlockingIOError):
            signals.extend(ours.recv(4096))
        return any(number in signals for number in handlers)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ours.close()
        pythons.close()


@contextmanager
def _relayed(job: TrainJob, wanted: Callable[[], bool]) -> Iterator[None]:
    """While the ranks train, wherever they are: once it is wanted, the file that has them save and
    end.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            if wanted():
                entry.stop_file(job).touch()
                return

    thread = threading.Thread(target=look, name="relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _codes(job: TrainJob, gpus: bool) -> list[int | None]:
    """Run the ranks: their exit codes. Raises Lost, or what a rank said, where Spark gives none."""
    number, path = job.workers.num_workers, str(Path(job.run_dir) / entry.JOB)
    try:
        if workers.resolve(job.workers.engine, number) == "torch":
            from pyspark.ml.torch.distributor import TorchDistributor

            first = TorchDistributor(num_processes=number, local_mode=False, use_gpu=gpus).run(
                run_rank, path
            )
            return [first] + [
                first if first in (entry.DONE, entry.STOPPED) else entry.LOST_PEER
            ] * (number - 1)
        else:
            import horovod.spark

            codes: list[int | None] = horovod.spark.run(
                run_rank,
                args=(path,),
                num_proc=number,
                use_gloo=True,
                verbose=0,
                stdout=sys.stderr,
                start_timeout=int(max(job.workers.timeout_s, 60)),
                env=launch.horovod_times(job.workers.timeout_s),
            )
            return codes
    except Exception as problem:
        problem_of_rank = next(
            (word for rank in range(number) if (word := verdict.told_by(job, rank)) is not None),
            None,
        )
        if problem_of_rank is not None:
            raise problem_of_rank from problem
        raise watch.Lost(
            f"a worker of {number} on Spark",
            found=" ".join(str(problem).split())[:300],
            expected="to train to the end",
            remedy=(
                f"look into {entry.log_file(job, 0).with_name('rank-*.log')} and the "
                "executors' logs"
            )
            + verdict.go_on(job),
        ) from problem


def run_rank(path: str) -> int:
    """One rank, in a process that an executor started; its words go to the run folder's log of it.
    The exit code of `entry.run_rank`.
    """
    job = TrainJob.model_validate_json(Path(path).read_bytes())
    rank = int(os.environ.get("HOROVOD_RANK") or os.environ.get("RANK", "0"))
    with open(entry.log_file(job, rank), "ab") as output:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # TorchDistributor has already shown this process its GPU alone
    if "HOROVOD_RANK" in os.environ:
        from horovod.spark.task import get_available_devices

        if devices := get_available_devices():
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[0]
    return entry.run_rank(path)


def _gpus(spark: SparkSession, job: TrainJob) -> bool:
    """Whether Spark gives each task a GPU. Raises ConfigError when the job needs one."""
    given = float(spark.sparkContext.getConf().get(GPU, "0") or 0) >= 1
    if job.workers.device == "cuda" and not given:
        raise ConfigError(
            "workers.device",
            found=f"cuda, and {GPU} is not set",
            expected="a GPU for each task",
            remedy=f"set {GPU}=1 and "
            "spark.executor.resource.gpu.amount, or workers.device=auto (CPU where there is "
            "no GPU)",
        )
    return given and job.workers.device != "cpu"


def _reached(spark: SparkSession, job: TrainJob) -> list[str]:
    """The hosts of as many tasks at once as there will be ranks. Raises ConfigError when one lacks
    what it needs.
    """
    number, token = job.workers.num_workers, uuid.uuid4().hex
    probe = Path(job.run_dir) / f".probe-{token}"
    probe.write_text(token, encoding="utf-8")
    try:
        answers = (
            spark.sparkContext.parallelize(range(number), number)
            .barrier()
            .mapPartitions(_prober(str(probe), job.shards))
            .collect()
        )
        written = {path.name for path in probe.parent.glob(f"{probe.name}-*")}
    except Exception as problem:
        text = " ".join(str(problem).split())
        if "SPARK-24819" in text or "barrier" in text.lower() and "slots" in text:
            raise ConfigError(
                "workers.num_workers",
                found=f"{number}, and Spark has fewer task slots",
                expected="a slot for each worker",
                remedy="give the application more executors or "
                "cores, or set fewer workers.num_workers",
            ) from problem
        raise WorkerError(
            "the executors",
            found=text[:300],
            expected="tasks that run",
            remedy="look into their logs",
        ) from problem
    finally:
        for left in probe.parent.glob(f"{probe.name}*"):
            left.unlink(missing_ok=True)
    for host, lacking in answers:
        if lacking:
            raise ConfigError(
                f"executor on {host}",
                found=lacking,
                expected="package, run folder and shards, by the driver's paths",
                remedy="install recsys_spark on every "
                "executor; put env.runs on a file system that all of them mount",
            )
    if len(written) < number:
        raise ConfigError(
            f"run folder {probe.parent}",
            found=f"no word from {number - len(written)} of {number} executors that wrote there",
            expected="one folder for the driver and all executors",
            remedy="put env.runs on a file system that all of them mount",
        )
    return [host for host, _ in answers]


def _prober(path: str, shards: str) -> Callable[[Any], list[tuple[str, str]]]:
    """partition -> [(host, what it lacks)]. A nested function travels whole, so it can tell that
    the package is absent.
    """
    manifest, contract = os.path.join(shards, contracts.MANIFEST), path.rsplit("-", 1)[1]

    def probe(partition: Any) -> list[tuple[str, str]]:
        number, host = next(iter(partition)), socket.gethostname()
        if importlib.util.find_spec("recsys_spark") is None:
            return [(host, "no package recsys_spark")]
        try:
            with open(path, encoding="utf-8") as source:
                if source.read() != contract:
                    return [(host, f"another file at {path}")]
            with open(f"{path}-{number}", "w", encoding="utf-8") as answer:
                answer.write(host)
            if "://" not in manifest:
                os.stat(manifest)
        except OSError as problem:
            return [(host, str(problem))]
        return [(host, "")]

    return probe
