"""Measured runs of one task and their paired differences from a reference, in the form that the
pages show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recsys_spark.commands import comparable
from recsys_spark.commands.comparable import Measured
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.lake.direct import Reader
from recsys_spark.metrics import paired
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.metrics.paired import Key
from recsys_spark.report import results
from recsys_spark.report.content import Compared, Evaluation, Paired
from recsys_spark.report.results import Metric, Value
from recsys_spark.stages.results import measured


def compared(
    lake: Reader,
    alike: Mapping[str, Sequence[Measured]],
    recorded: Sequence[Run],
    *,
    reference: str = "",
    metric: str = "",
) -> list[Compared]:
    """A comparison for each task. reference: id of the scored run to compare the others with, for
    tasks that have it; metric: main metric, such as `ndcg@10`.

    Raises ConfigError for a metric that no task has, DataError where values or replicas are
    missing.
    """
    evaluations = {task: _evaluation(lake, runs, recorded) for task, runs in alike.items()}
    column = (
        _column(
            metric, [value for evaluation in evaluations.values() for value in evaluation.values]
        )
        if metric
        else None
    )
    comparisons = []
    for task, runs in alike.items():
        values = evaluations[task].values
        primary = (
            column
            if column and any(value.column == column for value in values)
            else results.main_metric(values, task)
        )
        chosen, why = _reference(
            runs, values, primary, comparable.baselines(runs, recorded), reference
        )
        comparisons.append(
            Compared(
                evaluations[task],
                task,
                primary,
                chosen,
                why,
                runs[0].terms.replicas,
                tuple(_paired(runs, chosen, primary)),
            )
        )
    return comparisons


def _evaluation(lake: Reader, runs: Sequence[Measured], recorded: Sequence[Run]) -> Evaluation:
    """The values of these runs on their task, from all evaluate runs that measured them; the facts
    on the split are the same for all of them.
    """
    values: list[Value] = []
    odd_counts: dict[str, dict[str, int]] = {}
    for evaluated in {
        measurement.evaluated.run_id: measurement.evaluated for measurement in runs
    }.values():
        of_runs = {
            measurement.scored.run_id: measurement
            for measurement in runs
            if measurement.evaluated.run_id == evaluated.run_id
        }
        rows = lake.table(
            c.METRICS,
            evaluated.output_versions.get(c.METRICS),
            where={c.RUN_ID: [evaluated.run_id]},
        )
        values += [
            value
            for value in measured.values(rows.to_pylist(), evaluated)
            if value.run_id in of_runs and value.task == runs[0].task
        ]
        odd = evaluated.summary.get("found", {})
        odd_counts |= {
            measurement.scored.step: odd[measurement.scored.step]
            for measurement in of_runs.values()
            if measurement.scored.step in odd
        }
    return replace(measured.evaluation(runs[0].evaluated, values, recorded), found=odd_counts)


def _column(metric: str, values: Iterable[Value]) -> Metric:
    name, _, k = metric.partition("@")
    by_name = {
        results.written(value.column): value.column
        for value in values
        if value.slice == results.ALL
    }
    column = (name, int(k or 0)) if (k or "0").isdigit() else None
    if column not in by_name.values():
        raise ConfigError(
            "--metric",
            found=repr(metric),
            expected=f"one that was measured: {', '.join(sorted(by_name))}"
            f"{nearest(metric, by_name)}",
        )
    assert column is not None
    return column


def _reference(
    runs: Sequence[Measured],
    values: Iterable[Value],
    primary: Metric,
    baselines: Sequence[str],
    named: str,
) -> tuple[str, str]:
    """(run id of the reference, reason for the choice)."""
    ids = [measurement.scored.run_id for measurement in runs]
    if named in ids:
        return named, "named as the reference"
    at = {
        value.run_id: value
        for value in values
        if value.slice == results.ALL and value.column == primary
    }
    if not baselines:
        return ids[0], "the first that was named; no baseline is among them"
    return max(
        baselines, key=lambda run_id: results.strength(at.get(run_id))
    ), f"the strongest baseline in {results.title(primary)}"


def _paired(runs: Sequence[Measured], reference: str, primary: Metric) -> Iterable[Paired]:
    """Differences of every metric over all users, with p-values corrected over the runs; of the
    main metric also in every slice.
    """
    task = runs[0].task
    drawn = {
        measurement.scored.run_id: Path(measurement.evaluated.run_dir) / paired.FILE
        for measurement in runs
    }
    overall = _differences(
        drawn,
        reference,
        {path: paired.read(path, task=task, slice=results.ALL) for path in set(drawn.values())},
        task,
    )
    for metric in dict.fromkeys(metric for run, _, metric in overall):
        others = [key for key in overall if key[2] == metric]
        corrected = paired.holm([overall[key].p for key in others])
        for key, p in zip(others, corrected, strict=True):
            yield _row(key, overall[key], p)
    main = {
        path: paired.read(path, task=task, metric=results.written(primary))
        for path in set(drawn.values())
    }
    for key, difference in _differences(drawn, reference, main, task).items():
        if key[1] != results.ALL:
            yield _row(key, difference)


def _differences(
    drawn: Mapping[str, Path],
    reference: str,
    replicas: Mapping[Path, Mapping[Key, Replicates]],
    task: str,
) -> dict[tuple[str, str, str], paired.Difference]:
    """{(run, slice, metric): run - reference}. Raises DataError where the file of replicas does
    not hold its run.
    """
    for run, path in drawn.items():
        if not any(key.of_run_id == run for key in replicas[path]):
            raise DataError(
                str(path),
                found=f"no replicas of run {run}",
                expected="those of every run that was evaluated",
                remedy="evaluate again: the file is of another time than its run",
            )
    bars = {
        key.slice: replicates
        for key, replicates in replicas[drawn[reference]].items()
        if key == (reference, task, key.slice)
    }
    differences: dict[tuple[str, str, str], paired.Difference] = {}
    for run, path in drawn.items():
        for key, replicates in replicas[path].items():
            if run != reference and key.of_run_id == run and key.slice in bars:
                differences |= {
                    (run, key.slice, metric): difference
                    for metric, difference in paired.difference(replicates, bars[key.slice]).items()
                }
    return differences


def _row(
    key: tuple[str, str, str], difference: paired.Difference, corrected: float | None = None
) -> Paired:
    run, label, metric = key
    name, _, k = metric.partition("@")
    return Paired.of(run, (name, int(k or 0)), label, difference, corrected)
