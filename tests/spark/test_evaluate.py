"""The evaluate stage on tables made by hand: values, intervals, slices, and input that is odd."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics import partials
from recsys_spark.stages import evaluate
from tests.spark.scored_world import RULE, World, run_of

NAN = float("nan")


@pytest.fixture
def world(spark: SparkSession, lake: Lake, tmp_path: Path) -> World:
    return World(spark, lake, tmp_path)


# Users 1..4 with 1, 2, 3, 4 training events: one in each quartile of activity. Items 1..4 in
# training, i1 most often.
TRAIN = [(u, i) for u in range(1, 5) for i in range(1, u + 1)]


def test_ranking_by_hand(world: World) -> None:
    world.split(TRAIN, [(1, 2), (2, 3), (3, 4), (4, 9)])  # item 9 is new: nobody can find it
    world.lists("popularity", {1: [2, 3], 2: [3, 4], 3: [4], 4: []})
    world.lists("als", {1: [3, 2], 2: [4, 1], 3: [1, 4], 4: [1, 2]})
    outcome, rows = world.evaluate(ks=(1, 2))
    second = 1 / math.log2(3)
    by_hand = {
        ("popularity", "hit_rate", 1): 0.75,
        ("popularity", "ndcg", 2): 0.75,
        ("popularity", "mrr", 2): 0.75,
        ("popularity", "map", 2): 0.75,
        ("popularity", "recall", 2): 0.75,
        ("popularity", "precision", 2): 0.375,
        ("als", "hit_rate", 1): 0.0,
        ("als", "hit_rate", 2): 0.5,
        ("als", "ndcg", 2): 2 * second / 4,
        ("als", "mrr", 2): 0.25,
        # Training events: i1 4, i2 3, i3 2, i4 1. User 4 has no list from popularity, and no
        # popularity of it.
        ("popularity", "mean_popularity", 2): (2.5 + 1.5 + 1) / 3,
        ("als", "mean_popularity", 1): (2 + 1 + 4 + 4) / 4,
        ("popularity", "coverage", 1): 3 / 4,
        ("als", "coverage", 2): 1.0,
        ("als", "coverage", 1): 3 / 4,
    }
    for (model, metric, k), value in by_hand.items():
        row = rows[(model, metric, k, "all")]
        assert row.value == pytest.approx(value, abs=1e-12), (model, metric, k)
        assert row.low <= row.value <= row.high
        assert row.n == (3 if (model, metric) == ("popularity", "mean_popularity") else 4)
    assert [rows[("als", "hit_rate", 2, f"activity:{level}")].value for level in (1, 2, 3, 4)] == [
        1,
        0,
        1,
        0,
    ]
    assert [
        rows[("popularity", "hit_rate", 1, f"activity:{level}")].n for level in (1, 2, 3, 4)
    ] == [1, 1, 1, 1]
    # i1, i2, i3, i4 begin after 0, 4, 7, 9 of the 10 events: each in a quarter of its own, i1 in
    # the fourth.
    assert [rows[("als", "hit_rate", 2, f"item_popularity:{level}")].n for level in (1, 2)] == [
        1,
        1,
    ]
    assert (
        rows[("als", "hit_rate", 2, "items:known")].value == pytest.approx(2 / 3)
        and rows[("als", "hit_rate", 2, "items:new")].n == 1
    )
    # als showed i1 to 3 users, i2 to 2, i3 to 1, i4 to 2: sorted 1 2 2 3, sum of (2 place - 5) x =
    # -3 - 2 + 2 + 9 over 4 * 8.
    assert rows[("als", "gini", 2, "all")].value == pytest.approx(6 / 32)
    assert rows[("als", "novelty", 1, "all")].value == pytest.approx(
        (math.log2(10 / 2) + math.log2(10) + 2 * math.log2(10 / 4)) / 4
    )
    # User 3 knows i1 to i3: i4 is the most popular item left, and no surprise. User 1 knows i1, and
    # i2 is the next.
    assert rows[("als", "serendipity", 2, "all")].value == 0
    first = rows[("als", "ndcg", 2, "all")]
    assert (first.run_id, first.of_run_id, first.split, first.seed, first.task) == (
        "eval-1",
        "score_als-1",
        "s",
        5,
        "ranking",
    )
    assert outcome.summary["found"]["score_popularity"]["users_without_list"] == 1
    assert outcome.summary["users"] == 4 and outcome.summary["rows_with_unseen_item"] == 1
    assert outcome.summary["activity_bounds"] == [1.75, 2.5, 3.25]
    assert (
        outcome.tables["recommendations"]
        == world.inputs["score_als"].output_versions["recommendations"]
    )
    shown = {(r["model"], r["metric"], r["k"]): r["value"] for r in outcome.summary["results"]}
    assert shown[("als", "ndcg", 2)] == first.value


def test_odd_lists_are_counted_and_never_flatter(world: World) -> None:
    world.split(TRAIN, [(1, 2), (2, 3), (3, 4)])
    world.lists(
        "popularity",
        {
            1: [(2, NAN), 3],  # the target, but scored NaN
            2: [1, 1, 3],  # repeated: the target stays at the third place
            4: [1, 2, 3],  # nothing to find for user 4 in the test part
            3: [77, 4],  # an item that the data do not hold
        },
    )
    outcome, rows = world.evaluate(ks=(3,), metrics=("mrr",))
    assert {metric for _, metric, *_ in rows} == {"mrr"}  # chosen
    assert outcome.summary["found"]["score_popularity"] == {
        "users_without_list": 0,
        "lists_shorter_than_k": 2,
        "repeated_items": 1,
        "unknown_items": 1,
        "nan_scores": 1,
        "lists_without_target": 1,
    }
    assert rows[("popularity", "mrr", 3, "all")].value == pytest.approx((0 + 1 / 3 + 1 / 2) / 3)
    assert rows[("popularity", "mrr", 3, "all")].n == 3


def test_ratings_by_hand(world: World) -> None:
    values = {(1, 1): 5.0, (2, 1): 1.0, (2, 2): 3.0, (3, 1): 3.0}  # their mean is 3
    world.split(
        [(1, 1), (2, 1), (2, 2), (3, 1)],
        [(1, 2), (1, 3), (2, 3), (3, 2)],
        values | {(1, 2): 4.0, (1, 3): 2.0, (2, 3): 5.0, (3, 2): 1.0},
    )
    world.predictions("global_bias", [(1, 2, 3.0), (1, 3, 2.0), (2, 3, 5.0), (3, 2, 2.0)])
    # NaN, infinite and missing predictions are charged as the training mean; the repeated one and
    # the stranger change nothing.
    world.predictions(
        "mf_bias", [(1, 2, NAN), (1, 3, math.inf), (2, 3, 5.0), (2, 3, 5.0), (4, 4, 1.0)]
    )
    outcome, rows = world.evaluate()
    assert rows[("global_bias", "rmse", 0, "all")].value == pytest.approx(
        math.sqrt((1 + 0 + 0 + 1) / 4)
    )
    assert (
        rows[("global_bias", "mae", 0, "all")].value == pytest.approx(0.5)
        and rows[("global_bias", "mae", 0, "all")].n == 4
    )
    assert rows[("mf_bias", "rmse", 0, "all")].value == pytest.approx(
        math.sqrt((1 + 1 + 0 + 4) / 4)
    )
    assert outcome.summary["found"] == {
        "score_global_bias": {
            "rows_without_prediction": 0,
            "predictions_outside_range": 0,
            "repeated_predictions": 0,
        },
        "score_mf_bias": {
            "rows_without_prediction": 3,
            "predictions_outside_range": 0,
            "repeated_predictions": 1,
        },
    }
    one = rows[("global_bias", "rmse", 0, "all")]
    assert one.low <= one.value <= one.high and (one.task, one.k) == ("rating", 0)


def everything(world: World) -> None:
    """Two rankings, candidates, ratings and clicks on one split, with fields, all of them with what
    is odd.
    """
    draw = np.random.default_rng(0)
    users, items = range(1, 81), 30

    def some(most: int) -> list[int]:
        return [int(i) + 1 for i in draw.permutation(items)[:most]]

    train = [(u, i) for u in users if u % 9 for i in some(int(draw.integers(1, 12))) if i > 2]
    test = sorted({(u, i) for u in users for i in some(3)} - set(train))
    world.split(train, test, {pair: float(draw.random() < 0.4) for pair in (*train, *test)})
    world.fields(
        {u: {"sex": "FM"[u % 2], "age, in years": str(u % 30)} for u in users if u % 7},
        {i: {"genres.all": "|".join("abcd"[: i % 5])} for i in range(1, items + 1) if i % 11},
    )
    for model in ("popularity", "als"):
        world.lists(model, {u: some(int(draw.integers(1, 11))) + [88] for u in users if u % 13})
    held = dict(test)
    world.candidates(
        "popularity",
        {
            u: [(i, float(draw.integers(0, 3))) for i in [*some(9), held[u]]] + [(3, NAN)]
            for u in held
        },
        "drawn",
    )
    rows = [(u, i, float(draw.normal(0.4, 0.4))) for u, i in test if (u + i) % 6]
    world.predictions("global_bias", [*rows, rows[0], (1, 1, NAN), (99, 99, 1.0)])
    world.predictions("ctr", [*rows, rows[0], (1, 1, NAN), (99, 99, 1.0)], task="click")


def test_the_engines_agree_to_the_last_digit_and_another_run_adds_no_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "USERS_PER_BLOCK", 16)  # several blocks
    monkeypatch.setattr(partials, "MAX_GROUPS", 2)  # added in groups before they are sent
    everything(world)
    options = {
        "ks": (5, 10),
        "user_fields": ("sex", "age, in years"),
        "item_fields": ("genres.all",),
    }
    one, rows = world.evaluate(**options, engine="columnar")
    kept = (world.folder / "replicates.parquet").read_bytes()
    world.spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        other, again = world.evaluate(**options, engine="spark")
    finally:
        world.spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert rows == again and one.summary | {"engine": "spark"} == other.summary
    assert kept == (world.folder / "replicates.parquet").read_bytes()
    assert world.lake.read("metrics").count() == len(rows)  # the second replaced the first
    slices = {label for *_, label in rows}
    assert {
        "all",
        "activity:4",
        "users:new",
        "user.sex:F",
        "user.sex:none",
        "user.age, in years:other",
        "item_popularity:1",
        "items:new",
        "item.genres.all:a",
        "item.genres.all:none",
        "pairs:warm",
        "pairs:cold_user",
        "pairs:cold_item",
        "decile:1",
    } <= slices
    assert sum(label.startswith("user.age") for label in slices) == 21
    metrics = {(model, metric) for model, metric, *_ in rows}
    assert {
        ("als", "diversity"),
        ("als", "gini"),
        ("popularity sampled", "auc"),
        ("ctr", "pr_auc"),
        ("global_bias", "rmse"),
    } <= metrics
    for step, odd in one.summary["found"].items():
        assert sum(count > 0 for count in odd.values()) >= 3, (step, odd)
    for row in rows.values():
        assert row.value is None or row.low is None or row.low <= row.high


def test_candidates_by_hand(world: World) -> None:
    world.split(TRAIN, [(1, 2), (2, 3), (3, 4)])
    # Constant: chance
    world.candidates("popularity", {u: [(i, 1.0) for i in range(1, 5)] for u in range(1, 4)})
    world.candidates(
        "als",
        {1: [(2, 3.0), (1, 2.0), (3, 1.0)], 2: [(1, 2.0), (3, 1.0)], 3: [(1, 1.0)], 4: [(1, 1.0)]},
    )
    outcome, rows = world.evaluate(ks=(1, 2))
    assert {row.task for row in rows.values()} == {"sampled_ranking"}
    for k in (1, 2):
        assert rows[("popularity sampled", "hit_rate", k, "all")].value == pytest.approx(
            k / 4, abs=1e-12
        )
    assert rows[("popularity sampled", "auc", 0, "all")].value == 0.5
    assert rows[("als sampled", "mrr", 2, "all")].value == pytest.approx((1 + 1 / 2 + 0) / 3)
    # User 3 has no pair
    assert rows[("als sampled", "auc", 0, "all")].value == pytest.approx((1 + 0) / 2)
    assert outcome.summary["found"]["score_als"] == {
        "users_without_candidates": 0,
        "targets_not_among_candidates": 1,
        "repeated_items": 0,
        "unknown_items": 0,
        "nan_scores": 0,
        "lists_without_target": 1,
    }


def test_clicks_by_hand(world: World) -> None:
    clicks = {(1, 2): 1.0, (1, 3): 0.0, (2, 3): 0.0, (3, 4): 1.0}
    world.split(TRAIN, list(clicks), clicks)
    # A probability above one is one; a missing one is the click rate of the training part, here 1.
    world.predictions("ctr", [(1, 2, 0.8), (1, 3, 1.5), (2, 3, 0.5), (2, 3, 0.9)], task="click")
    outcome, rows = world.evaluate()
    assert rows[("ctr", "auc", 0, "all")].value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert (
        rows[("ctr", "auc_per_user", 0, "all")].value == 0
        and rows[("ctr", "auc_per_user", 0, "all")].n == 1
    )
    eps = np.finfo(float).eps
    assert rows[("ctr", "log_loss", 0, "all")].value == pytest.approx(
        -(math.log(0.8) + math.log(eps) + math.log(0.5) + 0) / 4
    )
    assert rows[("ctr", "calibration", 0, "all")].value == pytest.approx((0.8 + 1 + 0.5 + 1) / 2)
    assert outcome.summary["found"]["score_ctr"] == {
        "rows_without_prediction": 1,
        "predictions_outside_range": 1,
        "users_with_one_label": 2,
        "repeated_predictions": 1,
    }
    with pytest.raises(
        DataError,
        match=r"split 's', part test: found values other than 0 and 1; expected clicks, for "
        r"score_ctr",
    ):
        world.split(TRAIN, [(1, 2)], {(1, 2): 3.0})
        world.inputs["score_ctr"].output_versions.pop("splits", None)
        world.evaluate()


def test_what_cannot_be_compared_is_refused(world: World) -> None:
    world.split(TRAIN, [(1, 2)])
    prepared = dict(world.inputs)

    def refused(message: str, kind: type[Exception] = ConfigError) -> None:
        with pytest.raises(kind, match=message):
            world.evaluate()
        world.inputs = dict(prepared)

    world.lists("als", {1: [2]})
    refused(
        r"found ranking of als alone; expected popularity beside them\. To mend: score "
        r"popularity too"
    )
    world.lists("popularity", {1: [2]})
    world.lists("ease", {})
    refused(
        r"run score_ease-1 in table recommendations: found no rows.*To mend: rerun step score_ease",
        DataError,
    )
    world.predictions("mf_bias", [(1, 2, 1.0)])
    refused(r"found rating of mf_bias alone; expected global_bias beside them")
    world.predictions("global_bias", [(1, 2, 1.0)], split="folds")
    refused(
        r"run score_global_bias-1: found predictions for split 'folds'; expected split 's'\. To "
        r"mend: let score_global_bias"
    )
    assert not world.lake.exists("metrics")


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (
            {"output_versions": {"recommendations": 1}, "config": {"k": 5}},
            r"step eval, ks: found 20; expected at most 5, the length of the lists of scored\. "
            r"To mend: raise k",
        ),
        (
            {"output_versions": {"recommendations": 1}, "upstream": {"other": "other-1"}},
            r"found scored, which was scored for other; expected runs scored for prepare\. To "
            r"mend: evaluate each",
        ),
        (
            {"output_versions": {"recommendations": 1}, "config": {"part": "valid"}},
            r"step eval, part: found test; expected valid, which scored scored\. To mend: set "
            r"the same part in eval and scored",
        ),
        (
            {"output_versions": {"recommendations": 1, "splits": 3}},
            r"found scored, which was scored for version 3 of table splits; expected version "
            r"None, which prepare left\. To mend: run scored",
        ),
        (
            {"output_versions": {}},
            r"step eval, of: found scored, which is a score step; expected steps of stage score",
        ),
    ],
    ids=["lists too short", "another split", "another part", "another version", "nothing scored"],
)
def test_what_the_runs_show_is_refused_before_any_work(
    world: World, scored: dict, message: str
) -> None:
    world.inputs = {
        "prepare": run_of("prepare", "prepare", {}),
        "scored": run_of("scored", "score", {}).model_copy(update=scored),
    }
    with pytest.raises(ConfigError, match=message):
        world.evaluate()


def test_the_dry_run_counts_and_an_empty_part_is_refused(world: World) -> None:
    world.split(TRAIN, [(1, 2), (2, 3)])
    world.lists("popularity", {1: [2]})
    job = evaluate.Job(source="prepare", of=("score_popularity",))
    facts = evaluate.plan(world.context(), job)
    assert facts == {"rows": 2, "models": 1, "engine": "columnar"}
    with pytest.raises(
        DataError,
        match=r"split 's', part valid: found no events; expected at least one\. To mend: choose "
        r"another part",
    ):
        world.evaluate(part="valid")
    assert not world.lake.exists("metrics")


@pytest.mark.parametrize("ks", [(), (0,), (10, 10)])
def test_impossible_cut_offs_die_with_the_configuration(ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ks"):
        evaluate.Job(source="prepare", of=("a",), ks=ks)


def test_an_unknown_metric_dies_with_the_configuration() -> None:
    with pytest.raises(
        ValueError, match=r"no metric 'ndgc' \(did you mean 'ndcg'\?\); there are recall, "
    ):
        evaluate.Job(source="prepare", of=("a",), metrics=("recall", "ndgc"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metrics": ("rmse",)},
            r"metrics: found rmse; expected at least one that ranking has: recall, .*To mend: "
            r"choose one of them",
        ),
        (
            {"metrics": ("diversity",)},
            r"step eval, metrics: found diversity without item_fields; .*To mend: add for "
            r"example item_fields",
        ),
        (
            {"user_fields": ("sex",)},
            r"step eval, user_fields: found sex; expected none, for the data set has no table "
            r"users",
        ),
    ],
    ids=["of another task", "without fields", "without a table"],
)
def test_what_cannot_be_measured_is_refused(world: World, options: dict, message: str) -> None:
    scored = run_of("scored", "score", {"recommendations": 1})
    world.inputs = {
        "prepare": run_of("prepare", "prepare", {}, summary={"split": "s", "rows": 1, **RULE}),
        "scored": scored,
    }
    with pytest.raises(ConfigError, match=message):
        world.evaluate(**options)


def test_an_unknown_field_is_named_with_the_nearest(world: World) -> None:
    world.split(TRAIN, [(1, 2)])
    world.fields({1: {"gender": "F"}}, {1: {"genres": "a"}})
    world.lists("popularity", {1: [2]})
    with pytest.raises(
        ConfigError,
        match=r"step eval, item_fields: found 'genre'; expected one of genres \(did you mean "
        r"'genres'\?\)",
    ):
        world.evaluate(item_fields=("genre",))
