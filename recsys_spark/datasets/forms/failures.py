"""What Spark says of a source that cannot be read, in one line that says what to do."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Iterator

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger

from recsys_spark.core.errors import DataError

_MENDABLE = (  # what Spark's text has in it, what was found, the remedy
    (
        "PATH_NOT_FOUND",
        "a file that went while it was read",
        "run the same command again when nothing changes the files",
    ),
    (
        "FILE_NOT_EXIST",
        "a file that went while it was read",
        "run the same command again; a vacuum may have removed files of this version",
    ),
    ("Permission denied", "no permission to read it", "make it readable for this user"),
    ("AccessDenied", "no permission to read it", "give the job's identity the right to read it"),
    ("PERMISSION_DENIED", "no permission to read it", "ask the owner for SELECT on it"),
    ("INSUFFICIENT_PERMISSIONS", "no permission to read it", "ask the owner for SELECT on it"),
    ("AccessControlException", "no permission to read it", "give the job's user this right"),
    (
        "COLUMN_ALREADY_EXISTS",
        "names of columns that differ in case alone",
        "rename one of them, or read the files through a query",
    ),
    (
        "CANNOT_MERGE",
        "files whose columns have different types",
        "give a pattern for files of one layout, or write them anew alike",
    ),
    (
        "No FileSystem for scheme",
        "a store that this Spark cannot reach",
        "add its connector under env.spark.conf (spark.jars.packages)",
    ),
    (
        "DATA_SOURCE_NOT_FOUND",
        "a format that this Spark cannot read",
        "add its package under env.spark.conf, such as spark.jars.packages: "
        "org.apache.spark:spark-avro_2.13:VERSION",
    ),
    (
        "Failed to find data source: avro",
        "Avro, which this Spark cannot read without its package",
        "add spark.jars.packages: org.apache.spark:spark-avro_2.13:VERSION under env.spark.conf",
    ),
    (
        "FAILED_READ_FILE",
        "a file that cannot be read to its end",
        "it was cut short or changed while it was read: copy it again, then run again",
    ),
)


@contextmanager
def spelled_out(thing: str) -> Iterator[None]:
    """Raises DataError for what a user can mend in Spark's error, or in one of a file on this
    machine, else that error.
    """
    try:
        with quiet():
            yield
    except (PermissionError, FileNotFoundError) as problem:
        is_there = isinstance(problem, PermissionError)
        _, found, remedy = _MENDABLE[2 if is_there else 0]
        raise DataError(
            thing,
            found=f"{found} ({problem.filename})",
            expected="rows that can be read; nothing was published",
            remedy=remedy,
        ) from None
    except (PySparkException, Py4JJavaError) as problem:
        text = str(problem)
        for sign, found, remedy in _MENDABLE:
            if sign in text:
                raise DataError(
                    thing,
                    found=f"{found}{_file(text)}",
                    expected="rows that can be read; nothing was published",
                    remedy=remedy,
                ) from None
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Spark writes the whole of an analysis error to the log, traceback included."""
    # By Spark's own class: a plain logger of the name would break the next error that Spark logs
    names = ("SQLQueryContextLogger", "DataFrameQueryContextLogger")
    loggers = [PySparkLogger.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _file(text: str) -> str:
    name = re.search(r"(?:reading file|File) (\w+:/\S+?)[.,]?\s", text)
    return f" ({name[1]})" if name else ""
