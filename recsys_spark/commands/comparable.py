"""Resolves the runs named to `recsys-spark compare`, and checks that they were measured alike.
Works on records of runs, without Spark.

Two runs are measured alike when they were evaluated on the same run of the same split, the same
part, with the same seed and number of replicas (then replica r has the same multiplicity of each
user in both), and, where they ranked candidates, the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, RecsysError, nearest
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.report import results

BASELINES = ("train_baseline", "train_als")  # stages whose models count as baselines


class Terms(NamedTuple):
    """Conditions of an evaluation that must be equal for runs to be comparable."""

    split: str  # run id of the prepare step
    part: str
    seed: int
    replicas: int
    candidates: str  # run id of the candidates step; empty: the whole catalogue


@dataclass(frozen=True)
class Measured:
    """A scored run, and the evaluate run that measured it on the task."""

    scored: Run
    evaluated: Run
    task: str

    @property
    def terms(self) -> Terms:
        config, upstream = self.evaluated.config, self.evaluated.upstream
        # The first places of united lists are a ranking of the whole catalogue
        in_union = self.scored.summary.get("among") == c.UNION
        candidates = None if in_union else self.scored.config.get("candidates")
        return Terms(
            split=upstream.get(str(config.get("source")), ""),
            part=str(config.get("part")),
            seed=self.evaluated.seed,
            replicas=int(config.get("replicas") or 0),
            candidates=self.scored.upstream.get(str(candidates), "") if candidates else "",
        )


def resolve(name: str, recorded: Sequence[Run]) -> Run:
    """The run with this id, or the last completed run of the step with this name, or the only run
    whose id starts with `name`.

    Of a step's runs, those that lead to an evaluation are preferred, so that a later run that was
    never scored does not hide them. Raises RecsysError for a name that matches no run, or that is
    the start of several ids.
    """
    by_id = {run.run_id: run for run in recorded}
    if name in by_id:
        return by_id[name]
    of_step = [run for run in recorded if run.step == name]
    if of_step:
        usable = [run for run in of_step if _leads_to_measured(run, recorded)]
        return max(usable or of_step, key=lambda run: run.ended_at)
    begun = sorted(run_id for run_id in by_id if run_id.startswith(name))
    if len(begun) == 1:
        return by_id[begun[0]]
    if begun:
        raise RecsysError(
            f"run {name!r}",
            found=f"{len(begun)} runs whose id starts so: {_few(begun)}",
            expected="the start of one id",
            remedy="write more of it; `recsys-spark runs` lists all",
        )
    names = [*by_id, *{run.step for run in recorded}]
    raise RecsysError(
        f"run {name!r}",
        found="no completed run with that id or step",
        expected=f"a run id or a step{nearest(name, names)}",
        remedy="list them with `recsys-spark runs`",
    )


def scored(run: Run, recorded: Sequence[Run]) -> list[Run]:
    """The scored runs meant by a named run: a score run itself, all runs that an evaluate run
    measured, or for a trained model the runs that scored it, one per task.

    Raises RecsysError where there is none, or where several share a task.
    """
    by_id = {other.run_id: other for other in recorded}
    if run.stage == "score":
        return [run]
    if run.stage == "evaluate":
        return [
            by_id[run.upstream[step]]
            for step in run.config.get("of", ())
            if run.upstream.get(step) in by_id
        ]
    of_model = _of_model(run, recorded)
    evaluations = _evaluations(recorded)
    tasks = [
        frozenset(measurement.task for measurement in evaluations.get(other.run_id, ()))
        for other in of_model
    ]
    if len(of_model) == 1 or (
        of_model and all(len(task) == 1 for task in tasks) and len(set(tasks)) == len(tasks)
    ):
        return of_model
    ids = [other.run_id for other in of_model]
    raise RecsysError(
        f"run {run.run_id}",
        found=f"a {run.stage} step, scored in {_few(ids) if ids else 'no run'}",
        expected="a scored run, or the evaluation of some",
        remedy="name a run of stage score",
    )


def alike(
    chosen: Sequence[Run], recorded: Sequence[Run], preferred: Iterable[Run] = ()
) -> dict[str, list[Measured]]:
    """{task: measurements of its runs, all under the same terms}, in the order of `chosen`. Where
    runs share several terms, the newest are taken.

    preferred: evaluate runs that were named; other evaluations of the runs that they measured are
    left out. Raises RecsysError for a run that was never measured, and ConfigError for runs that
    have no task or no terms in common.
    """
    named = {run.run_id for run in preferred}
    evaluations = _evaluations(recorded)
    by_task: dict[str, list[list[Measured]]] = {}
    tasks_of: dict[str, set[str]] = {}
    for run in chosen:
        measurements = evaluations.get(run.run_id, [])
        measurements = [
            measurement for measurement in measurements if measurement.evaluated.run_id in named
        ] or measurements
        if not measurements:
            raise RecsysError(
                f"run {run.run_id}",
                found="never evaluated",
                expected="an evaluate run that measured it",
                remedy=f"add {run.step} to `of` of an evaluate step, and run that",
            )
        tasks_of[run.run_id] = {measurement.task for measurement in measurements}
        for task in tasks_of[run.run_id]:
            by_task.setdefault(task, []).append(
                [measurement for measurement in measurements if measurement.task == task]
            )
    shared = {task: _same_terms(task, runs) for task, runs in by_task.items() if len(runs) > 1}
    if not shared:
        listed = "; ".join(
            f"{run}: {' and '.join(sorted(tasks))}" for run, tasks in tasks_of.items()
        )
        raise ConfigError(
            "runs to compare",
            found=listed,
            expected="at least two that were measured on the same task",
        )
    return {task: shared[task] for task in TASKS if task in shared}


def baselines(runs: Sequence[Measured], recorded: Sequence[Run]) -> list[str]:
    """Ids of the scored runs whose model is a baseline."""
    by_id = {run.run_id: run for run in recorded}
    models = {
        measurement.scored.run_id: by_id.get(
            measurement.scored.upstream.get(str(measurement.scored.config.get("model")), "")
        )
        for measurement in runs
    }
    return [
        run_id for run_id, model in models.items() if model is not None and model.stage in BASELINES
    ]


def _of_model(run: Run, recorded: Sequence[Run]) -> list[Run]:
    return [
        other
        for other in recorded
        if other.stage == "score"
        and other.upstream.get(str(other.config.get("model"))) == run.run_id
    ]


def _leads_to_measured(run: Run, recorded: Sequence[Run]) -> bool:
    if run.stage == "evaluate":
        return True
    evaluations = _evaluations(recorded)
    return any(
        other.run_id in evaluations
        for other in ([run] if run.stage == "score" else _of_model(run, recorded))
    )


def _evaluations(recorded: Sequence[Run]) -> dict[str, list[Measured]]:
    """{scored run: its measurements, newest first}."""
    by_id = {run.run_id: run for run in recorded}
    measurements: dict[str, list[Measured]] = {}
    for run in sorted(recorded, key=lambda run: run.ended_at, reverse=True):
        if run.stage != "evaluate":
            continue
        for run_id, task in dict.fromkeys(
            (value.run_id, value.task) for value in results.from_summary(run.summary)
        ):
            if run_id in by_id:
                measurements.setdefault(run_id, []).append(Measured(by_id[run_id], run, task))
    return measurements


def _same_terms(task: str, runs: Sequence[Sequence[Measured]]) -> list[Measured]:
    """One measurement of each run, all under the newest terms that the first run shares with all
    others. Raises ConfigError where there are none.
    """
    for measurement in runs[0]:
        matching = [
            next((other for other in others if other.terms == measurement.terms), None)
            for others in runs
        ]
        same = [other for other in matching if other is not None]
        if len(same) == len(runs):
            return same
    first = runs[0][0]
    # The error names a run that shares no terms with the first one; where each shares some, the
    # last run.
    unmatched = next(
        (
            others
            for others in runs[1:]
            if not {measurement.terms for measurement in runs[0]}
            & {other.terms for other in others}
        ),
        runs[-1],
    )
    other = unmatched[0]
    differing = [
        field
        for field in Terms._fields
        if getattr(first.terms, field) != getattr(other.terms, field)
    ] or list(Terms._fields)
    descriptions = [
        f"{measurement.scored.run_id} on {_terms(measurement, differing)} "
        f"(by {measurement.evaluated.run_id})"
        for measurement in (first, other)
    ]
    raise ConfigError(
        f"runs to compare, {TASKS[task].title.lower()}",
        found=" and ".join(descriptions),
        expected=f"the same {' and '.join(differing)} for all",
        remedy="evaluate these runs in one step",
    )


def _terms(measurement: Measured, fields: Sequence[str]) -> str:
    values = {field: getattr(measurement.terms, field) for field in fields}
    return ", ".join(
        f"{field} {'unknown' if value == '' else value}" for field, value in values.items()
    )


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
