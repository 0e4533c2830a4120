"""What a stage gets (`Context`) and gives back (`Outcome`), and the base of its configuration
(`Job`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from recsys_spark.lake.tables import Lake


class StepOf:
    """Marks a job's field as the name of an earlier step of one of these stages (or as a list of
    such names): the pipeline runs that one first.
    """

    def __init__(self, *stages: str) -> None:
        self.stages = stages


# Stages that leave what `score` reads
TRAINED = ("train_baseline", "train_als", "train_deep")


class SparkSettings(Settings):
    master: str = "local[*]"
    driver_memory: str = "2g"
    # None: two a core of this machine; on a cluster what it is set to (Spark: 200, fewer where
    # there is little data)
    shuffle_partitions: int | None = Field(None, ge=1)
    # Names may be nested, as `env.spark.conf.spark.ui.enabled=true` on the command line leaves them
    conf: dict[str, str] = Field(default_factory=dict)

    @field_validator("conf", mode="before")
    @classmethod
    def _dotted(cls, conf: Any) -> Any:
        return dict(_flat(conf)) if isinstance(conf, dict) else conf


def _flat(conf: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as Spark writes it) of a mapping, of those in it too."""
    for name, value in conf.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", str(value).lower() if isinstance(value, bool) else str(value)


class Env(Settings):
    """Where a pipeline runs. `lake`: a path, an object-store URL or catalog.schema. `runs`: run
    folders.
    """

    lake: str
    runs: str
    # After so long `clean` takes away runs on which nothing builds, and versions that none names
    retention_days: int = Field(30, ge=0)
    spark: SparkSettings = SparkSettings()

    @field_validator("lake")
    @classmethod
    def _place(cls, lake: str) -> str:
        if _TABLE.fullmatch(lake):
            *schema, _ = lake.split(".")
            raise ValueError(
                f"catalog.schema, a path or a URL (a lake is a schema with many tables, not one "
                f"table: {'.'.join(schema[:2])}; a folder of this name: ./{lake})"
            )
        return lake


# Three names or more: of a table, where `env.lake` wants a schema
_TABLE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){2,}")


class Job(Settings):
    """Base of every stage's configuration: one entry under `steps:`."""

    stage: str
    # For so many days a completed run of the step stands for it, though what it builds on has
    # changed since: a model that is trained anew once a week. 0: for none
    every_days: float = Field(0, ge=0, exclude_if=lambda days: not days)


@dataclass
class Context:
    spark: SparkSession
    lake: Lake
    env: Env
    pipeline: str
    step: str
    run_id: str
    run_dir: Path  # exists, empty or with what a killed run left; only this run writes there
    inputs: dict[str, Run]  # step name -> its completed run, for every step that the job names
    seed: int
    now: float  # seconds since 1970, when the run began
    read_versions: dict[str, int] = field(default_factory=dict)

    def read(self, table: str, step: str) -> DataFrame:
        """The table at the version that the completed run of `step` left it in; the version goes
        into the run's record.
        """
        version = self.inputs[step].output_versions[table]
        # What several steps left, each at its own version
        if self.read_versions.setdefault(table, version) != version:
            self.read_versions[f"{table} of {step}"] = version
        return self.lake.read(table, version)

    def input_dir(self, step: str) -> Path:
        return Path(self.inputs[step].run_dir)


@dataclass
class Outcome:
    # Delta table -> version after this run, also of unchanged ones it vouches for
    tables: dict[str, int] = field(default_factory=dict)
    shard_fingerprint: str = ""
    summary: dict[str, Any] = field(default_factory=dict)  # JSON-able facts: rows, seconds, metrics
