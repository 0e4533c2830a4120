"""Erase a user: `recsys-spark forget USER`."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.commands import lineage
from recsys_spark.core import artifacts, log
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError
from recsys_spark.etl.split import RULES
from recsys_spark.lake import erasure, retention
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import runner

logger = log.get(__name__)
STAGE = "forget"


@dataclass(frozen=True)
class Traces:
    """Data of a user in the lake. built: runs built on a split that contains the user, oldest
    first.
    """

    user_id: str
    sessions: bool  # whether a split has sessions, whose ids contain the user's id
    rows: dict[str, int]
    built: tuple[Run, ...]


def traces(lake: Lake, user_id: str, *, runs_dir: Path) -> Traces:
    """Rows and runs that hold the user. Raises DataError for a user in no table, unless an erasure
    was begun and not completed: older versions may still have the user.
    """
    runs = lake.runs()
    sessions = any(run.stage == "prepare" and _of_sessions(run) for run in runs)
    rows = erasure.rows(lake, user_id, sessions=sessions)
    if not any(rows.values()) and _begun(runs_dir) is None:
        raise DataError(
            f"user {user_id!r}",
            found="in no table",
            expected="a user_id of the interactions table",
        )
    held = erasure.splits(lake, user_id, sessions=sessions)
    return Traces(user_id, sessions, rows, tuple(lineage.above(runs, held)))


def forget(lake: Lake, user_traces: Traces, *, runs_dir: Path, pipeline: str, rebuild: bool) -> Run:
    """Erases the user from every table and its history, and records the erasure without the id.
    Recorded runs then name the versions that remain. rebuild: removes the runs built on the user's
    events and their folders, so that the pipeline runs those steps again.

    If the process is killed, rows already erased stay erased; the same command does the rest.
    """
    began = time.time()
    folder = _begun(runs_dir) or runs_dir.absolute() / f"{STAGE}-{uuid.uuid4().hex[:10]}"
    artifacts.write_text(folder / "job.json", json.dumps({"stage": STAGE, "rebuild": rebuild}))
    versions = erasure.erase(
        lake, user_traces.user_id, list(user_traces.rows), sessions=user_traces.sessions
    )
    for run in retention.move_runs(lake, lake.runs(), versions):
        if Path(run.run_dir).is_dir():
            artifacts.write_model(Path(run.run_dir) / "run.json", run)
    if rebuild and user_traces.built:
        retention.remove_runs(lake, [run.run_id for run in user_traces.built], [c.RUNS])
        for run in user_traces.built:
            shutil.rmtree(run.run_dir, ignore_errors=True)
    record = Run(
        run_id=folder.name,
        pipeline=pipeline,
        step=STAGE,
        stage=STAGE,
        key=folder.name,
        config={"rebuild": rebuild},
        upstream={},
        input_versions={},
        output_versions={},  # none, so that no old version is kept for this record
        run_dir=str(folder),
        code_version=runner.code_version(),
        seed=0,
        started_at=began,
        ended_at=time.time(),
        summary={
            "rows": user_traces.rows,
            "versions": versions,
            "built": [run.run_id for run in user_traces.built],
            "rebuild": rebuild,
        },
    )
    lake.add_run(record)
    artifacts.write_model(folder / "run.json", record)
    logger.info(log.fields(event="forgotten", run_id=folder.name, **user_traces.rows))
    return record


def _of_sessions(prepared: Run) -> bool:
    rule = RULES.get(str(prepared.config.get("rule")))
    return rule is not None and rule.query_kind != "user"


def _begun(runs_dir: Path) -> Path | None:
    """The folder of an erasure that was begun and not completed."""
    folders = (path.parent.absolute() for path in runs_dir.glob(f"{STAGE}-*/job.json"))
    return next((folder for folder in folders if not (folder / "run.json").exists()), None)
