"""A pipeline file is validated whole before Spark starts, and its mistakes are named with their
place.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from recsys_spark.baselines.fitting.registry import names as baseline_names
from recsys_spark.commands.catalogue import entries
from recsys_spark.core.errors import ConfigError
from recsys_spark.datasets.files import obtain
from recsys_spark.models import registry
from recsys_spark.pipeline import runner, steps

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
    assert {name: step.needs for name, step in known.items()} == {
        "raw": (),
        "split": ("raw",),
        "shards": ("split",),
    }
    assert [step.name for step in steps.closure(known, ["split"])] == ["raw", "split"]
    assert steps.select(known, stage="prepare") == ["split"] and steps.select(known) == [
        "raw",
        "split",
        "shards",
    ]


@pytest.mark.parametrize(
    ("patterns", "exclude", "names"),
    [
        (["split"], [], ["split"]),
        (["+split"], [], ["split"]),
        (["split+"], [], ["split", "shards"]),
        (["stage:ingest", "shards"], [], ["raw", "shards"]),
        (["state:failed"], [], ["shards"]),
        ([], ["shards"], ["raw", "split"]),
        (["raw+"], ["split"], ["raw"]),  # what builds on a step that is left out is left out too
    ],
)
def test_steps_are_selected_by_patterns(load, patterns, exclude, names) -> None:
    _, known = load(HEAD + INGEST + PREPARE + EXPORT)
    chosen = steps.select(known, patterns=patterns, exclude=exclude, failed={"shards"})
    assert chosen == names


@pytest.mark.parametrize(
    ("patterns", "exclude", "problem"),
    [
        (["spilt+"], [], "step 'spilt'.*did you mean 'split'"),
        (["stage:prepar"], [], "no step of stage prepar; expected one of .*did you mean 'prepare'"),
        (["state:failed"], [], "no step that failed last"),
        (["split"], ["raw"], "no step left to run.*leave out --exclude"),
    ],
)
def test_a_selection_of_nothing_is_refused(load, patterns, exclude, problem) -> None:
    _, known = load(HEAD + INGEST + PREPARE + EXPORT)
    with pytest.raises(ConfigError, match=problem):
        steps.select(known, patterns=patterns, exclude=exclude)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEAD + "  raw: {stage: ingst}\n", ["steps.raw.stage", "'ingst'", "did you mean 'ingest'"]),
        (HEAD + "  raw: {dataset: ml-1m}\n", ["missing key steps.raw.stage"]),
        (
            HEAD + INGEST + PREPARE.replace("source: raw", "source: rwa"),
            ["steps.split.source", "'rwa'", "did you mean 'raw'"],
        ),
        (HEAD + PREPARE + INGEST, ["steps.split.source", "'raw'", "there is none"]),
        (
            HEAD + INGEST + PREPARE.replace("rule:", "rul:"),
            ["unknown key steps.split.rul", "did you mean 'rule'"],
        ),
        (
            HEAD + INGEST + PREPARE.replace("leave_last_out}", "last}"),
            ["steps.split.rule", "'last'", "leave_last_out"],
        ),
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
        steps.select(known, patterns=["row"])
    with pytest.raises(ConfigError, match="no step of stage report"):
        steps.select(known, stage="report")


@pytest.mark.parametrize(
    "path",
    sorted(Path(__file__).parents[2].glob("conf/pipelines/*.yaml")),
    ids=lambda path: path.stem,
)
def test_every_pipeline_of_the_project_is_valid(path: Path) -> None:
    _, known = steps.load(path)
    assert known


def test_every_model_and_baseline_names_its_paper() -> None:
    found = {entry.name: entry for entry in entries()}
    assert {"mf_bias", "neumf", "multi_vae", "als", "popularity", "global_bias"} <= set(found)
    assert (
        found["neumf"].kind == "pointwise"
        and found["neumf"].task == "ranking"
        and "2017" in found["neumf"].paper
    )
    assert found["als"].kind == "baseline" and found["als"].task == "ranking or rating"
    assert (found["fm"].task, found["mf_mixture"].task, found["gmf"].task) == (
        "rating or click",
        "rating",
        "ranking",
    ), "also what a class derives"
    assert all(
        entry.task in ("rating", "click", "ranking", "ranking or rating", "rating or click")
        for entry in found.values()
    )
    assert set(found) == {*registry.names(), *baseline_names()}, "whatever can be trained is listed"


def test_asking_what_is_done_fetches_no_raw_files(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(obtain, "obtain", lambda *_, **__: pytest.fail("fetched"))
    pipeline, known = load(HEAD + INGEST + PREPARE)
    lake = SimpleNamespace(runs=list)
    assert runner.kept(pipeline, list(known.values()), lake=lake) == {}
