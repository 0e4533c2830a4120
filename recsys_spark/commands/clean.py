"""Removes old runs: `recsys-spark clean`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.commands import forget, lineage, rollback
from recsys_spark.core import columns as c
from recsys_spark.core import locks, log
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.lake import retention
from recsys_spark.lake.schemas import PARTITIONS, SCHEMAS
from recsys_spark.lake.tables import Lake

logger = log.get(__name__)
_AGE = re.compile(r"(\d+)([dh])")
_SECONDS = {"d": 86_400.0, "h": 3600.0}


@dataclass(frozen=True)
class Leftover:
    """What can be removed. runs: old recorded runs on which no kept run builds and old failures,
    oldest first. unfinished: folders of runs that left no record.
    """

    runs: tuple[Run, ...]
    unfinished: tuple[Path, ...]
    rows: dict[str, int]  # {table: rows of the runs}
    folder_bytes: int
    table_bytes: int  # bytes of the runs' partitions; 0 where the tables are in a catalog


def seconds_of(age: str) -> float:
    """`30d` or `12h`, in seconds. Raises ConfigError.

    >>> seconds_of("30d"), seconds_of("12h")
    (2592000.0, 43200.0)
    """
    parts = _AGE.fullmatch(age)
    if parts is None:
        raise ConfigError("option --older-than", found=age, expected="for example 30d or 12h")
    return int(parts[1]) * _SECONDS[parts[2]]


def leftover(
    lake: Lake, *, runs_dir: Path, kept: Collection[str], older_than_s: float, now: float
) -> Leftover:
    """Runs and folders that can be removed. kept: run ids that stay at any age, because the
    pipeline file would reuse them.
    """
    runs = lake.attempts()
    young = {run.run_id for run in runs if now - run.ended_at < older_than_s}
    erasures = {run.run_id for run in runs if run.stage == forget.STAGE}
    needed = lineage.below(runs, young | set(kept) | erasures | _current(runs))
    old = tuple(run for run in runs if run.run_id not in needed)
    ids = [run.run_id for run in old]
    unfinished = tuple(_unfinished(runs_dir, {run.run_id for run in runs}, older_than_s, now))
    rows = retention.rows_of(lake, ids)
    partitioned = [name for name in rows if PARTITIONS.get(name) == (c.RUN_ID,)]
    folders = [*(Path(run.run_dir) for run in old), *unfinished]
    return Leftover(
        old,
        unfinished,
        rows,
        sum(map(folder_bytes, folders)),
        retention.bytes_of(lake, ids, partitioned),
    )


def clean(lake: Lake, gone: Leftover, *, retention_s: float) -> dict[str, float]:
    """Removes the runs in `gone`, then the files of table versions that are older than
    `retention_s` and that no run names any more. Returns {table: hours for which versions were
    kept}.

    Rows are removed before folders and the table `runs` last: after an interruption, the same
    command does the rest.
    """
    ids = [run.run_id for run in gone.runs]
    if ids:
        retention.remove_runs(lake, ids, gone.rows)
    for folder in [*(Path(run.run_dir) for run in gone.runs), *gone.unfinished]:
        _remove(folder)
    named, hours = retention.named_versions(lake.runs()), {}
    for name in SCHEMAS:
        if lake.exists(name):
            hours[name] = retention.hours_needed(
                lake, name, named.get(name, ()), least=retention_s / 3600
            )
            retention.vacuum(lake, name, hours=hours[name])
    logger.info(log.fields(event="cleaned", runs=len(ids), folders=len(gone.unfinished)))
    return hours


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _current(runs: Iterable[Run]) -> set[str]:
    """The runs whose lists are current, one of each name: those that switched last."""
    switched = [run for run in runs if run.stage in rollback.SWITCHES and run.state == "done"]
    by_name = {run.summary["name"]: run.run_id for run in sorted(switched, key=_generation)}
    return set(by_name.values())


def _generation(run: Run) -> int:
    return int(run.summary["generation"])


def _unfinished(
    runs_dir: Path, recorded: Collection[str], older_than_s: float, now: float
) -> list[Path]:
    """Folders of runs that were begun and are not in the table `runs`. A folder with a run.json was
    completed, perhaps for another lake, and stays.
    """
    begun = sorted(path.parent for path in runs_dir.glob("*/job.json"))
    return [
        folder
        for folder in begun
        if folder.name not in recorded
        and not (folder / "run.json").exists()
        and now - _last_change(folder) >= older_than_s
    ]


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _remove(folder: Path) -> None:
    """Removes a folder unless a process works in it."""
    if not folder.is_dir():
        return
    busy = RecsysError(
        f"run folder {folder}",
        found="a process that works in it",
        expected="none",
        remedy="wait until it ends, then run the same command again",
    )
    with locks.alone(folder / ".lock", busy=busy):
        shutil.rmtree(folder)
