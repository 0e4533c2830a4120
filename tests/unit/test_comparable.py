"""Which runs a comparison means, and runs that were not measured alike: refused before anything is
read.
"""

from __future__ import annotations

from typing import Any

import pytest

from recsys_spark.commands import comparable
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, RecsysError


def run_of(run_id: str, stage: str, ended_at: float = 1.0, **more: Any) -> Run:
    plain = {
        "run_id": run_id,
        "pipeline": "p",
        "step": run_id.rpartition("-")[0],
        "stage": stage,
        "key": run_id,
        "config": {},
        "upstream": {},
        "input_versions": {},
        "output_versions": {},
        "run_dir": "",
        "code_version": "0",
        "seed": 1,
        "started_at": 0.0,
        "ended_at": ended_at,
    }
    return Run(**plain | more)


def scored(model: str, number: int = 1, **config: Any) -> Run:
    upstream = {model: f"{model}-1", "last_out": "last_out-1"} | (
        {"drawn": "drawn-1"} if "candidates" in config else {}
    )
    return run_of(
        f"score_{model}-{number}",
        "score",
        upstream=upstream,
        config={"model": model, "source": "last_out"} | config,
    )


def evaluated(
    run_id: str,
    *runs: Run,
    task: str = "ranking",
    split: str = "last_out-1",
    part: str = "test",
    replicas: int = 1000,
    **more: Any,
) -> Run:
    """As an evaluate step leaves it: it measured the runs on this task."""
    metric = "rmse" if task == "rating" else "ndcg"
    rows = [
        {
            "of_run_id": run.run_id,
            "model": run.config["model"],
            "task": task,
            "metric": metric,
            "k": 10,
            "value": 0.1,
            "low": 0.0,
            "high": 0.2,
            "n": 9,
        }
        for run in runs
    ]
    config = {
        "source": "last_out",
        "part": part,
        "replicas": replicas,
        "of": [run.step for run in runs],
    }
    upstream = {run.step: run.run_id for run in runs} | {"last_out": split}
    return run_of(
        run_id, "evaluate", config=config, upstream=upstream, summary={"results": rows}, **more
    )


ALS, POPULARITY, NEUMF = scored("als"), scored("popularity"), scored("neumf")
MODELS = [
    run_of("als-1", "train_als"),
    run_of("popularity-1", "train_baseline"),
    run_of("neumf-1", "train_deep"),
]
BOTH = evaluated("ranking-1", ALS, POPULARITY)
RECORDED = [*MODELS, ALS, POPULARITY, BOTH]


def test_a_run_is_named_by_id_by_step_or_by_the_start_of_its_id() -> None:
    older, newer = run_of("score_als-abc", "score", 1.0), run_of("score_als-bcd", "score", 2.0)
    recorded = [newer, older, run_of("als-1", "train_als")]
    assert comparable.resolve("score_als-abc", recorded) is older
    assert comparable.resolve("score_als", recorded) is newer  # the last completed run of the step
    assert comparable.resolve("score_als-b", recorded) is newer
    rerun = run_of("score_als-abc-rerun1", "score", 0.5, step="score_als")
    # An id is itself, whatever else starts so
    assert comparable.resolve("score_als-abc", [*recorded, rerun]) is older


def test_a_repetition_that_nobody_measured_does_not_hide_a_steps_measured_run() -> None:
    again = run_of("als-1-rerun1", "train_als", 9.0, step="als")
    scored_again = run_of("score_als-1-rerun1", "score", 9.0, step="score_als")
    recorded = [*RECORDED, again, scored_again]
    assert (
        comparable.resolve("als", recorded) is MODELS[0]
        and comparable.resolve("score_als", recorded) is ALS
    )
    assert comparable.resolve("als-1-rerun1", recorded) is again  # by its id it is itself


def test_a_model_that_was_scored_for_two_tasks_stands_for_both() -> None:
    drawn = scored("als", 2, candidates="drawn")
    recorded = [*RECORDED, drawn, evaluated("k99-1", drawn, task="sampled_ranking")]
    assert comparable.scored(MODELS[0], recorded) == [ALS, drawn]


def test_an_unknown_run_and_an_unclear_start_are_named() -> None:
    with pytest.raises(
        RecsysError,
        match=r"run 'score_asl': found no completed run.*did you mean 'score_als.*`recsys-spark "
        r"runs`",
    ):
        comparable.resolve("score_asl", RECORDED)
    with pytest.raises(
        RecsysError,
        match=r"run 'sco': found 2 runs whose id starts so: score_als-1, score_popularity-1; "
        r"expected",
    ):
        comparable.resolve("sco", RECORDED)


def test_an_evaluation_stands_for_what_it_measured_and_a_model_for_its_scores() -> None:
    assert comparable.scored(BOTH, RECORDED) == [ALS, POPULARITY]
    assert comparable.scored(MODELS[0], RECORDED) == [ALS]
    with pytest.raises(
        RecsysError,
        match=r"run neumf-1: found a train_deep step, scored in no run; expected a scored run",
    ):
        comparable.scored(MODELS[2], RECORDED)
    with pytest.raises(
        RecsysError,
        match=r"run als-1: found a train_als step, scored in score_als-1, score_als-2; expected "
        r"a scored run",
    ):
        comparable.scored(MODELS[0], [*RECORDED, scored("als", 2)])


