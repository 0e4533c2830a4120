"""Scored runs, held against one of them -> one HTML page, for `recsys-spark compare RUN RUN ...`.

What is compared was measured before, by evaluate runs: values come from the table `metrics`, paired differences from the replicas that
those runs keep. Only what the lists are made of, and whom they change, is counted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import RecsysError
from recsys_spark.lake.tables import Lake
from recsys_spark.report import comparison, results
from recsys_spark.report.content import Compared, Comparison, Lists
from recsys_spark.report.sections import joined
from recsys_spark.stages import comparable, differences, examples, list_changes, measured
from recsys_spark.stages.comparable import Measured
from recsys_spark.stages.examples import Ranked

FOLDER = "comparisons"  # in the folder of the run folders
DIFFERING = 4  # users shown for whom one run hits and another does not


@dataclass(frozen=True)
class Wanted:
    """The command's arguments. Runs are named by id, by the start of one, or by step; reference empty: the strongest baseline."""

    runs: tuple[str, ...]
    reference: str = ""
    metric: str = ""  # for example ndcg@10; empty: each task's own
    example_users: int = 4


def compare(lake: Lake, wanted: Wanted, *, runs_dir: Path, seed: int, now: float) -> tuple[Comparison, Path]:
    """The comparison, and the page that it was written to, named after what is compared.

    Raises RecsysError for runs that are unknown, not clear, fewer than two, or not measured alike.
    """
    recorded = lake.runs()
    named = [comparable.resolve(name, recorded) for name in wanted.runs]
    reference = _only(comparable.resolve(wanted.reference, recorded), recorded) if wanted.reference else None
    chosen = {run.run_id: run for one in named for run in comparable.scored(one, recorded)}
    chosen |= {reference.run_id: reference} if reference else {}
    if len(chosen) < 2:
        raise RecsysError("runs to compare", found=f"{', '.join(chosen) or 'none'} alone", expected="at least two different scored runs",
                          remedy="name another, or an evaluate step for all that it measured")
    alike = comparable.alike(list(chosen.values()), recorded, [run for run in named if run.stage == "evaluate"])
    compared = differences.compared(lake, alike, recorded, reference=reference.run_id if reference else "", metric=wanted.metric)
    page = _page(lake, compared, alike, recorded, wanted, seed=seed, now=now)
    key = artifacts.fingerprint({"runs": sorted(chosen), "references": [made.reference for made in compared], "metric": wanted.metric})
    path = runs_dir.absolute() / FOLDER / f"{key[:10]}.html"
    artifacts.write_text(path, comparison.render(page))
    return page, path


def _only(run: Run, recorded: Sequence[Run]) -> Run:
    found = comparable.scored(run, recorded)
    if len(found) != 1:
        raise RecsysError("--reference", found=f"{run.run_id}, which stands for {len(found)} scored runs", expected="one scored run")
    return found[0]


def _page(lake: Lake, compared: Sequence[Compared], alike: dict[str, list[Measured]], recorded: Sequence[Run], wanted: Wanted, *,
          seed: int, now: float) -> Comparison:
    measured_by = [one for runs in alike.values() for one in runs]
    behind = measured.behind(recorded, {one.evaluated.run_id: one.evaluated for one in measured_by}.values())
    labels = {task: results.labels(made.evaluation.values) for task, made in zip(alike, compared, strict=True)}
    names = list(dict.fromkeys(label for of_task in labels.values() for label in of_task.values()))
    evaluation = compared[0].evaluation
    ranking = next((made for made in compared if made.task == "ranking"), None)
    return Comparison(
        title=measured.dataset(behind) or measured_by[0].evaluated.pipeline,
        data=f"{measured.size(measured_by[0].evaluated, behind)}{joined(names)}, measured alike: on the same events of the same users.",
        facts=(
            ("Split", f"{evaluation.split} ({evaluation.rule}), measured on its {evaluation.part} part"),
            *((f"Reference, {results.TASKS[made.task].lower()}", f"{labels[made.task][made.reference]}: {made.why}") for made in compared),
            ("Bootstrap", f"seed {measured_by[0].terms.seed}, {compared[0].replicas:,} replicas"),
            ("p-values", "two-sided; corrected by Holm over the runs that are compared, for each metric by itself. Twice the share of "
                         "replicas on the far side of zero: of R replicas none can be below 2 / (R + 1)"),
            ("Written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))),
        ),
        runs=tuple((labels[one.task][one.scored.run_id], results.TASKS[one.task], one.scored.run_id,
                    one.scored.upstream.get(str(one.scored.config.get("model")), ""), one.evaluated.run_id) for one in measured_by),
        compared=tuple(compared),
        lists=_lists(lake, ranking, alike["ranking"], labels["ranking"], recorded, wanted, seed) if ranking else None,
    )


def _lists(lake: Lake, made: Compared, runs: Sequence[Measured], labels: dict[str, str], recorded: Sequence[Run], wanted: Wanted,
           seed: int) -> Lists:
    """Of the users that were evaluated, down to the main cut-off."""
    k = made.primary[1] or results.PRIMARY_K
    ids = [one.scored.run_id for one in runs]
    ranked = _ranked(lake, runs, {run.run_id: run for run in recorded}, k)
    lists = ranked.lists.persist()
    hit = list_changes.hits(ranked).persist()
    try:
        differing = examples.draw(list_changes.differing(hit, ids), DIFFERING if wanted.example_users else 0, seed)
        drawn = examples.draw(ranked.held, wanted.example_users, seed)
        order = {made.reference: labels[made.reference], **labels}  # the reference's list stands first
        shown = {example.user_id: example for example in examples.examples(ranked, list(dict.fromkeys([*differing, *drawn])), order)}
        return Lists(
            k, made.reference, labels, list_changes.popularity(ranked, ids), list_changes.changes(ranked, hit, ids, made.reference),
            drawn=tuple(shown[user] for user in drawn), differing=tuple(shown[user] for user in differing),
        )
    finally:
        lists.unpersist()
        hit.unpersist()


def _ranked(lake: Lake, runs: Sequence[Measured], by_id: dict[str, Run], k: int) -> Ranked:
    evaluated, split = runs[0].evaluated, by_id[runs[0].terms.split]
    events = lake.read(c.SPLITS, evaluated.output_versions[c.SPLITS]).where(F.col(c.RUN_ID) == split.run_id)
    items = lake.read(c.ITEMS, evaluated.output_versions[c.ITEMS]) if c.ITEMS in evaluated.output_versions else None
    held = events.where(F.col(c.PART) == runs[0].terms.part).select(F.col(c.USER_ID).alias(c.QUERY_ID)).distinct()
    lists = None
    for one in runs:
        rows = lake.read(c.RECOMMENDATIONS, one.scored.output_versions[c.RECOMMENDATIONS])
        rows = rows.where((F.col(c.RUN_ID) == one.scored.run_id) & (F.col(c.QUERY_KIND) == "user") & (F.col(c.RANK) <= k))
        lists = rows if lists is None else lists.union(rows)
    assert lists is not None, "at least two runs are compared"
    return Ranked(events, runs[0].terms.part, lists.join(held, on=c.QUERY_ID, how="left_semi"), items)
