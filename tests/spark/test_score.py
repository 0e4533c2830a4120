"""The score stage, from events to rows of `recommendations` and `predictions`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import CheckpointError, ConfigError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.stages import prepare, score, train_als, train_baseline
from tests.spark.chained import Chain
from tests.spark.prepared import crowd

EVENTS = crowd(users=20, items=12, most=9)  # users 0, 1, 9, 10, 18 and 19 have one or two events


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(spark, tmp_path_factory.mktemp("score"))
    made.ingest(EVENTS)
    made.run("last_out", prepare, source="ingest")
    made.run("random", prepare, source="ingest", rule="random", fractions=(0.6, 0.2, 0.2))
    made.run("popularity", train_baseline, source="last_out", model="popularity")
    made.run("global_bias", train_baseline, source="random", model="global_bias")
    made.run("als", train_als, source="last_out", config={"rank": 2, "iterations": 1, "blocks": 2})
    return made


def parts(steps: Chain, prepared: str) -> dict[tuple[str, str], str]:
    """(user_id, item_id) -> part."""
    return {(row.user_id, row.item_id): row.part for row in steps.rows(c.SPLITS, prepared)}


def deep(steps: Chain, step: str, model: str, prepared: str) -> Run:
    """A train_deep run by hand: a model with random weights, none of them zero, in a checkpoint
    where training leaves one.
    """
    facts, folder = steps.done[prepared].summary, steps.root / "runs" / step
    sizes = Sizes(
        facts["num_users"],
        facts["num_items"],
        {"label_count": 50.0, "label_mean": 3.0, "label_min": 1.0, "label_max": 5.0},
    )
    made, draw = registry.build(model, {}, sizes, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    store.save(folder / "checkpoints" / "best", made, model)
    steps.done[step] = steps.done[prepared].model_copy(
        update={
            "run_id": f"{step}-1",
            "step": step,
            "stage": "train_deep",
            "upstream": {prepared: f"{prepared}-1"},
            "config": {},
            "run_dir": str(folder),
            "summary": {"model": model, "checkpoint": "checkpoints/best"},
        }
    )
    steps.lake.add_run(steps.done[step])
    return steps.done[step]


def test_popularity_lists_are_the_counts_less_the_seen(steps: Chain) -> None:
    run = steps.run("score_popularity", score, model="popularity", source="last_out", k=4)
    part = parts(steps, "last_out")
    counts = Counter(item for (_, item), where in part.items() if where != c.TEST)
    rows = steps.rows(c.RECOMMENDATIONS, "score_popularity")
    assert {row.query_id for row in rows} == {user for user, _ in part} and {
        row.query_kind for row in rows
    } == {"user"}
    for user in {user for user, _ in part}:
        mine = sorted((row.rank, row.item_id, row.score) for row in rows if row.query_id == user)
        open_items = [item for item in counts if part.get((user, item), c.TEST) == c.TEST]
        assert [rank for rank, _, _ in mine] == list(range(1, min(4, len(open_items)) + 1))
        assert all(
            part.get((user, item), c.TEST) == c.TEST and score == counts[item]
            for _, item, score in mine
        )
        assert [score for _, _, score in mine] == sorted(
            (counts[item] for item in open_items), reverse=True
        )[:4]
    assert {(row.model, row.run_id) for row in rows} == {("popularity", "score_popularity-1")}
    assert (
        run.summary["queries"] == 20
        and run.summary["rows"] == len(rows)
        and run.summary["cold"] == 0
    )
    assert {c.SPLITS, c.ITEM_INDEX, c.RECOMMENDATIONS} <= set(run.output_versions)


def test_a_rerun_replaces_and_never_doubles(steps: Chain) -> None:
    steps.run("score_als", score, model="als", source="last_out", k=3)
    first = sorted(steps.rows(c.RECOMMENDATIONS, "score_als"))
    others = steps.lake.read(c.RECOMMENDATIONS).where(f"{c.RUN_ID} <> 'score_als-1'").count()
    steps.run("score_als", score, model="als", source="last_out", k=3, partitions=3)
    assert sorted(steps.rows(c.RECOMMENDATIONS, "score_als")) == first  # on other partitions, too
    assert (
        steps.lake.read(c.RECOMMENDATIONS).where(f"{c.RUN_ID} <> 'score_als-1'").count() == others
    )


def test_the_valid_part_leaves_only_training_items_out(steps: Chain) -> None:
    steps.run("fit_on_train", train_baseline, source="last_out", model="popularity", fit="train")
    steps.run("score_valid", score, model="fit_on_train", source="last_out", part="valid", k=12)
    part, rows = parts(steps, "last_out"), steps.rows(c.RECOMMENDATIONS, "score_valid")
    listed = {(row.query_id, row.item_id) for row in rows}
    items = {item for _, item in part}
    users = {user for user, _ in part}
    assert listed == {
        (user, item) for user in users for item in items if part.get((user, item)) != c.TRAIN
    }


def test_users_without_a_vector_are_folded_in_or_cold_and_counted(steps: Chain) -> None:
    """ALS fitted on the training part of a random split: users with no event there have no vector,
    but perhaps a validation event.
    """
    steps.run(
        "als_random",
        train_als,
        source="random",
        config={"rank": 2, "iterations": 1, "blocks": 2},
        fit="train",
    )
    part = parts(steps, "random")
    trained = {item for (_, item), where in part.items() if where == c.TRAIN}
    without = {user for user, _ in part} - {
        user for (user, _), where in part.items() if where == c.TRAIN
    }
    run = steps.run("score_cold", score, model="als_random", source="random", part="valid", k=3)
    assert (
        without
        and run.summary["cold"] == len(without)
        and run.summary["folded_in"] == 0
        and run.summary["fallback"] == "popularity"
    )
    counts = Counter(item for (_, item), where in part.items() if where == c.TRAIN)
    for user in without:
        mine = [row for row in steps.rows(c.RECOMMENDATIONS, "score_cold") if row.query_id == user]
        scores = [row.score for row in sorted(mine, key=lambda row: row.rank)]
        assert (
            scores
            == sorted((float(counts[item]) for item in {item for _, item in part}), reverse=True)[
                :3
            ]
        )

    later = steps.run("score_folded", score, model="als_random", source="random", part="test", k=3)
    folded = {
        user
        for (user, item), where in part.items()
        if user in without and where == c.VALID and item in trained
    }
    assert folded and (later.summary["folded_in"], later.summary["cold"]) == (
        len(folded),
        len(without - folded),
    )


def test_deep_models_score_from_their_checkpoint(steps: Chain) -> None:
    deep(steps, "multi_vae", "multi_vae", "last_out")
    run = steps.run("score_multi_vae", score, model="multi_vae", source="last_out", k=5)
    rows, part = steps.rows(c.RECOMMENDATIONS, "score_multi_vae"), parts(steps, "last_out")
    assert run.summary["task"] == "ranking" and {row.query_id for row in rows} == {
        user for user, _ in part
    }
    assert all(part.get((row.query_id, row.item_id), c.TEST) == c.TEST for row in rows)


def test_ratings_of_every_row_of_the_part(steps: Chain) -> None:
    trained = deep(steps, "mf_bias", "mf_bias", "random")
    run = steps.run("score_mf_bias", score, model="mf_bias", source="random")
    events = [row for row in steps.rows(c.SPLITS, "random") if row.part == c.TEST]
    rows = {row.row_key: row for row in steps.rows(c.PREDICTIONS, "score_mf_bias")}
    assert set(rows) == {f"{row.user_id}|{row.item_id}|{row.ts}" for row in events} and run.summary[
        "rows"
    ] == len(events)
    assert {(row.split, row.task, row.model) for row in rows.values()} == {
        ("random", "rating", "mf_bias")
    }
    model = store.load(Path(trained.run_dir) / "checkpoints" / "best").eval()
    for event in events:
        nothing = torch.zeros(1)
        at = Rows(
            torch.tensor([event.query_idx]),
            torch.tensor([event.item_idx]),
            nothing,
            nothing,
            torch.zeros(1, dtype=torch.int64),
        )
        row = rows[f"{event.user_id}|{event.item_id}|{event.ts}"]
        assert row.label == event.value and row.value == pytest.approx(
            model.predict(at)["rating"].item(), abs=1e-6
        )


def test_global_bias_predicts_within_the_range_and_counts_cold_rows(steps: Chain) -> None:
    run = steps.run("score_bias", score, model="global_bias", source="random")
    part = parts(steps, "random")
    known = {user for (user, _), where in part.items() if where != c.TEST}
    assert run.summary["cold"] == sum(
        where == c.TEST and user not in known for (user, _), where in part.items()
    )
    assert all(1 <= row.value <= 5 for row in steps.rows(c.PREDICTIONS, "score_bias"))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            {"model": "last_out", "source": "last_out"},
            r"step refused, model: found last_out, a step of stage prepare; expected one of "
            r"stage train_",
        ),
        (
            {"model": "popularity", "source": "random"},
            r"step refused, source: found random, on which popularity was not trained; expected "
            r"the prepare step that popularity builds on",
        ),
        (
            {"model": "popularity", "source": "last_out", "part": "valid"},
            r"step refused, part: found valid, on which the model was fitted; expected test\. To "
            r"mend: set fit: train in step popularity",
        ),
    ],
)
def test_what_would_flatter_a_model_is_refused(
    steps: Chain, job: dict[str, str], message: str
) -> None:
    tables = {
        name: steps.lake.version(name)
        for name in (c.RECOMMENDATIONS, c.PREDICTIONS)
        if steps.lake.exists(name)
    }
    for call in (score.run, score.plan):
        with pytest.raises(ConfigError, match=message):
            call(steps.context("refused"), score.Job(**job))
    assert tables == {name: steps.lake.version(name) for name in tables}


def test_an_index_cut_short_leaves_the_table_as_it_was(steps: Chain) -> None:
    made = steps.run("broken", train_baseline, source="last_out", model="popularity")
    items = Path(made.run_dir) / "index" / "items.npy"
    items.write_bytes(items.read_bytes()[:50])
    before = steps.lake.version(c.RECOMMENDATIONS) if steps.lake.exists(c.RECOMMENDATIONS) else None
    with pytest.raises(
        CheckpointError,
        match=r"items\.npy: found .*; expected float32 of shape \(\d+, 1\)\. To mend: run the step",
    ):
        steps.run("score_broken", score, model="broken", source="last_out")
    assert before == (
        steps.lake.version(c.RECOMMENDATIONS) if steps.lake.exists(c.RECOMMENDATIONS) else None
    )


def test_the_dry_run_starts_nothing(steps: Chain) -> None:
    before = len(steps.lake.runs())
    assert (
        score.plan(steps.context("dry"), score.Job(model="als", source="last_out", k=7))["rows"]
        == 20 * 7
    )
    predictions = score.plan(steps.context("dry"), score.Job(model="global_bias", source="random"))[
        "predictions"
    ]
    assert (
        predictions == sum(where == c.TEST for where in parts(steps, "random").values())
        and len(steps.lake.runs()) == before
    )