def test_runs_of_different_evaluations_are_alike_when_split_part_seed_and_replicas_are() -> None:
    other = evaluated("more-1", NEUMF, ended_at=3.0)
    found = comparable.alike([ALS, NEUMF], [*RECORDED, NEUMF, other])
    by = {one.scored.run_id: one.evaluated.run_id for one in found["ranking"]}
    assert by == {"score_als-1": "ranking-1", "score_neumf-1": "more-1"}


def test_the_newest_terms_that_all_share_count_and_a_named_evaluation_alone() -> None:
    valid = evaluated("valid-1", ALS, POPULARITY, part="valid", ended_at=5.0)
    alone = evaluated("alone-1", ALS, part="valid", replicas=100, ended_at=9.0)
    recorded = [*RECORDED, valid, alone]
    found = comparable.alike([ALS, POPULARITY], recorded)
    assert {one.evaluated.run_id for one in found["ranking"]} == {"valid-1"}
    found = comparable.alike([ALS, POPULARITY], recorded, [BOTH])
    assert {one.evaluated.run_id for one in found["ranking"]} == {"ranking-1"}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"split": "random-7"},
            r"score_als-1 on split last_out-1 \(by ranking-1\) and score_neumf-1 on split "
            r"random-7 \(by other-1\); expected the same split for all\. To mend: evaluate these "
            r"runs in one step",
        ),
        (
            {"part": "valid"},
            r"score_als-1 on part test \(by ranking-1\) and score_neumf-1 on part valid \(by "
            r"other-1\)",
        ),
        (
            {"seed": 0},
            r"score_als-1 on seed 1 \(by ranking-1\) and score_neumf-1 on seed 0 \(by other-1\)",
        ),
        (
            {"replicas": 200},
            r"score_als-1 on replicas 1000 \(by ranking-1\) and score_neumf-1 on replicas 200 "
            r"\(by other-1\)",
        ),
        (
            {"split": "ml-100k-1", "part": "valid"},
            r".* on split last_out-1, part test .* on split ml-100k-1, part valid .*same split "
            r"and part",
        ),
    ],
    ids=["another split", "another part", "another seed", "other replicas", "another data set"],
)
def test_runs_that_were_not_measured_alike_are_refused_by_name(
    other: dict[str, Any], told: str
) -> None:
    recorded = [*RECORDED, NEUMF, evaluated("other-1", NEUMF, **other)]
    with pytest.raises(ConfigError, match=f"runs to compare, ranking: found {told}"):
        comparable.alike([ALS, POPULARITY, NEUMF], recorded)


def test_other_candidates_are_another_task_and_refused() -> None:
    drawn, again = scored("als", candidates="drawn"), scored("neumf", candidates="drawn")
    again = again.model_copy(update={"upstream": again.upstream | {"drawn": "drawn-2"}})
    recorded = [*MODELS, drawn, again, evaluated("k99-1", drawn, again, task="sampled_ranking")]
    with pytest.raises(
        ConfigError,
        match=r"sampled ranking: found score_als-1 on candidates drawn-1 .*neumf-1 on candidates "
        r"drawn-2",
    ):
        comparable.alike([drawn, again], recorded)


def test_a_ranking_of_united_lists_stands_beside_its_members() -> None:
    second = scored("neumf", candidates="drawn").model_copy(update={"summary": {"among": "union"}})
    recorded = [*MODELS, ALS, second, evaluated("all-1", ALS, second)]
    assert comparable.alike([ALS, second], recorded)


def test_a_run_that_was_never_evaluated_and_runs_without_a_common_task() -> None:
    with pytest.raises(
        RecsysError,
        match=r"run score_neumf-1: found never evaluated; .*To mend: add score_neumf to `of` of "
        r"an eval",
    ):
        comparable.alike([ALS, NEUMF], [*RECORDED, NEUMF])
    recorded = [*RECORDED, NEUMF, evaluated("rating-1", NEUMF, task="rating")]
    with pytest.raises(
        ConfigError,
        match=r"found score_als-1: ranking; score_neumf-1: rating; expected at least two .* the "
        r"same task",
    ):
        comparable.alike([ALS, NEUMF], recorded)


def test_a_task_that_only_one_run_has_is_left_out() -> None:
    recorded = [*RECORDED, evaluated("rating-1", ALS, task="rating")]
    assert list(comparable.alike([ALS, POPULARITY], recorded)) == ["ranking"]


def test_baselines_are_what_a_baseline_stage_trained() -> None:
    recorded = [*RECORDED, NEUMF, evaluated("more-1", NEUMF)]
    found = comparable.alike([NEUMF, ALS, POPULARITY], recorded)["ranking"]
    assert comparable.baselines(found, recorded) == ["score_als-1", "score_popularity-1"]
