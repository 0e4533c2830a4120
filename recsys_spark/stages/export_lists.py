"""Published lists -> Parquet files, a table of a database, or an SQLite file, for what reads no
Delta. Each takes one whole generation in one step, and a second run leaves it as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import log
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError
from recsys_spark.lake.exports import jdbc, parquet, sqlite
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome, StepOf

logger = log.get(__name__)
# schema.table of the databases' plain names: it stands in statements
TABLE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,2}$"


class ToFolder(Settings):
    path: str  # a folder or an object-store URL


class ToDatabase(Settings):
    url: str = Field(pattern="^jdbc:")
    table: str = Field("recommendations", pattern=TABLE)
    user: str = ""
    password_env: str = ""  # the environment variable that holds the password: no run records it
    driver: str = ""  # class of the JDBC driver, where the url does not say it


class Job(context.Job):
    stage: Literal["export_lists"] = "export_lists"
    of: Annotated[str, StepOf("publish")]
    # One of these
    parquet: ToFolder | None = None
    jdbc: ToDatabase | None = None
    sqlite: ToFolder | None = None  # `path` is the file

    @model_validator(mode="after")
    def _one_place(self) -> Job:
        if sum(place is not None for place in (self.parquet, self.jdbc, self.sqlite)) != 1:
            raise ValueError("one of parquet, jdbc and sqlite")
        return self


def run(ctx: Context, job: Job) -> Outcome:
    """Raises DataError when the place does not take the lists, which are then as they were there;
    ConfigError for a variable that is not set or a driver that is missing.
    """
    began, published = time.monotonic(), ctx.inputs[job.of]
    rows = deliver(ctx.read(c.CURRENT, job.of), published.summary, job)
    summary = {
        "name": published.summary["name"],
        "generation": published.summary["generation"],
        "to": place(job),
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
    }
    logger.info(log.fields(stage=job.stage, **summary))
    return Outcome(summary=summary)


def deliver(current: DataFrame, published: Mapping[str, Any], job: Job) -> int:
    """Write the lists of `current_recommendations` that a publish step or a rollback switched to.
    published: its summary. Returns their rows; raises what `run` does.
    """
    name, generation = published["name"], int(published["generation"])
    lists = current.where(F.col(c.NAME) == name)
    rows = lists.count()
    if job.parquet is not None:
        parquet.write(lists, job.parquet.path, name=name, generation=generation, rows=rows)
    elif job.jdbc is not None:
        to = job.jdbc
        jdbc.write(
            lists,
            url=to.url,
            table=to.table,
            name=name,
            suffix=f"{c.GENERATION}_{generation}",
            properties=_properties(to),
        )
    elif job.sqlite is not None:
        sqlite.write(lists, Path(job.sqlite.path), name=name, generation=generation)
    return rows


def plan(ctx: Context, job: Job) -> dict[str, Any]:
    if job.jdbc is not None:
        _properties(job.jdbc)  # a variable that is missing is said now
    return {"to": place(job)}


def place(job: Job) -> str:
    """Where the lists go, without what is secret."""
    if job.jdbc is not None:
        return f"{job.jdbc.url.split('?')[0]} {job.jdbc.table}"
    folder = job.parquet or job.sqlite
    assert folder is not None, "one of three"
    return folder.path


def _properties(to: ToDatabase) -> dict[str, str]:
    properties = {"user": to.user, "driver": to.driver}
    if to.password_env:
        if to.password_env not in os.environ:
            raise ConfigError(
                f"{to.url.split('?')[0]}, password_env",
                found=f"{to.password_env}, which is not set",
                expected="an environment variable that holds the password",
                remedy=f"export {to.password_env}=...",
            )
        properties["password"] = os.environ[to.password_env]
    return {key: value for key, value in properties.items() if value}
