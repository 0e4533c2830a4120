"""The errors that a user can fix. `cli` and `jobs` print the message in one line and exit with code
2.
"""

from __future__ import annotations

import errno
import os
import re
from difflib import get_close_matches
from typing import Any, Iterable


class RecsysError(Exception):
    """An error that the user can fix: names the thing, what was found and expected, and the remedy.

    >>> print(RecsysError("data folder", found="/nowhere", expected="a folder with ratings.dat",
    ...                   remedy="set RECSYS_DATA"))
    data folder: found /nowhere; expected a folder with ratings.dat. To mend: set RECSYS_DATA
    """

    exit_code = 2

    def __init__(
        self, thing: str, *, found: Any = None, expected: Any = None, remedy: str = ""
    ) -> None:
        self.thing, self.found, self.expected, self.remedy = thing, found, expected, remedy
        facts = [f"found {found}"] if found is not None else []
        facts += [f"expected {expected}"] if expected is not None else []
        message = thing + (": " + "; ".join(facts) if facts else "")
        super().__init__(message + (f". To mend: {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple:
        # Spark and process pools pickle exceptions; keyword-only arguments need this method.
        return _rebuild, (type(self), self.thing, self.found, self.expected, self.remedy)


def _rebuild(
    kind: type[RecsysError], thing: str, found: Any, expected: Any, remedy: str
) -> RecsysError:
    return kind(thing, found=found, expected=expected, remedy=remedy)


class ConfigError(RecsysError):
    """A configuration file or a `key=value` argument that cannot be used."""


class DataError(RecsysError):
    """Raw input that is missing, cut short, wrong or too dirty."""


class QualityError(DataError):
    """Raw input of which too much is unusable; has an exit code of its own, for schedulers."""

    exit_code = 3


class TableError(RecsysError):
    """A Delta table that is missing or has another schema than its contract."""


class ShardError(RecsysError):
    """A shard set that does not match its manifest, or cannot feed this many workers."""


class CheckpointError(RecsysError):
    """A checkpoint that is cut short, or belongs to another model or other shards."""


class WorkerError(RecsysError):
    """A training worker that died, hung or could not start."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or an empty string when nothing is close."""
    close = get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(problem: Exception) -> str:
    """What an error says first, without Spark's codes, in at most 200 characters; its kind where it
    says nothing.

    >>> first_line(ValueError("[TABLE_GONE.X] No such table. SQLSTATE: 42P01\\nmore"))
    'No such table.'
    """
    lines = str(problem).strip().splitlines()
    if not lines:
        return type(problem).__name__
    return re.sub(r"^\[[A-Z0-9_.]+\] | SQLSTATE: \w+.*$", "", lines[0])[:200]


def in_one_line(problem: Exception) -> str:
    """All that one of ours says, or what another error says first, on one line."""
    text = str(problem) if isinstance(problem, RecsysError) else first_line(problem)
    return " ".join(text.split()) or type(problem).__name__


def is_disk_full(problem: Exception | str) -> bool:
    """True for an out-of-space error of the operating system, also one reported by Spark's JVM or
    another process.
    """
    return getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(
        errno.ENOSPC
    ) in str(problem)
