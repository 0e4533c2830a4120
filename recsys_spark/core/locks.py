"""One process at a time: a lock on a file, released when the process that holds it ends, however it
ends.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys_spark.core import log
from recsys_spark.core.errors import RecsysError

logger = log.get(__name__)
# Errors of file systems without locks (Databricks volumes, some NFS and FUSE mounts)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_PAUSE_S = 0.1


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on the file in this moment. False where there is no such
    file, and where the file system has no locks.
    """
    try:
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def alone(path: Path, *, busy: RecsysError | None = None, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock on the file at `path`, which is created; its folder must exist.

    Raises `busy` when another process still holds it after `wait_s`; with None it waits without
    limit. Where the file system has no locks, the log says so and other processes are not kept out.
    """
    until = time.monotonic() + wait_s
    with open(path, "w", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if busy is not None and time.monotonic() >= until:
                    raise busy from None
                time.sleep(_PAUSE_S)
            except OSError as problem:
                if problem.errno not in _NO_LOCKS:
                    raise
                logger.warning(log.fields(event="no_lock", file=path, problem=problem))
                break
        yield
