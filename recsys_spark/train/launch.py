"""Start the ranks of a job as child processes on this host, watch them, and bring back the result.

One rank is a child process too, so that a crash or a full memory never takes the driver along. Ranks talk over the loopback
interface; where they meet (Horovod's rendezvous server, torch's store) lives here, on a free port.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from recsys_spark.core import artifacts, errors, log, shardset
from recsys_spark.core.contracts import TrainJob, TrainResult
from recsys_spark.core.errors import CheckpointError, ShardError, WorkerError
from recsys_spark.train import beat, checkpoint, entry, progress, verdict, workers
from recsys_spark.train.loop import METRICS, RESULT

JOB = "train_job.json"  # job.json is the step's own
GRACE_S = 30.0  # to save a checkpoint after SIGTERM, before SIGKILL
SETTLE_S = 1.0  # after a rank has died: others follow it, and the first cause must be told from them
_POLL_S = 0.1
_log = log.get("train.launch")


def launch(job: TrainJob) -> TrainResult:
    """Train, or go on from the last checkpoint of `job.run_dir`; a finished run is returned as it is.

    Raises what a rank raised; WorkerError when one died, hung or could not start, after all others were ended; ShardError
    when the shards cannot feed this many ranks; CheckpointError when the folder holds another job.
    """
    run = Path(job.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    with _alone(run):
        if (done := finished(job)) is not None:
            _log.info(log.fields(event="already_trained", run_dir=run))
            return done
        check(job)
        artifacts.write_model(run / JOB, job)
        for rank in range(job.workers.num_workers):
            for left in (entry.beat_file(job, rank), entry.error_file(job, rank)):
                left.unlink(missing_ok=True)
        _run(job)
    return _result(run)


def finished(job: TrainJob) -> TrainResult | None:
    """The result of this very job, if its run folder holds one. Raises CheckpointError if it is another job's."""
    run = Path(job.run_dir)
    if not (run / RESULT).exists():
        return None
    remedy = f"give this job an empty run folder, or remove {run}"
    theirs = artifacts.read_model(run / JOB, TrainJob, error=CheckpointError, remedy=remedy)
    if checkpoint.digest(theirs) != checkpoint.digest(job):
        raise CheckpointError(f"run folder {run}", found=f"the result of another job, {theirs.model} of {theirs.run_id}",
                              expected=f"{job.model} of {job.run_id}, with the same settings and shards", remedy=remedy)
    result = _result(run)
    checkpoint.verify(run / result.checkpoint)
    return result


def check(job: TrainJob) -> None:
    """Everything that can be refused before a rank is started. Raises ConfigError, ShardError."""
    settings = job.workers
    engine, number = workers.resolve(settings.engine, settings.num_workers), settings.num_workers
    if engine == "single" and number > 1:
        raise errors.ConfigError("workers.engine", found=f"single with workers.num_workers={number}", expected="horovod or torch",
                                 remedy="set workers.engine=horovod, or workers.num_workers=1")
    if settings.launch != "local":
        raise errors.ConfigError("workers.launch", found=settings.launch, expected="local", remedy="set workers.launch=local")
    shards = shardset.load(job.shards, expect=job.shard_fingerprint)
    part = shards.parts.get("train")
    if part is None or not part.rows:
        raise ShardError(f"shard set {job.shards}, part train", found="no rows", expected="rows to train on", remedy=shardset.REMEDY)
    if shards.virtual_shards % number:
        divisors = [n for n in range(1, shards.virtual_shards + 1) if shards.virtual_shards % n == 0]
        raise ShardError("workers.num_workers", found=number, expected=f"a divisor of the {shards.virtual_shards} virtual shards: "
                         + ", ".join(map(str, divisors)), remedy="set workers.num_workers to one of these")
    groups = [0] * number
    for file in part.files:
        groups[file.virtual_shard % number] += len(file.row_groups)
    if 0 in groups:
        raise ShardError(f"shard set {job.shards}, part train", found=f"{sum(groups)} row groups, none for worker {groups.index(0)}",
                         expected=f"at least one for each of {number} workers",
                         remedy="set fewer workers.num_workers, or export with smaller row groups")


def _run(job: TrainJob) -> None:
    """Until every rank has ended well; raises when one has not."""
    run, settings = Path(job.run_dir), job.workers
    with ExitStack() as stack:
        meet = stack.enter_context(_meeting(workers.resolve(settings.engine, settings.num_workers), settings.num_workers))
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, ranks)
        asked = stack.enter_context(_sigterm())
        shown = stack.enter_context(progress.make(job.model, run / METRICS))
        for rank, environment in enumerate(meet):
            ranks.append(_start(job, rank, environment))
        try:
            _watch(job, ranks, shown, asked)
        except KeyboardInterrupt:
            _stop(ranks)
            raise


