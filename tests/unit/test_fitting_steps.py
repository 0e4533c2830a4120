"""Steps that do not fit together are refused when the file is read, not after the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline import steps

FITTING = {
    "raw": "{stage: ingest, dataset: ml-1m}",
    "split": "{stage: prepare, source: raw}",
    "other": "{stage: prepare, source: raw, split: other}",
    "drawn": "{stage: candidates, source: split}",
    "popularity": "{stage: train_baseline, source: split, model: popularity}",
    "als": "{stage: train_als, source: split}",
    "bias": "{stage: train_baseline, source: split, model: global_bias}",
    "rows": "{stage: export_shards, source: split, label: one}",
    "all_rows": "{stage: export_shards, source: split, label: one, fit: train+valid}",
    "deep": "{stage: train_deep, model: neumf, shards: rows, refit: all_rows}",
    "score_popularity": "{stage: score, model: popularity, source: split}",
    "score_als": "{stage: score, model: als, source: split}",
    "score_bias": "{stage: score, model: bias, source: split}",
    "score_deep": "{stage: score, model: deep, source: split, candidates: drawn}",
    "ranking": "{stage: evaluate, source: split, of: [score_popularity, score_als]}",
    "report": "{stage: report, evaluation: [ranking], trained: [als]}",
}


def load(tmp_path: Path, **changed: str) -> None:
    lines = [f"  {name}: {text}" for name, text in (FITTING | changed).items()]
    head = "name: t\nenv: {lake: l, runs: r}\nsteps:\n"
    (tmp_path / "p.yaml").write_text(head + "\n".join(lines))
    steps.load(tmp_path / "p.yaml")


def test_steps_that_fit_are_taken(tmp_path: Path) -> None:
    load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("ranking", "{stage: evaluate, source: split, of: [score_als]}",
         ["ranking.of: found ranking of als alone", "expected popularity beside them"]),
        ("ranking", "{stage: evaluate, source: split, of: [score_popularity, score_deep]}",
         ["ranking.of: found sampled_ranking of neumf alone"]),
        ("ranking", "{stage: evaluate, source: other, of: [score_popularity]}",
         ["ranking.source: found other", "expected split, which score_popularity scores"]),
        ("ranking", "{stage: evaluate, source: split, part: valid, of: [score_popularity]}",
         ["ranking.part: found valid", "test, which score_popularity scores"]),
        ("ranking", "{stage: evaluate, source: split, of: [score_popularity], ks: [10, 21]}",
         ["ranking.ks: found 21", "at most 20, the length of the lists of score_popularity"]),
        ("ranking", "{stage: evaluate, source: split, of: [score_popularity], metrics: [rmse]}",
         ["metrics: found rmse", "at least one that ranking has"]),
        ("ranking", "{stage: evaluate, source: split, of: [score_popularity], "
         "metrics: [diversity]}",
         ["ranking.metrics: found diversity without item_fields"]),
        ("ranking", "{stage: evaluate, source: split, of: [als]}",
         ["ranking.of: found als, a step of stage train_als", "one of stage score"]),
        ("report", "{stage: report, evaluation: [score_als]}",
         ["report.evaluation: found score_als, a step of stage score"]),
        ("score_als", "{stage: score, model: als, source: other}",
         ["score_als.source: found other, on which als is not trained"]),
        ("score_als", "{stage: score, model: als, source: split, part: valid}",
         ["score_als.part: found valid, on which als is fitted", "set fit: train in als"]),
        ("score_deep", "{stage: score, model: deep, source: split, part: valid}",
         ["score_deep.part: found valid", "leave out refit in deep"]),
        ("score_bias", "{stage: score, model: bias, source: split, task: click}",
         ["score_bias.task: found click, of bias, which is made for rating"]),
        ("score_bias", "{stage: score, model: bias, source: split, candidates: drawn}",
         ["score_bias.candidates: found drawn, for bias, which predicts ratings"]),
        ("drawn", "{stage: candidates, source: other}",
         ["score_deep.candidates: found drawn, whose source is other"]),
        ("drawn", "{stage: candidates, source: split, part: valid}",
         ["score_deep.candidates: found drawn, whose part is valid"]),
        ("als", "{stage: train_als, source: split, candidates: drawn, search: {trials: 2, "
         "space: {rank: {low: 8, high: 16}}}}",
         ["als.candidates: found drawn, whose part is test", "whose part is valid"]),
        ("listed", "{stage: candidates, source: split, part: valid, among: union, of: [score_als]}",
         ["listed.of: found score_als, whose part is test", "lists whose part is valid"]),
        ("listed", "{stage: candidates, source: other, among: union, of: [score_als]}",
         ["listed.of: found score_als, whose source is split"]),
        ("listed", "{stage: candidates, source: split, among: union, of: [score_deep]}",
         ["listed.of: found score_deep, which does not rank the whole catalogue"]),
        ("listed", "{stage: candidates, source: split, among: union}", ["`of`"]),
        ("listed", "{stage: candidates, source: split, of: [score_als]}", ["among: union"]),
        ("boosted", "{stage: train_baseline, source: split, model: union_boosted}",
         ["union_boosted is fitted on united lists"]),
        ("boosted", "{stage: train_baseline, source: split, model: union_boosted, "
         "candidates: drawn, fit: train}", ["leave out fit"]),
        ("boosted", "{stage: train_baseline, source: split, model: union_boosted, "
         "candidates: drawn, search: {trials: 2, space: {leaves: [7, 15]}}}",
         ["leave out search"]),
        ("rows", "{stage: export_shards, source: split, layout: pairs}",
         ["deep.shards: found rows, of layout pairs", "layout pointwise, which neumf reads"]),
        ("all_rows", "{stage: export_shards, source: split, label: one}",
         ["deep.refit: found all_rows, without the validation events"]),
        ("all_rows", "{stage: export_shards, source: split, label: one, fit: train+valid, "
         "positive_min: 4}",
         ["deep.refit: found all_rows, with positive_min: 4", "expected None, as in rows"]),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_are_named(
    tmp_path: Path, name: str, text: str, parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as problem:
        load(tmp_path, **{name: text})
    for part in parts:
        assert part in str(problem.value)


def test_a_model_of_items_profiles_does_not_rank(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="score_deep.task: found ranking, of deep, which reads"):
        load(
            tmp_path,
            rows="{stage: export_shards, source: split, layout: profile, by: item}",
            deep="{stage: train_deep, model: autorec_item, shards: rows}",
            score_deep="{stage: score, model: deep, source: split, task: ranking}",
        )


def test_shards_with_the_validation_events_are_not_scored_on_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found valid, on which deep is fitted.*train in all_ro"):
        load(
            tmp_path,
            deep="{stage: train_deep, model: neumf, shards: all_rows}",
            score_deep="{stage: score, model: deep, source: split, part: valid}",
        )
