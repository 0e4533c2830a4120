"""A search from the stage's side: trials on validation alone, resumed, recorded, and the best one
fitted.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.stages import candidates, evaluate, prepare, score, train_baseline
from recsys_spark.stages.tuning import search
from recsys_spark.stages.tuning.judge import Judge
from recsys_spark.stages.tuning.search import Search
from tests.spark.chained import Chain
from tests.spark.prepared import crowd

SEARCH = {"space": {"reg_user": {"low": 0.1, "high": 50.0}, "sweeps": [1, 2, 3]}, "trials": 2}


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(spark, tmp_path_factory.mktemp("tune"))
    made.ingest(crowd(users=20, items=12, most=9))
    made.run("last_out", prepare, source="ingest")
    made.run("random", prepare, source="ingest", rule="random", fractions=(0.6, 0.2, 0.2))
    return made


def trials(steps: Chain, step: str) -> list[dict]:
    return [
        json.loads(line)
        for line in (steps.root / "runs" / step / search.TRIALS).read_text().splitlines()
    ]


def test_the_best_trial_is_fitted_and_every_trial_is_recorded(steps: Chain) -> None:
    run = steps.run("tuned", train_baseline, source="random", model="global_bias", search=SEARCH)
    made = trials(steps, "tuned")
    best = min(made, key=lambda trial: trial["value"])
    assert (
        len(made) == run.summary["trials"] == 2
        and run.summary["valid"] == best["value"]
        and run.summary["metric"] == "rmse"
    )
    assert all(run.summary[name] == value for name, value in best["values"].items())
    recorded = {one.run_id: one for one in steps.lake.runs() if one.stage == "trial"}
    assert {one.summary["rmse"] for one in recorded.values()} == {trial["value"] for trial in made}
    assert (
        recorded["tuned-1-trial000"].config == made[0]["values"]
        and recorded["tuned-1-trial000"].upstream["random"] == "random-1"
    )
    # The same settings without a search give the same index.
    plain = steps.run(
        "plain", train_baseline, source="random", model="global_bias", config=best["values"]
    )
    one, two = (np.load(Path(one.run_dir) / "index" / "bias.npy") for one in (run, plain))
    np.testing.assert_array_equal(one, two)
    # The judge measures what scoring the validation part stores.
    steps.run(
        "on_train",
        train_baseline,
        source="random",
        model="global_bias",
        config=best["values"],
        fit="train",
    )
    steps.run("scored", score, model="on_train", source="random", part="valid")
    rows = steps.rows(c.PREDICTIONS, "scored")
    assert best["value"] == pytest.approx(
        np.sqrt(np.mean([(row.value - row.label) ** 2 for row in rows])), abs=1e-9
    )


def test_a_search_goes_on_where_it_was_stopped(steps: Chain) -> None:
    steps.run("stopped", train_baseline, source="random", model="global_bias", search=SEARCH)
    first, path = trials(steps, "stopped"), steps.root / "runs" / "stopped" / search.TRIALS
    with open(path, "a") as out:
        out.write('{"trial": 2, "val')  # killed while it wrote
    longer = steps.run(
        "stopped",
        train_baseline,
        source="random",
        model="global_bias",
        search=SEARCH | {"trials": 3},
    )
    assert (
        trials(steps, "stopped")[:2] == first
        and longer.summary["trials"] == len(trials(steps, "stopped")) == 3
    )
    other = {"space": {"reg_user": {"low": 1.0, "high": 2.0}}, "trials": 3}
    with pytest.raises(
        ConfigError, match=r"trials\.jsonl, trial 0: found .*reg_user.*To mend: remove that file"
    ):
        steps.run("stopped", train_baseline, source="random", model="global_bias", search=other)


def test_a_longer_search_keeps_the_trials_of_a_shorter_one(steps: Chain) -> None:
    """In a pipeline it is another run, for its configuration is another one."""
    job = {"source": "random", "model": "global_bias", "config": {"reg_item": 3.0}}
    steps.run("short", train_baseline, **job, search=SEARCH)
    longer = steps.run("longer", train_baseline, **job, search=SEARCH | {"trials": 3})
    assert (
        trials(steps, "longer")[:2] == trials(steps, "short")
        and longer.summary["trials"] == len(trials(steps, "longer")) == 3
    )
    steps.run("fewer", train_baseline, **job, search=SEARCH | {"trials": 1})
    assert trials(steps, "fewer") == trials(steps, "short")[:1], "no more than it may have"
    drawn_otherwise = trials(steps, "longer")
    drawn_otherwise[1]["values"]["sweeps"] = 77
    (steps.root / "runs" / "longer" / search.TRIALS).write_text(
        "".join(json.dumps(made) + "\n" for made in drawn_otherwise)
    )
    steps.run("upgraded", train_baseline, **job, search=SEARCH | {"trials": 2, "budget_s": 1e-9})
    assert trials(steps, "upgraded") == trials(steps, "longer")[:1], (
        "an older sampler's trials are kept up to the first that differs"
    )
    steps.run(
        "another",
        train_baseline,
        **job | {"config": {"reg_item": 7.0}},
        search=SEARCH | {"trials": 1},
    )
    assert trials(steps, "another")[0]["value"] != trials(steps, "short")[0]["value"], (
        "trials of other settings are not taken"
    )


def test_rankings_are_judged_like_the_scorer_ranks(steps: Chain) -> None:
    made = steps.run(
        "popularity", train_baseline, source="last_out", model="popularity", fit="train"
    )
    judge = Judge(steps.context("judge"), "last_out", task="ranking", metric="mrr@5", users=1000)
    steps.run("lists", score, model="popularity", source="last_out", part="valid", k=5)
    part = {(row.user_id, row.item_id): row.part for row in steps.rows(c.SPLITS, "last_out")}
    held = {user: item for (user, item), where in part.items() if where == c.VALID}
    ranks = {
        row.query_id: row.rank
        for row in steps.rows(c.RECOMMENDATIONS, "lists")
        if held.get(row.query_id) == row.item_id
    }
    assert judge(Path(made.run_dir) / "index") == pytest.approx(
        sum(1 / rank for rank in ranks.values()) / len(held)
    )


def test_among_candidates_a_trial_is_judged_as_they_are_evaluated(steps: Chain) -> None:
    steps.run("few", candidates, source="last_out", part="valid", draws=3)
    # No two scores are equal
    steps.run(
        "factors", train_baseline, source="last_out", model="ials", config={"dim": 3}, fit="train"
    )
    steps.run("counts", train_baseline, source="last_out", model="popularity", fit="train")
    judge = Judge(
        steps.context("judge"),
        "last_out",
        task="ranking",
        metric="ndcg@2",
        users=1000,
        candidates="few",
    )
    for model in ("factors", "counts"):
        steps.run(
            f"{model}_of_few", score, model=model, source="last_out", part="valid", candidates="few"
        )
    run = steps.run(
        "worth",
        evaluate,
        source="last_out",
        of=("factors_of_few", "counts_of_few"),
        part="valid",
        ks=(2,),
    )
    mine = (
        steps.lake.read(c.METRICS, run.output_versions[c.METRICS])
        .where("of_run_id = 'factors_of_few-1'")
        .collect()
    )
    value = next(row.value for row in mine if (row.metric, row.k, row.slice) == ("ndcg", 2, "all"))
    assert judge(Path(steps.done["factors"].run_dir) / "index") == pytest.approx(value, abs=1e-9)
    chosen = steps.run(
        "chosen",
        train_baseline,
        source="last_out",
        model="item_knn",
        fit="train",
        candidates="few",
        search={"space": {"neighbours": [1, 2]}, "trials": 2, "metric": "hit_rate@2"},
    )
    assert chosen.summary["metric"] == "hit_rate@2" and chosen.upstream["few"] == "few-1"


def test_candidates_that_do_not_fit_the_search_are_named(steps: Chain) -> None:
    steps.run("of_test", candidates, source="last_out", part="test", draws=3)
    with pytest.raises(
        ConfigError,
        match=r"candidates: found of_test, which is for part test; expected candidates for part "
        r"valid",
    ):
        Judge(
            steps.context("late"),
            "last_out",
            task="ranking",
            metric="",
            users=10,
            candidates="of_test",
        )
    with pytest.raises(
        ConfigError,
        match=r"candidates: found random, a step of stage prepare; expected one of stage "
        r"candidates",
    ):
        Judge(
            steps.context("other"),
            "last_out",
            task="ranking",
            metric="",
            users=10,
            candidates="random",
        )
    with pytest.raises(ValueError, match="candidates play a part in a search alone"):
        train_baseline.Job(source="last_out", model="item_knn", candidates="few")


def test_what_cannot_be_judged_is_named(steps: Chain) -> None:
    with pytest.raises(
        ConfigError,
        match=r"search\.metric: found 'ngcd@10'; expected .*\(did you mean 'ndcg@10'\?\)",
    ):
        Judge(steps.context("bad"), "last_out", task="ranking", metric="ngcd@10", users=10)
    steps.run(
        "no_valid",
        prepare,
        source="ingest",
        split="no_valid",
        rule="random",
        fractions=(0.8, 0.0, 0.2),
    )
    with pytest.raises(
        DataError, match=r"split no_valid, validation part: found no event.*leave `search` out"
    ):
        Judge(steps.context("none"), "no_valid", task="ranking", metric="", users=10)


def test_no_trial_begins_after_the_budget(steps: Chain) -> None:
    wanted, calls = Search(space={"x": [1, 2, 3]}, trials=5, budget_s=1e-9), []
    job = train_baseline.Job(source="random", model="popularity")
    best, facts = search.choose(
        steps.context("budget"),
        job,
        wanted,
        "ndcg@10",
        lambda values: calls.append(values) or float(values["x"]),
    )
    assert len(calls) == facts["trials"] == 1 and best == calls[0]
