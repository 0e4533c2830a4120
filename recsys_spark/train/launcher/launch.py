"""Train a job on this host: the lock of the run folder, the rendezvous of the ranks, restarts, and
the result.

Ranks communicate over the loopback interface; the rendezvous (Horovod's server, torch's store) runs
in this process, on a free port.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_spark.core import artifacts, log
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.core.errors import CheckpointError, ConfigError, WorkerError
from recsys_spark.train import entry
from recsys_spark.train.data import reader
from recsys_spark.train.launcher import processes
from recsys_spark.train.launcher.supervise import Attempt, supervise
from recsys_spark.train.ranks import owner, placement, workers
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.saves.record import RESULT

_log = log.get("train.launch")


def launch(job: TrainJob, attempt: Attempt | None = None) -> TrainResult:
    """Train, or resume from the last checkpoint of `job.run_dir`; the result of a finished run is
    returned as it is.

    `attempt` starts the ranks once; without it they are processes on this host. Raises what a rank
    raised; WorkerError when one died, hung or could not start, after all others were ended;
    ShardError when the shards cannot feed this many ranks; CheckpointError when the folder holds
    another job.
    """
    run = Path(job.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    with owner.alone(run):
        if (done := finished(job)) is not None:
            _log.info(log.fields(event="already_trained", run_dir=run))
            return done
        if attempt is None and job.workers.launch != "local":
            raise ConfigError(
                "workers.launch",
                found=job.workers.launch,
                expected="local: this process has no Spark session",
                remedy="set workers.launch=local, or run the job through the stage train_deep",
            )
        placement.check(job)
        artifacts.write_model(run / entry.JOB, job)
        _say_engines(job)
        supervise(job, attempt or _here)
    return _result(run)


def _say_engines(job: TrainJob) -> None:
    """What `auto` is on this machine."""
    engine = workers.resolve(job.workers.engine, job.workers.num_workers)
    why = workers.no_horovod() if (job.workers.engine, engine) == ("auto", "torch") else ""
    _log.info(
        log.fields(
            event="engines",
            ranks=engine,
            reader=reader.resolve(job.train.reader.engine),
            **({"no_horovod": why} if why else {}),
        )
    )


def prepare(job: TrainJob) -> Path:
    """Write the job file for ranks that torchrun or horovodrun starts. Raises what `launch` raises
    before it starts a rank.
    """
    run = Path(job.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    with owner.alone(run):
        finished(job)
        placement.check(job)
        artifacts.write_model(run / entry.JOB, job)
    return run / entry.JOB


def finished(job: TrainJob) -> TrainResult | None:
    """The result of this job, if its run folder holds it. Raises CheckpointError if it holds
    another job's.
    """
    run = Path(job.run_dir)
    if not (run / RESULT).exists():
        return None
    remedy = f"give this job an empty run folder, or remove {run}"
    previous = artifacts.read_model(run / entry.JOB, TrainJob, error=CheckpointError, remedy=remedy)
    if checkpoint.digest(previous) != checkpoint.digest(job):
        raise CheckpointError(
            f"run folder {run}",
            found=f"the result of another job, {previous.model} of {previous.run_id}",
            expected=f"{job.model} of {job.run_id}, with the same settings and shards",
            remedy=remedy,
        )
    result = _result(run)
    checkpoint.verify(run / result.checkpoint)
    return result


def _here(job: TrainJob, enough: Callable[[], bool]) -> bool:
    """An attempt (launcher/supervise.py) on this host."""
    engine = workers.resolve(job.workers.engine, job.workers.num_workers)
    with meeting(engine, job.workers.num_workers, job.workers.timeout_s) as environments:
        return processes.run(job, environments, enough)


@contextmanager
def meeting(engine: str, number: int, timeout_s: float = 600.0) -> Iterator[list[dict[str, str]]]:
    """Open the rendezvous of the ranks. Yields the environment of each rank. Raises WorkerError
    when the engine is not installed, or there is no free port.
    """
    if engine == "single":
        yield [{}]
        return
    try:
        context = _horovod(number, timeout_s) if engine == "horovod" else _torch(number)
        environments = context.__enter__()
    except ImportError as problem:
        raise workers.not_installed(engine, problem) from problem
    except (OSError, RuntimeError) as problem:
        message = " ".join(str(problem).split())[:200]
        raise WorkerError(
            "port of the workers' rendezvous on 127.0.0.1",
            found=message,
            expected="a free port",
            remedy="end processes that hold ports, or set workers.num_workers=1",
        ) from problem
    try:
        yield environments
    finally:
        context.__exit__(None, None, None)


def horovod_times(timeout_s: float) -> dict[str, str]:
    """Environment variables for how long Horovod's ranks wait for each other, and how often they
    look for work.
    """
    # Longer than the watch over the ranks, which can name the hung rank. Horovod's default ends the
    # others 30 s after a peer hangs.
    return {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(math.ceil(workers.PATIENCE * timeout_s)),
        # Milliseconds. A shorter cycle has less latency and costs more: at 0.1 a waiting rank uses
        # a third of a core, at 1 a tenth.
        "HOROVOD_CYCLE_TIME": os.environ.get("HOROVOD_CYCLE_TIME", "1"),
    }


@contextmanager
def _horovod(number: int, timeout_s: float) -> Iterator[list[dict[str, str]]]:
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    slots = get_host_assignments(parse_hosts(f"localhost:{number}"), number)
    with RendezvousHTTPServer(("127.0.0.1", 0), RendezvousHandler, 0) as server:
        server.daemon_threads = True
        server.init(slots)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        common = {
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": _loopback(),
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server.server_address[1]),
            **horovod_times(timeout_s),
        }
        yield [
            {
                **common,
                "HOROVOD_HOSTNAME": slot.hostname,
                "HOROVOD_RANK": str(slot.rank),
                "HOROVOD_SIZE": str(slot.size),
                "HOROVOD_LOCAL_RANK": str(slot.local_rank),
                "HOROVOD_LOCAL_SIZE": str(slot.local_size),
                "HOROVOD_CROSS_RANK": str(slot.cross_rank),
                "HOROVOD_CROSS_SIZE": str(slot.cross_size),
            }
            for slot in slots
        ]
        server.shutdown()


@contextmanager
def _torch(number: int) -> Iterator[list[dict[str, str]]]:
    from torch import distributed

    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    yield [
        {workers.STORE: f"127.0.0.1:{store.port}", "GLOO_SOCKET_IFNAME": _loopback()}
        for _ in range(number)
    ]


def _loopback() -> str:
    return "lo0" if sys.platform == "darwin" else "lo"


def _result(run: Path) -> TrainResult:
    return artifacts.read_model(
        run / RESULT, TrainResult, error=WorkerError, remedy=f"remove {run} and train again"
    )
