"""Makes the lists of an earlier publish step current again: `recsys-spark rollback`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError, nearest
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import production, runner
from recsys_spark.stages import export_lists, publish

STAGE = "rollback"
SWITCHES = ("publish", STAGE)  # stages whose runs make lists current


def target(lake: Lake, name: str, run_id: str = "") -> Run:
    """The publish run to go back to: the named one, else that of the lists before the current ones.
    Raises ConfigError where there is none.
    """
    published = [
        run for run in lake.runs() if run.stage in SWITCHES and run.summary["name"] == name
    ]
    runs = {run.run_id: run for run in published if run.stage == "publish"}
    if run_id:
        if run_id not in runs:
            raise ConfigError(
                f"run {run_id!r}",
                found=f"no publish run of the lists {name!r}",
                expected=f"one of {', '.join(runs) or 'none'}{nearest(run_id, runs)}",
            )
        return runs[run_id]
    generation = publish.current_generation(lake, name) if lake.exists(c.CURRENT) else 0
    now = next((run for run in published if run.summary["generation"] == generation), None)
    current = now and (now.config["to"] if now.stage == STAGE else now.run_id)
    order = [run.run_id for run in sorted(runs.values(), key=lambda run: run.ended_at)]
    earlier = order[: order.index(current)] if current in order else []
    if not earlier:
        raise ConfigError(
            f"lists {name!r}",
            found="none published before the current ones",
            expected="an earlier publish run",
        )
    return runs[earlier[-1]]


def rollback(lake: Lake, to: Run, *, pipeline: str, runs_dir: Path, now: float) -> Run:
    """Switch to the lists that `to` published, in one commit, and record it. Raises TableError when
    they are no longer there, or another publisher was first.
    """
    version = to.output_versions[c.CURRENT]
    lists = lake.read(c.CURRENT, version).where(F.col(c.NAME) == to.summary["name"])
    held = lists.select(c.RUN_ID).first()
    if held is None or held[0] != to.summary["of_run_id"]:
        raise TableError(
            f"lists of {to.run_id}",
            found="none: older versions of the table went with an erasure",
            expected=f"version {version} of {lake.where(c.CURRENT)}",
            remedy="publish again",
        )
    generation, new = publish.switch(lake, lists, to.summary["name"], now)
    key = artifacts.fingerprint({"rollback": to.run_id, "generation": generation})
    record = Run(
        run_id=f"{STAGE}-{key[:10]}",
        pipeline=pipeline,
        step=STAGE,
        stage=STAGE,
        key=key,
        config={"to": to.run_id},
        upstream={to.step: to.run_id},
        input_versions={c.CURRENT: version},
        output_versions={c.CURRENT: new},
        run_dir=str(runs_dir.absolute() / f"{STAGE}-{key[:10]}"),
        code_version=runner.code_version(),
        seed=to.seed,
        started_at=now,
        ended_at=now,
        summary={
            "name": to.summary["name"],
            "generation": generation,
            "model": to.summary["model"],
        },
    )
    lake.add_run(record)
    return record


def export(lake: Lake, record: Run, exports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write what a rollback made current to the places that `production.exports` of a pipeline
    names. Returns them; raises what an export_lists step does, the lists of Delta being switched.
    """
    current = lake.read(c.CURRENT, record.output_versions[c.CURRENT])
    jobs = [export_lists.Job(of=production.PUBLISH, **place) for place in exports.values()]
    for job in jobs:
        export_lists.deliver(current, record.summary, job)
    return [export_lists.place(job) for job in jobs]
