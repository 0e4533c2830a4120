"""Measured runs of one task and their paired differences from a reference, as the pages show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics import paired
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.metrics.paired import Key
from recsys_spark.report import results
from recsys_spark.report.content import Compared, Evaluation, Paired
from recsys_spark.report.results import Metric, Value
from recsys_spark.stages import comparable, measured
from recsys_spark.stages.comparable import Measured


def compared(lake: Lake, alike: Mapping[str, Sequence[Measured]], recorded: Sequence[Run], *, reference: str = "",
             metric: str = "") -> list[Compared]:
    """A comparison for each task. reference: id of the scored run to hold the others against, where a task has it; metric: as `ndcg@10`.

    Raises ConfigError for a metric that no task has, DataError where values or replicas are missing.
    """
    evaluations = {task: _evaluation(lake, runs, recorded) for task, runs in alike.items()}
    column = _column(metric, [value for evaluation in evaluations.values() for value in evaluation.values]) if metric else None
    made = []
    for task, runs in alike.items():
        values = evaluations[task].values
        primary = column if column and any(value.column == column for value in values) else results.main_metric(values, task)
        chosen, why = _reference(runs, values, primary, comparable.baselines(runs, recorded), reference)
        made.append(Compared(evaluations[task], task, primary, chosen, why, runs[0].terms.replicas, tuple(_paired(runs, chosen, primary))))
    return made


def _evaluation(lake: Lake, runs: Sequence[Measured], recorded: Sequence[Run]) -> Evaluation:
    """The values of these runs and task alone, wherever they were measured; what is said of the split is the same for all of them."""
    values: list[Value] = []
    found: dict[str, dict[str, int]] = {}
    for evaluated in {one.evaluated.run_id: one.evaluated for one in runs}.values():
        of_runs = {one.scored.run_id: one for one in runs if one.evaluated.run_id == evaluated.run_id}
        rows = lake.read(c.METRICS, evaluated.output_versions.get(c.METRICS))
        values += [value for value in measured.values(rows, evaluated) if value.run_id in of_runs and value.task == runs[0].task]
        odd = evaluated.summary.get("found", {})
        found |= {one.scored.step: odd[one.scored.step] for one in of_runs.values() if one.scored.step in odd}
    return replace(measured.evaluation(runs[0].evaluated, values, recorded), found=found)


def _column(metric: str, values: Iterable[Value]) -> Metric:
    name, _, k = metric.partition("@")
    there = {written(value.column): value.column for value in values if value.slice == results.ALL}
    column = (name, int(k or 0)) if (k or "0").isdigit() else None
    if column not in there.values():
        raise ConfigError("--metric", found=repr(metric),
                          expected=f"one that was measured: {', '.join(sorted(there))}{nearest(metric, there)}")
    assert column is not None
    return column


def written(column: Metric) -> str:
    """`ndcg@10`: as the replicas name it."""
    return f"{column[0]}@{column[1]}" if column[1] else column[0]


def _reference(runs: Sequence[Measured], values: Iterable[Value], primary: Metric, baselines: Sequence[str], named: str) -> tuple[str, str]:
    """(run id, why this one)."""
    ids = [one.scored.run_id for one in runs]
    if named in ids:
        return named, "named as the reference"
    at = {value.run_id: value for value in values if value.slice == results.ALL and value.column == primary}
    if not baselines:
        return ids[0], "the first that was named; no baseline is among them"
    return max(baselines, key=lambda run_id: results.strength(at.get(run_id))), f"the strongest baseline in {results.title(primary)}"


def _paired(runs: Sequence[Measured], reference: str, primary: Metric) -> Iterable[Paired]:
    """Every metric over all users, with p-values corrected over the runs; the main one in every slice."""
    task = runs[0].task
    drawn = {one.scored.run_id: Path(one.evaluated.run_dir) / paired.FILE for one in runs}
    overall = _differences(drawn, reference, {path: paired.read(path, task=task, slice=results.ALL) for path in set(drawn.values())}, task)
    for metric in dict.fromkeys(metric for run, _, metric in overall):
        others = [key for key in overall if key[2] == metric]
        corrected = paired.holm([overall[key].p for key in others])
        for key, p in zip(others, corrected, strict=True):
            yield replace(_row(key, overall[key]), p=_number(overall[key].p), corrected=_number(p))
    main = {path: paired.read(path, task=task, metric=written(primary)) for path in set(drawn.values())}
    for key, difference in _differences(drawn, reference, main, task).items():
        if key[1] != results.ALL:
            yield _row(key, difference)


def _differences(drawn: Mapping[str, Path], reference: str, replicas: Mapping[Path, Mapping[Key, Replicates]],
                 task: str) -> dict[tuple[str, str, str], paired.Difference]:
    """{(run, slice, metric): run - reference}. Raises DataError where a file does not hold its run."""
    for run, path in drawn.items():
        if not any(key.of_run_id == run for key in replicas[path]):
            raise DataError(str(path), found=f"no replicas of run {run}", expected="those of every run that was evaluated",
                            remedy="evaluate again: the file is of another time than its run")
    bars = {key.slice: made for key, made in replicas[drawn[reference]].items() if key == (reference, task, key.slice)}
    found: dict[tuple[str, str, str], paired.Difference] = {}
    for run, path in drawn.items():
        for key, made in replicas[path].items():
            if run != reference and key.of_run_id == run and key.slice in bars:
                found |= {(run, key.slice, metric): one for metric, one in paired.difference(made, bars[key.slice]).items()}
    return found


def _row(key: tuple[str, str, str], difference: paired.Difference) -> Paired:
    run, label, metric = key
    name, _, k = metric.partition("@")
    return Paired(run, (name, int(k or 0)), label, _number(difference.value), _number(difference.low), _number(difference.high))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
