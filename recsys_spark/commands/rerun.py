"""Repeats a recorded run: same configuration, same upstream runs, same Delta versions (time
travel), under a new id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator

from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError, nearest
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import runner as pipelines
from recsys_spark.pipeline.steps import Pipeline, Step, parse, references

# Suffixes of facts that may differ between equal runs
TIMINGS = (
    "seconds",
    "_s",
    "_bytes",
    "_per_s",
)


@dataclass(frozen=True)
class Difference:
    fact: str  # dotted name in the summary
    before: Any
    after: Any


def rerun(
    pipeline: Pipeline, run_id: str, *, lake: Lake, listener: pipelines.Listener
) -> tuple[Run, Run]:
    """(the recorded run, its repetition). Raises RecsysError for an unknown run id."""
    by_id = {run.run_id: run for run in lake.runs()}
    if run_id not in by_id:
        raise RecsysError(
            f"run {run_id!r}",
            found="not in the runs table",
            expected=f"a run id{nearest(run_id, by_id)}",
            remedy="list them with `recsys-spark runs`",
        )
    before = by_id[run_id]
    module, job = parse(before.stage, before.config, source=f"run {run_id}", key="config")
    inputs = {step: by_id[upstream] for step, upstream in before.upstream.items()}
    step = Step(
        before.step,
        module,
        job,
        tuple(name for names in references(job).values() for name in names),
    )
    again = sum(other.startswith(f"{run_id}-rerun") for other in by_id) + 1
    new_id = f"{run_id}-rerun{again}"
    seeded = pipeline.model_copy(update={"seed": before.seed})
    return before, pipelines.execute(
        seeded,
        step,
        inputs,
        lake=lake,
        key=f"{before.key}/{new_id}",
        run_id=new_id,
        listener=listener,
    )


def differences(
    before: dict[str, Any], after: dict[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """Facts that differ between two summaries, except timings and memory sizes."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if name.endswith(TIMINGS):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield Difference(prefix + name, old, new)
