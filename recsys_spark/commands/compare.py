"""Scored runs compared with one of them -> one HTML page, for `recsys-spark compare RUN RUN ...`.

The metrics were measured before, by evaluate runs: values come from the table `metrics`, paired
differences from the replicas that those runs keep. Only the popularity of listed items and the
changes for users are counted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import functions as F

from recsys_spark.commands import comparable, differences, list_changes
from recsys_spark.commands.comparable import Measured
from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.tasks import RANKING, TASKS
from recsys_spark.report import comparison, results
from recsys_spark.report.content import Compared, Comparison, Lists
from recsys_spark.report.kinds import worded
from recsys_spark.report.sections import joined
from recsys_spark.stages.results import examples, measured
from recsys_spark.stages.results.examples import Ranked

FOLDER = "comparisons"  # in the folder of the run folders
DIFFERING = 4  # example users for whom one run hits and another does not


@dataclass(frozen=True)
class Wanted:
    """The command's arguments. Runs are named by id, by the start of an id, or by step; reference
    empty: the strongest baseline.
    """

    runs: tuple[str, ...]
    reference: str = ""
    metric: str = ""  # for example ndcg@10; empty: the main metric of each task
    example_users: int = 4


def compare(
    lake: Lake, arguments: Wanted, *, runs_dir: Path, seed: int, now: float
) -> tuple[Comparison, Path]:
    """The comparison, and the path of its page, named by a fingerprint of runs and references.

    Raises RecsysError for runs that are unknown, ambiguous, fewer than two, or not measured alike.
    """
    recorded = lake.runs()
    named = [comparable.resolve(name, recorded) for name in arguments.runs]
    reference = (
        _only(comparable.resolve(arguments.reference, recorded), recorded)
        if arguments.reference
        else None
    )
    chosen = {
        run.run_id: run for named_run in named for run in comparable.scored(named_run, recorded)
    }
    chosen |= {reference.run_id: reference} if reference else {}
    if len(chosen) < 2:
        raise RecsysError(
            "runs to compare",
            found=f"{', '.join(chosen) or 'none'} alone",
            expected="at least two different scored runs",
            remedy="name another, or an evaluate step for all that it measured",
        )
    alike = comparable.alike(
        list(chosen.values()), recorded, [run for run in named if run.stage == "evaluate"]
    )
    compared = differences.compared(
        lake,
        alike,
        recorded,
        reference=reference.run_id if reference else "",
        metric=arguments.metric,
    )
    page = _page(lake, compared, alike, recorded, arguments, seed=seed, now=now)
    key = artifacts.fingerprint(
        {
            "runs": sorted(chosen),
            "references": [entry.reference for entry in compared],
            "metric": arguments.metric,
        }
    )
    path = runs_dir.absolute() / FOLDER / f"{key[:10]}.html"
    artifacts.write_text(path, comparison.render(page))
    return page, path


def _only(run: Run, recorded: Sequence[Run]) -> Run:
    scored_runs = comparable.scored(run, recorded)
    if len(scored_runs) != 1:
        raise RecsysError(
            "--reference",
            found=f"{run.run_id}, which stands for {len(scored_runs)} scored runs",
            expected="one scored run",
        )
    return scored_runs[0]


def _page(
    lake: Lake,
    compared: Sequence[Compared],
    alike: dict[str, list[Measured]],
    recorded: Sequence[Run],
    arguments: Wanted,
    *,
    seed: int,
    now: float,
) -> Comparison:
    measured_by = [measurement for runs in alike.values() for measurement in runs]
    behind = measured.behind(
        recorded,
        {
            measurement.evaluated.run_id: measurement.evaluated for measurement in measured_by
        }.values(),
    )
    labels = {
        task: results.labels(entry.evaluation.values)
        for task, entry in zip(alike, compared, strict=True)
    }
    names = list(dict.fromkeys(label for of_task in labels.values() for label in of_task.values()))
    evaluation = compared[0].evaluation
    ranking = next((entry for entry in compared if entry.task == RANKING.name), None)
    return Comparison(
        title=measured.dataset(behind) or measured_by[0].evaluated.pipeline,
        data=f"{measured.size(measured_by[0].evaluated, behind)}{joined(names)}, measured alike: "
        + worded("on the same events of the same users.", evaluation.query_kind),
        facts=(
            (
                "Split",
                f"{evaluation.split} ({evaluation.rule}), measured on its {evaluation.part} part",
            ),
            *(
                (
                    f"Reference, {TASKS[entry.task].title.lower()}",
                    f"{labels[entry.task][entry.reference]}: {entry.why}",
                )
                for entry in compared
            ),
            ("Bootstrap", f"seed {measured_by[0].terms.seed}, {compared[0].replicas:,} replicas"),
            (
                "p-values",
                "two-sided; corrected by Holm over the runs that are compared, for each "
                "metric by itself. Twice the share of "
                "replicas on the far side of zero: of R replicas none can be below 2 / (R + 1)",
            ),
            ("Written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))),
        ),
        runs=tuple(
            (
                labels[measurement.task][measurement.scored.run_id],
                TASKS[measurement.task].title,
                measurement.scored.run_id,
                measurement.scored.upstream.get(str(measurement.scored.config.get("model")), ""),
                measurement.evaluated.run_id,
            )
            for measurement in measured_by
        ),
        compared=tuple(compared),
        lists=_lists(
            lake, ranking, alike[RANKING.name], labels[RANKING.name], recorded, arguments, seed
        )
        if ranking
        else None,
    )


def _lists(
    lake: Lake,
    compared: Compared,
    runs: Sequence[Measured],
    labels: dict[str, str],
    recorded: Sequence[Run],
    arguments: Wanted,
    seed: int,
) -> Lists:
    """The lists of the evaluated users, down to the main cut-off."""
    k = compared.primary[1] or results.PRIMARY_K
    ids = [measurement.scored.run_id for measurement in runs]
    ranked = _ranked(lake, runs, {run.run_id: run for run in recorded}, k)
    lists = ranked.lists.persist()
    hit = list_changes.hits(ranked).persist()
    try:
        differing = examples.draw(
            list_changes.differing(hit, ids), DIFFERING if arguments.example_users else 0, seed
        )
        drawn = examples.draw(ranked.held, arguments.example_users, seed)
        # The reference's list comes first
        order = {
            compared.reference: labels[compared.reference],
            **labels,
        }
        shown = {
            example.query_id: example
            for example in examples.examples(
                ranked, list(dict.fromkeys([*differing, *drawn])), order
            )
        }
        return Lists(
            k,
            compared.reference,
            labels,
            list_changes.popularity(ranked, ids),
            list_changes.changes(ranked, hit, ids, compared.reference),
            drawn=tuple(shown[user] for user in drawn),
            differing=tuple(shown[user] for user in differing),
            query_kind=ranked.query_kind,
        )
    finally:
        lists.unpersist()
        hit.unpersist()


def _ranked(lake: Lake, runs: Sequence[Measured], by_id: dict[str, Run], k: int) -> Ranked:
    evaluated, split = runs[0].evaluated, by_id[runs[0].terms.split]
    events = lake.read(c.SPLITS, evaluated.output_versions[c.SPLITS]).where(
        F.col(c.RUN_ID) == split.run_id
    )
    items = (
        lake.read(c.ITEMS, evaluated.output_versions[c.ITEMS])
        if c.ITEMS in evaluated.output_versions
        else None
    )
    kind = str(evaluated.summary.get("query_kind", c.USER))
    held = events.where(F.col(c.PART) == runs[0].terms.part).select(c.QUERY_ID).distinct()
    lists = None
    for measurement in runs:
        rows = lake.read(c.RECOMMENDATIONS, measurement.scored.output_versions[c.RECOMMENDATIONS])
        rows = rows.where(
            (F.col(c.RUN_ID) == measurement.scored.run_id)
            & (F.col(c.QUERY_KIND) == kind)
            & (F.col(c.RANK) <= k)
        )
        lists = rows if lists is None else lists.union(rows)
    assert lists is not None, "at least two runs are compared"
    return Ranked(
        events, runs[0].terms.part, lists.join(held, on=c.QUERY_ID, how="left_semi"), items, kind
    )
