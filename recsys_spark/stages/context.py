"""What a stage gets (`Context`) and gives back (`Outcome`), and the base of its configuration (`Job`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from recsys_spark.lake.tables import Lake


class StepName:
    """Marks a job's field as the name of an earlier step (or a list of them): the pipeline runs that one first."""


Ref = Annotated[str, StepName()]
OptionalRef = Annotated[str | None, StepName()]
Refs = Annotated[tuple[str, ...], StepName()]


class SparkSettings(Settings):
    master: str = "local[*]"
    driver_memory: str = "2g"
    shuffle_partitions: int = Field(4, ge=1)
    conf: dict[str, str] = Field(default_factory=dict)


class Env(Settings):
    """Where a pipeline runs. `lake`: a path, an object-store URL or catalog.schema. `runs`: run folders."""

    lake: str
    runs: str
    spark: SparkSettings = SparkSettings()


class Job(Settings):
    """Base of every stage's configuration: one entry under `steps:`."""

    stage: str


@dataclass
class Context:
    spark: SparkSession
    lake: Lake
    env: Env
    pipeline: str
    step: str
    run_id: str
    run_dir: Path  # exists, empty or with what a killed run left; only this run writes there
    inputs: dict[str, Run]  # step name -> its completed run, for every Ref of the job
    seed: int
    now: float  # seconds since 1970, when the run began
    read_versions: dict[str, int] = field(default_factory=dict)

    def read(self, table: str, step: str) -> DataFrame:
        """The table at the version that the completed run of `step` left it in; the version goes into the run's record."""
        version = self.inputs[step].output_versions[table]
        if self.read_versions.setdefault(table, version) != version:  # what several steps left, each at its own version
            self.read_versions[f"{table} of {step}"] = version
        return self.lake.read(table, version)

    def input_dir(self, step: str) -> Path:
        return Path(self.inputs[step].run_dir)


@dataclass
class Outcome:
    tables: dict[str, int] = field(default_factory=dict)  # Delta table -> version after this run, also of unchanged ones it vouches for
    shard_fingerprint: str = ""
    summary: dict[str, Any] = field(default_factory=dict)  # JSON-able facts: rows, seconds, metrics
