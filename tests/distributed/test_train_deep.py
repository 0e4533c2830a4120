"""The stage train_deep, without Spark: what it refuses, what it plans, what it hands on."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys_spark.commands import scaling
from recsys_spark.core import artifacts, config
from recsys_spark.core.contracts import Run, Train, TrainJob
from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline.context import Context, Env
from recsys_spark.stages import train_deep
from recsys_spark.train.forecast import Network
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.saves.record import RESULT
from tests import shardsets, training
from tests.logs import logged


def _job(**values: Any) -> train_deep.Job:
    small = {"batch_size": 100, "epochs": 2, "reader": {"engine": "arrow"}}
    whole = {"stage": "train_deep", "shards": "rows", "train": small, **values}
    return config.validate(train_deep.Job, whole, source="a.yaml", key="steps.x")


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    made = shardsets.pointwise(tmp_path / "rows/shards")
    rows = Run(
        run_id="rows-1",
        pipeline="p",
        step="rows",
        stage="export_shards",
        key="k",
        config={},
        upstream={},
        input_versions={},
        output_versions={"splits": 4},
        shard_fingerprint=made.fingerprint,
        run_dir=str(tmp_path / "rows"),
        code_version="0",
        seed=1,
        started_at=0.0,
        ended_at=1.0,
    )
    (tmp_path / "run").mkdir()
    return Context(
        spark=None,
        lake=None,
        env=Env(lake="", runs=""),
        pipeline="p",
        step="x",
        run_id="x-1",  # type: ignore[arg-type]
        run_dir=tmp_path / "run",
        inputs={"rows": rows},
        seed=1,
        now=0.0,
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "neumff"}, ["'neumff'", "did you mean 'neumf'"]),
        ({"model": "neumf", "config": {"dmi": 4}}, ["config.dmi", "did you mean 'dim'"]),
        (
            {"model": "neumf", "config": {"dim": 0}},
            ["config.dim", "found 0", "at least 1"],
        ),
        ({"model": "neumf", "config": {"dim": "wide"}}, ["config.dim", "'wide'", "a whole number"]),
        (
            {"model": "neumf", "train": {"bathc_size": 4}},
            ["steps.x.train.bathc_size", "did you mean 'batch_size'"],
        ),
        (
            {"model": "neumf", "workers": {"num_workers": 0}},
            ["steps.x.workers.num_workers", "found 0"],
        ),
        ({}, ["missing key steps.x.model"]),
    ],
)
def test_refused_before_anything_starts(values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        _job(**values)
    assert all(words in str(told.value) for words in said), str(told.value)


def test_the_models_defaults_are_written_out() -> None:
    assert _job(model="neumf").config == {
        **_job(model="neumf", config={"dim": 5}).config,
        "dim": _job(model="neumf").config["dim"],
    }
    assert _job(model="neumf", config={"dim": 5}).config["dim"] == 5


def test_trains_and_hands_on(ctx: Context) -> None:
    job = _job(model="mf_bias", config=training.small("mf_bias"))
    planned = train_deep.plan(ctx, job)
    assert (planned["rows"], planned["steps_per_epoch"], planned["steps"]) == (660, 7, 14)
    assert planned["parameters"] == (61 + 41) * (4 + 1) and planned["worker_bytes"] > 100 << 20
    assert planned["tables_by_rows"] == "none" and "user (61 of 61 rows)" in planned["tables_whole"]
    by_rows = job.model_copy(
        update={"train": Train(batch_size=5, optim={"name": "adam", "sparse": True})}
    )
    planned_rows = train_deep.plan(ctx, by_rows)
    assert planned_rows["tables_by_rows"].startswith("user (5 of 61 rows), item (5 of 41 rows)")
    # Five rows of two tables of width 4 and of two biases, each with its number; all float32
    assert planned["exchanged_bytes"] == (61 + 41) * (4 + 1) * 4
    assert planned_rows["exchanged_bytes"] == 5 * (2 * (4 * 4 + 8) + 2 * (4 + 8)) // 2
    assert not any(ctx.run_dir.iterdir()), "a plan starts no work"
    outcome = train_deep.run(ctx, job)
    assert (
        outcome.tables == {"splits": 4}
        and outcome.shard_fingerprint == ctx.inputs["rows"].shard_fingerprint
    )
    assert outcome.summary["steps"] == planned["steps"] and outcome.summary["model"] == "mf_bias"
    assert outcome.summary["best"]["rmse"] < 1.5
    checkpoint.verify(ctx.run_dir / outcome.summary["checkpoint"])
    assert not (ctx.run_dir / "job.json").exists(), "that name is the step's own"
    assert train_deep.run(ctx, job).summary == outcome.summary, "nothing is trained twice"


def test_a_refit_trains_on_all_events_for_as_many_epochs_as_were_best(
    ctx: Context, tmp_path: Path
) -> None:
    more = shardsets.pointwise(tmp_path / "all/shards", per_user=16)
    config_of = {"source": "prepare", "layout": "pointwise", "label": "value"}
    whole = ctx.inputs["rows"].model_copy(
        update={
            "run_dir": str(tmp_path / "all"),
            "shard_fingerprint": more.fingerprint,
            "config": {**config_of, "fit": "train+valid"},
        }
    )
    ctx.inputs |= {
        "rows": ctx.inputs["rows"].model_copy(update={"config": {**config_of, "fit": "train"}}),
        "all": whole,
    }
    job = _job(model="mf_bias", config=training.small("mf_bias"), refit="all")
    assert train_deep.plan(ctx, job)["fits"] == 2
    outcome = train_deep.run(ctx, job)
    assert (
        outcome.summary["checkpoint"].startswith("refit/") and outcome.summary["best"]["rmse"] < 1.5
    )
    checkpoint.verify(ctx.run_dir / outcome.summary["checkpoint"])
    steps = int(outcome.summary["checkpoint"].rsplit("-", 1)[1])
    assert steps == math.ceil(more.parts["train"].rows / 100) * (outcome.summary["best_epoch"] + 1)
    assert train_deep.run(ctx, job).summary == outcome.summary, "nothing is trained twice"


def test_a_forecast_from_steps_measured_here(ctx: Context) -> None:
    job = _job(model="mf_bias", config=training.small("mf_bias"))
    found = scaling.plan(ctx, job, [2, 1, 512], Network(1e-5, 1e9), rows=6_600)
    assert (
        [one.ranks for one in found.same_batch]
        == [one.ranks for one in found.same_share]
        == [1, 2, 512]
    )
    assert (
        found.cost.exchanged_bytes == 4 * (61 + 41) * 5
        and found.cost.read_rows_per_s > 1000
        and found.rows == 6_600
    )
    one = found.same_batch[0]
    assert (
        one.examples_per_s == pytest.approx(100 / one.step_s)
        and 1e-5 < one.step_s < 1
        and one.efficiency == 1
    )
    assert one.rank_bytes >= found.same_batch[1].rank_bytes > 100 << 20
    assert not any(ctx.run_dir.iterdir()), "nothing stays"


def test_prepared_for_ranks_from_outside_and_their_result_is_taken(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(model="mf_bias", config=training.small("mf_bias"))
    made = TrainJob.model_validate_json(train_deep.prepare(ctx, job).read_text())
    result = training.train_here(made)
    monkeypatch.setattr(
        "recsys_spark.train.launcher.processes.run", lambda *_: pytest.fail("started")
    )
    assert result is not None and train_deep.run(ctx, job).summary["seconds"] == result.seconds
    searched = _job(model="mf_bias", search={"space": {"dim": [2, 3]}})
    with pytest.raises(ConfigError, match="recsys-spark tune"):
        train_deep.prepare(ctx, searched)


def test_a_search_trains_each_trial_and_keeps_the_best(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recorded: list[Run] = []
    monkeypatch.setattr(ctx, "lake", SimpleNamespace(runs=list, add_runs=recorded.extend))
    space = {"dim": [2, 3], "train.optim.lr": {"low": 1e-3, "high": 1e-1}}
    job = _job(
        model="mf_bias", config=training.small("mf_bias"), search={"space": space, "trials": 2}
    )
    assert train_deep.plan(ctx, job)["fits"] == 2
    trained: list[str] = []
    launch = train_deep.launch.launch
    monkeypatch.setattr(
        train_deep.launch, "launch", lambda made: trained.append(made.run_dir) or launch(made)
    )
    outcome = train_deep.run(ctx, job)
    assert [Path(folder).parent.name for folder in trained[:2]] == ["trial", "trial"] and trained[
        2:
    ] == [str(ctx.run_dir)]
    assert len(checkpoint.folders(ctx.run_dir)) and "already_trained" in logged(caplog), (
        "the best trial's training is the step's"
    )
    assert [run.stage for run in recorded] == ["trial", "trial"]
    best = min(recorded, key=lambda run: run.summary["rmse"])
    assert outcome.summary["best"]["rmse"] == best.summary["rmse"] == outcome.summary["valid"], (
        "the same settings, the same numbers"
    )
    assert outcome.summary["dim"] == best.config["dim"] and not (ctx.run_dir / "trial").exists()
    assert train_deep.run(ctx, job).summary == outcome.summary

    # Killed while the best training moved in: what had not yet come is still in the trial's folder.
    late = ctx.run_dir / "trial" / artifacts.fingerprint(best.config)[:10] / RESULT
    late.parent.mkdir(parents=True)
    (ctx.run_dir / RESULT).rename(late)
    assert train_deep.run(ctx, job).summary == outcome.summary and len(trained) == 5
    for wrong, said in (
        ({"train.optim.rl": [1.0]}, "search.space.train.optim.rl"),
        ({"dmi": [2]}, "did you mean 'dim'"),
    ):
        with pytest.raises(ConfigError, match=said):
            _job(model="mf_bias", search={"space": wrong})
