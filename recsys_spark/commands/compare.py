"""Scored runs compared with one of them -> one HTML page, for `recsys-spark compare RUN RUN ...`.

The metrics were measured before, by evaluate runs: values come from the table `metrics`, paired
differences from the replicas that those runs keep. Only the popularity of listed items and the
changes for users are counted here. Without Spark, unless the lake is a catalog's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.commands import comparable, differences, list_changes
from recsys_spark.commands.comparable import Measured
from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.lake.direct import Reader
from recsys_spark.metrics.tasks import RANKING, TASKS
from recsys_spark.report import comparison, example_users, results
from recsys_spark.report.content import Compared, Comparison, Example, Lists
from recsys_spark.report.kinds import worded
from recsys_spark.report.sections import joined
from recsys_spark.stages.results import measured

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
    lake: Reader, arguments: Wanted, *, runs_dir: Path, seed: int, now: float
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


def facts(page: Comparison, path: Path) -> dict[str, Any]:
    """The comparison for other programs: of each task the reference, each run's values over all
    users, and the differences from the reference, by metric and slice.
    """
    return {
        "page": str(path),
        "tasks": [
            {
                "task": entry.task,
                "metric": results.written(entry.primary),
                "reference": entry.reference,
                "why": entry.why,
                "replicas": entry.replicas,
                "values": [
                    asdict(value) for value in entry.evaluation.values if value.slice == results.ALL
                ],
                "differences": [
                    asdict(difference) | {"column": results.written(difference.column)}
                    for difference in entry.differences
                ],
            }
            for entry in page.compared
        ],
    }


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
    lake: Reader,
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
    lake: Reader,
    compared: Compared,
    runs: Sequence[Measured],
    labels: dict[str, str],
    recorded: Sequence[Run],
    arguments: Wanted,
    seed: int,
) -> Lists:
    """The lists of the evaluated users, down to the main cut-off."""
    k = compared.primary[1] or results.PRIMARY_K
    evaluated = runs[0].evaluated
    split = next(run for run in recorded if run.run_id == runs[0].terms.split)
    kind = str(evaluated.summary.get("query_kind", c.USER))
    version = evaluated.output_versions[c.SPLITS]
    of_split = {c.RUN_ID: [split.run_id]}
    held = lake.table(
        c.SPLITS,
        version,
        columns=example_users.EVENT,
        where=of_split | {c.PART: [runs[0].terms.part]},
    )
    train = of_split | {c.PART: [c.TRAIN]}
    lists = {
        measurement.scored.run_id: _places(lake, measurement.scored, kind, k)
        for measurement in runs
    }
    listed = list_changes.Listed.of(lake.counts(c.SPLITS, version, c.ITEM_ID, train), held, lists)
    differing = list_changes.draw(
        listed.differing(), DIFFERING if arguments.example_users else 0, seed
    )
    drawn = list_changes.draw(listed.users, arguments.example_users, seed)
    users = list(dict.fromkeys([*differing, *drawn]))
    # The reference's list comes first
    order = {compared.reference: labels[compared.reference], **labels}
    events = (
        lake.table(
            c.SPLITS, version, columns=example_users.EVENT, where=train | {c.QUERY_ID: users}
        ).to_pylist()
        if users
        else []
    )
    shown = _examples(lake, evaluated, users, events, held, lists, order, kind)
    return Lists(
        k,
        compared.reference,
        labels,
        listed.popularity(),
        listed.changes(compared.reference),
        drawn=tuple(shown[user] for user in drawn),
        differing=tuple(shown[user] for user in differing),
        query_kind=kind,
    )


def _places(lake: Reader, scored: Run, kind: str, k: int) -> pa.Table:
    """The first k places of a run's lists."""
    rows = lake.table(
        c.RECOMMENDATIONS,
        scored.output_versions[c.RECOMMENDATIONS],
        columns=(*example_users.PLACE, c.SCORE),
        where={c.RUN_ID: [scored.run_id], c.QUERY_KIND: [kind]},
    )
    return rows.filter(pc.less_equal(rows.column(c.RANK), k))


def _examples(
    lake: Reader,
    evaluated: Run,
    users: Sequence[str],
    train: list[dict[str, Any]],
    held: pa.Table,
    lists: Mapping[str, pa.Table],
    labels: Mapping[str, str],
    kind: str,
) -> dict[str, Example]:
    chosen = pa.array(users, pa.string())

    def of_users(rows: pa.Table) -> list[dict[str, Any]]:
        return rows.filter(pc.is_in(rows.column(c.QUERY_ID), chosen)).to_pylist()

    places = [
        place
        for rows in lists.values()
        for place in of_users(rows)
        if place[c.RANK] <= example_users.SHOWN
    ]
    held_out = of_users(held)
    ids = example_users.items_of(train, held_out, places)
    items = {}
    if ids and c.ITEMS in evaluated.output_versions:
        rows = lake.table(
            c.ITEMS, evaluated.output_versions[c.ITEMS], where={c.ITEM_ID: ids}
        ).to_pylist(maps_as_pydicts="strict")
        items = {
            row[c.ITEM_ID]: {**row, "genres": (row["fields"] or {}).get("genres")} for row in rows
        }
    shown = example_users.examples(users, train, held_out, places, items, labels, kind)
    return {example.query_id: example for example in shown}