def _watch(job: TrainJob, ranks: list[subprocess.Popen[bytes]], shown: progress.Lines, asked: list[int]) -> None:
    started = time.monotonic()
    while True:
        codes = [rank.poll() for rank in ranks]
        if all(code == entry.DONE for code in codes):
            return
        if any(code not in (None, entry.DONE) for code in codes):
            _settle(ranks)
            raise verdict.cause(job, [rank.poll() for rank in ranks])
        readings = [beat.read(entry.beat_file(job, rank)) for rank in range(len(ranks))]
        if readings[0]:
            shown.show(readings[0])
        ages = [reading.age_s if reading else time.monotonic() - started for reading in readings]
        if min(ages) > job.workers.timeout_s:
            # Whoever only waits in a collective waits for somebody else.
            suspects = [rank for rank, reading in enumerate(readings) if not reading or reading.phase == beat.WORKING]
            rank = max(suspects or range(len(ranks)), key=lambda r: ages[r])
            raise WorkerError(f"worker {rank} of {len(ranks)}", found=f"silent for {ages[rank]:.0f} s",
                              expected=f"a sign of life within workers.timeout_s={job.workers.timeout_s:g}",
                              remedy="look into " + verdict.last_lines(job, rank) + verdict.go_on(job))
        if asked:
            _stop(ranks)
            raise WorkerError(f"training {job.run_id}", found="SIGTERM", expected="to go on to the end",
                              remedy=verdict.go_on(job).lstrip("; "))
        time.sleep(_POLL_S)


def _start(job: TrainJob, rank: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A child in a process group of its own, whose output goes to its log."""
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    threads = str(entry.threads(job))
    known = {entry.PARENT: str(os.getpid()), workers.RANK: str(rank), workers.SIZE: str(job.workers.num_workers), "PYTHONPATH": path,
             "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "recsys_spark.train.entry", str(Path(job.run_dir) / JOB)]
    with open(entry.log_file(job, rank), "ab") as output:
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                    env={**os.environ, **known, **environment})
        except OSError as problem:
            raise WorkerError(f"worker {rank}", found=str(problem), expected="a new process",
                              remedy="free memory or processes, or set fewer workers.num_workers") from problem


@contextmanager
def _meeting(engine: str, number: int) -> Iterator[list[dict[str, str]]]:
    """Where the ranks find each other: the environment of each. Raises WorkerError when there is no free port."""
    if engine == "single":
        yield [{}]
        return
    try:
        opened = _horovod(number) if engine == "horovod" else _torch(number)
        meeting = opened.__enter__()
    except (OSError, RuntimeError) as problem:
        found = " ".join(str(problem).split())[:200]
        raise WorkerError("port of the workers' rendezvous on 127.0.0.1", found=found, expected="a free port",
                          remedy="end processes that hold ports, or set workers.num_workers=1") from problem
    try:
        yield meeting
    finally:
        opened.__exit__(None, None, None)


@contextmanager
def _horovod(number: int) -> Iterator[list[dict[str, str]]]:
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    slots = get_host_assignments(parse_hosts(f"localhost:{number}"), number)
    with RendezvousHTTPServer(("127.0.0.1", 0), RendezvousHandler, 0) as server:
        server.daemon_threads = True
        server.init(slots)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        everybody = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_GLOO_IFACE": _loopback(),
                     "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server.server_address[1]),
                     # Milliseconds between two looks for work. Shorter answers sooner and costs more: at 0.1 a rank that only
                     # waits uses a third of a core, at 1 a tenth.
                     "HOROVOD_CYCLE_TIME": os.environ.get("HOROVOD_CYCLE_TIME", "1")}
        yield [{**everybody, "HOROVOD_HOSTNAME": slot.hostname, "HOROVOD_RANK": str(slot.rank), "HOROVOD_SIZE": str(slot.size),
                "HOROVOD_LOCAL_RANK": str(slot.local_rank), "HOROVOD_LOCAL_SIZE": str(slot.local_size),
                "HOROVOD_CROSS_RANK": str(slot.cross_rank), "HOROVOD_CROSS_SIZE": str(slot.cross_size)} for slot in slots]
        server.shutdown()


@contextmanager
def _torch(number: int) -> Iterator[list[dict[str, str]]]:
    from torch import distributed

    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    yield [{workers.STORE: f"127.0.0.1:{store.port}", "GLOO_SOCKET_IFNAME": _loopback()} for _ in range(number)]


def _loopback() -> str:
    return "lo0" if sys.platform == "darwin" else "lo"


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list that SIGTERM fills, where the process allows a handler (in its main thread)."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _settle(ranks: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until and any(rank.poll() is None for rank in ranks):
        time.sleep(_POLL_S / 4)


def _stop(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Ask for a last checkpoint, and wait for it."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and all(rank.poll() in (None, entry.STOPPED, entry.DONE) for rank in ranks):
        if all(rank.poll() is not None for rank in ranks):
            return
        time.sleep(_POLL_S)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Nothing of this job runs on."""
    for rank in ranks:
        if rank.poll() is None:
            try:
                os.killpg(rank.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        rank.wait()


def _result(run: Path) -> TrainResult:
    return artifacts.read_model(run / RESULT, TrainResult, error=WorkerError, remedy=f"remove {run} and train again")


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Two launchers never write to one run folder. The lock goes with the process that holds it."""
    with open(run / ".train.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkerError(f"run folder {run}", found="another process that trains into it", expected="one at a time",
                              remedy="wait for it, or end it") from None
        yield
