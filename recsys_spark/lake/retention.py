"""What of old versions is kept: files go by `vacuum`, but none that a recorded run names."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.lake import commits, records
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake

# Tables whose rows are of one run; `interactions` and the indices are all runs' own, and current
# lists are replaced, never cleaned
OF_RUN = tuple(
    name
    for name, schema in SCHEMAS.items()
    if c.RUN_ID in schema.fieldNames() and name != c.CURRENT
)
_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
_TOLD = "spark.databricks.delta.vacuum.logging.enabled"
_LISTING = "spark.sql.sources.parallelPartitionDiscovery.parallelism"


def delta(lake: Lake, name: str) -> DeltaTable:
    return (DeltaTable.forName if lake.in_catalog else DeltaTable.forPath)(
        lake.spark, lake.where(name)
    )


def vacuum(lake: Lake, name: str, *, hours: float) -> None:
    """Remove the files that no version of the last `hours` has. Delta's own limit, ten years for
    our tables, guards against other jobs' vacuums, and is set aside for this one.
    """
    lake.release()
    with _for_vacuum(lake):
        delta(lake, name).vacuum(hours)


def named_versions(runs: Collection[Run]) -> dict[str, set[int]]:
    """{table: versions that the runs have read or left}."""
    versions: dict[str, set[int]] = {}
    for run in runs:
        for table, version in (*run.input_versions.items(), *run.output_versions.items()):
            versions.setdefault(table.partition(" of ")[0], set()).add(version)
    return versions


def hours_needed(lake: Lake, name: str, versions: Collection[int], *, least: float) -> float:
    """For how many hours back `vacuum` must keep files, so that these versions stay readable: a
    file of a version was removed, if at all, after that version was written.
    """
    if not versions:
        return least
    written = delta(lake, name).history().where(F.col("version") >= min(versions))
    oldest = written.agg(F.min(F.unix_millis("timestamp"))).collect()[0][0]
    return least if oldest is None else max(least, 1 + (time.time() - oldest / 1000) / 3600)


def rows_of(lake: Lake, run_ids: Collection[str]) -> dict[str, int]:
    """{table: rows of these runs}, of the tables that are there and have some."""
    counts = {
        name: lake.read(name).where(F.col(c.RUN_ID).isin(*run_ids)).count()
        for name in OF_RUN
        if run_ids and lake.exists(name)
    }
    return {name: count for name, count in counts.items() if count}


def remove_runs(lake: Lake, run_ids: Collection[str], tables: Collection[str]) -> None:
    """Delete the rows of these runs; those of `runs` itself last, so that a removal that is cut
    short goes on when it is asked for again.
    """
    for name in sorted(tables, key=lambda table: table == c.RUNS):
        delete = partial(delta(lake, name).delete, F.col(c.RUN_ID).isin(*run_ids))
        commits.commit(lake.where(name), delete)


def move_runs(lake: Lake, runs: Collection[Run], versions: Mapping[str, int]) -> list[Run]:
    """Let the recorded runs name these versions of the tables, whose older ones are gone. Returns
    the runs that changed.
    """
    changed = []
    for run in runs:
        moved = run.model_copy(
            update={
                side: {
                    table: versions.get(table.partition(" of ")[0], version)
                    for table, version in getattr(run, side).items()
                }
                for side in ("input_versions", "output_versions")
            }
        )
        if moved != run:
            changed.append(moved)
    if changed:
        merge = (
            delta(lake, c.RUNS)
            .alias("stored")
            .merge(
                records.rows(lake.spark, changed, lake.runs_dir).alias("new"),
                f"stored.{c.RUN_ID} = new.{c.RUN_ID}",
            )
            .whenMatchedUpdateAll()
        )
        commits.commit(lake.where(c.RUNS), merge.execute)
    return changed


def bytes_of(lake: Lake, run_ids: Collection[str], tables: Collection[str]) -> int:
    """Bytes of the files in the runs' partitions, old versions included; 0 in a catalog, which does
    not say.
    """
    if lake.in_catalog:
        return 0
    jvm: Any = lake.spark._jvm
    conf = lake.spark._jsparkSession.sessionState().newHadoopConf()
    total = 0
    for name in tables:
        for run_id in run_ids:
            folder = jvm.org.apache.hadoop.fs.Path(f"{lake.where(name)}/{c.RUN_ID}={run_id}")
            system = folder.getFileSystem(conf)
            if system.exists(folder):
                total += int(system.getContentSummary(folder).getLength())
    return total


@contextmanager
def _for_vacuum(lake: Lake) -> Iterator[None]:
    """Delta's limit off, as many listing tasks as there are cores (by default 10,000), and no
    commits that tell of a vacuum: they would be versions of their own.
    """
    conf = lake.spark.conf
    wanted = {_CHECK: "false", _TOLD: "false", _LISTING: str(_parallelism(lake))}
    before = {name: conf.get(name) for name in wanted}
    try:
        for name, value in wanted.items():
            conf.set(name, value)
        yield
    finally:
        for name, earlier in before.items():
            if earlier is None:
                conf.unset(name)
            else:
                conf.set(name, earlier)


def _parallelism(lake: Lake) -> int:
    return max(2, lake.spark.sparkContext.defaultParallelism)
