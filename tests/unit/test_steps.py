"""A pipeline file is validated whole before Spark starts, and its mistakes are named with their place."""

from pathlib import Path

import pytest

from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.stages import steps, train_baseline
from recsys_spark.stages.catalogue import entries

HEAD = "name: t\nenv: {lake: l, runs: r}\nsteps:\n"
INGEST = "  raw: {stage: ingest, dataset: ml-1m}\n"
PREPARE = "  split: {stage: prepare, source: raw, split: s, rule: leave_last_out}\n"
EXPORT = "  shards: {stage: export_shards, source: split, layout: pointwise, label: one}\n"


@pytest.fixture
def load(tmp_path: Path):
    def from_text(text: str):
        (tmp_path / "p.yaml").write_text(text)
        return steps.load(tmp_path / "p.yaml")

    return from_text


def test_steps_know_what_they_need(load) -> None:
    _, known = load(HEAD + INGEST + PREPARE + EXPORT)
    assert {name: step.needs for name, step in known.items()} == {"raw": (), "split": ("raw",), "shards": ("split",)}
    assert [step.name for step in steps.closure(known, ["split"])] == ["raw", "split"]
    assert steps.select(known, stage="prepare") == ["split"] and steps.select(known) == ["raw", "split", "shards"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEAD + "  raw: {stage: ingst}\n", ["steps.raw.stage", "'ingst'", "did you mean 'ingest'"]),
        (HEAD + "  raw: {dataset: ml-1m}\n", ["missing key steps.raw.stage"]),
        (HEAD + INGEST + PREPARE.replace("source: raw", "source: rwa"), ["steps.split.source", "'rwa'", "did you mean 'raw'"]),
        (HEAD + PREPARE + INGEST, ["steps.split.source", "'raw'", "there is none"]),
        (HEAD + INGEST + PREPARE.replace("rule:", "rul:"), ["unknown key steps.split.rul", "did you mean 'rule'"]),
        (HEAD + INGEST + PREPARE.replace("leave_last_out}", "last}"), ["steps.split.rule", "'last'", "leave_last_out"]),
        ("name: t\nevn: {}\n", ["evn"]),
        ("name: 'a b'\nenv: {lake: l, runs: r}\nsteps:\n" + INGEST, ["name", "'a b'"]),
        ("name: t\nenv: {lake: l, runs: r}\nsteps: {}\n", ["steps"]),
    ],
)
def test_a_mistake_is_named(load, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    for part in ["p.yaml", *parts]:
        assert part in str(caught.value)


def test_an_unknown_step_is_named(load) -> None:
    _, known = load(HEAD + INGEST)
    with pytest.raises(ConfigError, match="step 'row'.*did you mean 'raw'"):
        steps.select(known, names=["row"])
    with pytest.raises(ConfigError, match="no step of stage report"):
        steps.select(known, stage="report")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("conf/pipelines/*.yaml")), ids=lambda path: path.stem)
def test_every_pipeline_of_the_project_is_valid(path: Path) -> None:
    _, known = steps.load(path)
    assert known


def test_every_model_and_baseline_names_its_paper() -> None:
    found = {entry.name: entry for entry in entries()}
    assert {"mf_bias", "neumf", "multi_vae", "als", "popularity", "global_bias"} <= set(found)
    assert found["neumf"].kind == "pointwise" and found["neumf"].task == "ranking" and "2017" in found["neumf"].paper
    assert found["als"].kind == "baseline" and found["als"].task == "either"
    assert (found["fm"].task, found["mf_mixture"].task, found["gmf"].task) == ("either", "rating", "ranking"), "also what a class derives"
    assert all(entry.task in ("rating", "click", "ranking", "either") for entry in found.values())
    assert set(found) == {*registry.names(), *train_baseline.names()}, "whatever can be trained is listed"
