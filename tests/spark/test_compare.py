"""A comparison from a lake made by hand: values, pairing, lists, users, and input that is
missing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.commands import compare, differences
from recsys_spark.commands.comparable import Measured
from recsys_spark.commands.compare import Wanted
from recsys_spark.core import xxh64
from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.lake.direct import Direct
from recsys_spark.lake.gathered import Gathered
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics import paired
from recsys_spark.report.content import Change, Compared, Counted
from tests.spark.scored_world import World, run_of
from tests.spark.typed import ROOT

NAN = float("nan")
# Items by training events: i1 3, i2 2, i3 1; i4 has none. Users 1..4 are evaluated, each on one
# event; user 5 has nothing to find.
TRAIN = [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (5, 3)]
TEST = [(1, 2), (2, 3), (3, 4), (4, 3)]
POPULARITY = {1: [2, 3], 2: [2, 3], 3: [2, 3], 4: [1, 3], 5: [1]}  # hits at place 1, 2, none, 2
# Hits at place 1, 1, 1; for user 4 the score is not a number
ALS = {
    1: [2, 3],
    2: [3, 2],
    3: [4, 2],
    4: [1, (3, NAN)],
    5: [1],
}
# Hits for user 3 alone; no list for user 4
NEUMF: dict[int, list] = {
    1: [3, 4],
    2: [4, 2],
    3: [4, 1],
}
IDS = ("score_als-1", "score_neumf-1", "score_popularity-1")


@pytest.fixture(scope="module")
def world(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three scored rankings, evaluated once; `recorded` holds every run, as the lake would."""
    folder = tmp_path_factory.mktemp("compare")
    made = World(spark, Lake(spark, str(folder / "lake")), folder / "runs" / "eval-1")
    made.split(TRAIN, TEST)
    titles = spark.createDataFrame(
        [(f"i{i}", f"Title {i}", {"genres": "Drama|War"}) for i in range(1, 4)], SCHEMAS["items"]
    )
    made.inputs["prepare"].output_versions["items"] = made.lake.merge_new("items", titles)
    models = {
        "popularity": ("train_baseline", POPULARITY),
        "als": ("train_als", ALS),
        "neumf": ("train_deep", NEUMF),
    }
    for name, (_, lists) in models.items():
        made.lists(
            name,
            lists,
            upstream={"prepare": "prepare-1", name: f"{name}-1"},
            config={"model": name, "source": "prepare", "k": 2},
        )
    outcome, _ = made.evaluate(ks=(1, 2))
    config = {
        "source": "prepare",
        "of": [f"score_{name}" for name in models],
        "part": "test",
        "replicas": 100,
    }
    evaluated = run_of(
        "eval",
        "evaluate",
        outcome.tables,
        summary=json.loads(json.dumps(outcome.summary)),
        config=config,
        upstream={step: run.run_id for step, run in made.inputs.items()},
        run_dir=str(made.folder),
    )
    trained = [
        run_of(name, stage, {}, config={"model": name}) for name, (stage, _) in models.items()
    ]
    ingested = run_of(
        "ingest", "ingest", {}, config={"dataset": "tiny"}, summary={"generated": True}
    )
    made.inputs["prepare"] = made.inputs["prepare"].model_copy(
        update={"upstream": {"ingest": "ingest-1"}}
    )
    made.recorded = [ingested, *trained, *made.inputs.values(), evaluated]  # type: ignore[attr-defined]
    return made


def compared(world: World, *runs: str, lake: Any = None, **more: Any) -> tuple[Any, str]:
    """The comparison and its page."""
    lake = lake or Direct(world.lake.root)
    lake.runs = lambda: world.recorded
    page, path = compare.compare(
        lake, Wanted(runs or ("eval",), **more), runs_dir=world.folder.parent, seed=1, now=0.0
    )
    assert path.parent == world.folder.parent / "comparisons"
    return page, path.read_text(encoding="utf-8")


def of(made: Compared, run: str, metric: tuple[str, int], label: str = "all") -> Any:
    return next(
        one
        for one in made.differences
        if (one.run_id, one.column, one.slice) == (f"score_{run}-1", metric, label)
    )


def test_everything_that_an_evaluation_measured_against_its_strongest_baseline(
    world: World,
) -> None:
    page, document = compared(world)
    made = page.compared[0]
    assert (made.task, made.primary, made.reference, made.replicas) == (
        "ranking",
        ("ndcg", 1),
        "score_als-1",
        100,
    )
    assert (
        made.why == "the strongest baseline in NDCG@1"
        and page.title == "tiny"
        and page.data.startswith("Generated data")
    )
    # Recall at 2: als 3 of 4, popularity 3 of 4, neumf 1 of 4.
    assert of(made, "neumf", ("recall", 2)).value == pytest.approx(-0.5) and of(
        made, "popularity", ("recall", 2)
    ).value == pytest.approx(0)
    one = of(made, "neumf", ("ndcg", 1))
    assert (
        one.value == pytest.approx(-0.5)
        and one.low < one.value < one.high
        and one.p <= one.corrected <= 2 * one.p + 1e-12
    )
    assert of(made, "popularity", ("ndcg", 1)).value == pytest.approx(-0.5)
    slices = {one.slice for one in made.differences if one.column == made.primary}
    assert "activity:1" in slices and all(
        one.p is None for one in made.differences if one.slice != "all"
    )
    assert (
        "1 places with a score that is not a number" in document
        and "1 users without a list" in document
    )
    assert "als" in document and 'id="slices"' in document and "Generated data" in document


def test_paired_intervals_come_from_the_replicas_of_both_runs(world: World) -> None:
    made = compared(world, "score_als", "score_popularity", reference="score_popularity")[
        0
    ].compared[0]
    kept = paired.read(world.folder / paired.FILE, task="ranking", slice="all")
    als, popularity = (
        kept[paired.Key(f"score_{name}-1", "ranking", "all")] for name in ("als", "popularity")
    )
    apart = paired.difference(als, popularity)["ndcg@2"]
    found = of(made, "als", ("ndcg", 2))
    assert (found.value, found.low, found.high, found.p) == (
        apart.value,
        apart.low,
        apart.high,
        apart.p,
    ) and found.corrected == found.p
    assert made.reference == "score_popularity-1" and made.why == "named as the reference"
    assert not [one for one in made.differences if one.run_id == "score_neumf-1"]


def test_what_the_lists_are_made_of_is_counted_by_popularity(world: World) -> None:
    page, _ = compared(world, metric="ndcg@2")
    als, neumf, popularity = IDS
    # Of the four evaluated users alone: user 5 has a list and nothing to find.
    assert page.lists.k == 2 and page.lists.popularity == (
        Counted(0, 1, 1, {als: 1, neumf: 3, popularity: 0}),  # i4
        Counted(1, 1, 2, {als: 3, neumf: 1, popularity: 4}),  # i3
        Counted(2, 1, 1, {als: 3, neumf: 1, popularity: 3}),  # i2
        Counted(3, 1, 0, {als: 1, neumf: 1, popularity: 1}),  # i1
    )


def test_whom_the_lists_change(world: World) -> None:
    page, document = compared(world, metric="ndcg@2", reference="score_popularity")
    # als loses user 4, whose hit has no score, and gains user 3; neumf finds user 3's event alone.
    assert sorted(page.lists.changes, key=lambda change: change.run_id) == [
        Change("score_als-1", both=2, gained=1, lost=1, neither=0, shared=7 / 4),
        Change("score_neumf-1", both=0, gained=1, lost=3, neither=0, shared=2 / 4),
    ]
    assert {example.query_id for example in page.lists.differing} == {"u1", "u2", "u3", "u4"}
    assert list(page.lists.drawn[0].lists)[0] == "popularity"  # the reference's list stands first
    user = next(part for part in document.split("<details ") if "User u3" in part)
    assert (
        '<em class="new">new</em>i4' in user
        and "<span>gone</span> Title 3" in user
        and "found by als and neumf" in user
    )


def test_no_example_users(world: World) -> None:
    page, document = compared(world, example_users=0)
    assert (
        page.lists.drawn == page.lists.differing == ()
        and 'id="examples"' not in document
        and 'id="changes"' in document
    )


def test_an_unknown_metric_or_cut_off_is_named(world: World) -> None:
    with pytest.raises(
        ConfigError,
        match=r"--metric: found 'ndgc@2'; expected one that was measured: .*ndcg@1, ndcg@2.*mean "
        r"'ndcg@2'",
    ):
        compared(world, metric="ndgc@2")
    for metric in ("ndcg@7", "ndcg", "ndcg@x"):
        with pytest.raises(
            ConfigError, match=f"--metric: found '{metric}'; expected one that was measured"
        ):
            compared(world, metric=metric)


def test_fewer_than_two_runs_and_a_reference_that_is_several(world: World) -> None:
    with pytest.raises(
        RecsysError,
        match=r"runs to compare: found score_als-1 alone; expected at least two different scored "
        r"runs",
    ):
        compared(world, "score_als", "score_als-1")
    with pytest.raises(
        RecsysError,
        match=r"--reference: found eval-1, which stands for 3 scored runs; expected one",
    ):
        compared(world, "score_als", reference="eval")


def test_an_evaluation_without_its_replicas_is_named(world: World) -> None:
    path, aside = world.folder / paired.FILE, world.folder / "aside"
    path.rename(aside)
    try:
        with pytest.raises(DataError, match=r"eval-1/replicates\.parquet"):
            compared(world)
        path.write_bytes(aside.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"eval-1/replicates\.parquet"):
            compared(world)
        kept = paired.read(aside)
        paired.write(
            path, {key: made for key, made in kept.items() if key.of_run_id != "score_neumf-1"}
        )
        with pytest.raises(
            DataError,
            match=r"replicates\.parquet: found no replicas of run score_neumf-1; .*To mend: "
            r"evaluate again",
        ):
            compared(world)
    finally:
        aside.replace(path)


def test_an_evaluation_without_values_is_named(world: World) -> None:
    measured_by = world.recorded[-1]  # type: ignore[attr-defined]
    absent = measured_by.model_copy(update={"run_id": "ranking-1", "step": "ranking"})
    runs = [Measured(run_of(step, "score", {}), absent, "ranking") for step in ("a", "b")]
    with pytest.raises(
        DataError,
        match=r"run ranking-1 in table metrics: found no rows; .*To mend: rerun step ranking",
    ):
        differences.compared(Direct(world.lake.root), {"ranking": runs}, [])


def test_spark_and_the_files_alone_give_one_page(world: World) -> None:
    gathered = Gathered(Lake(world.spark, world.lake.root))
    assert compared(world) == compared(world, lake=gathered)


def test_a_hash_is_that_of_spark(spark: SparkSession) -> None:
    texts = ["", "u7", "é and 31 bytes, no more of them", "x" * 32, "longer than a lane: " * 5]
    salts = [-5, 2**62 + 1]
    rows = spark.createDataFrame(
        [(text, salt) for text in texts for salt in salts], "a string, b long"
    )
    hashed = rows.select("a", "b", F.xxhash64("b", "a"), F.xxhash64("a")).collect()
    assert [(row[2], row[3]) for row in hashed] == [
        (xxh64.of(row.b, row.a), xxh64.of(row.a)) for row in hashed
    ]


NO_JAVA = """
import json, shutil, sys
from typer.testing import CliRunner
from recsys_spark.cli.commands import app

assert shutil.which("java") is None
for arguments in json.loads(sys.argv[1]):
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, (arguments, outcome.output, outcome.exception)
    print(json.dumps(outcome.output))
assert "pyspark" not in sys.modules and "torch" not in sys.modules
"""


def test_what_only_asks_needs_no_java(world: World, tmp_path: Path) -> None:
    lake = Lake(world.spark, world.lake.root, world.folder.parent)
    lake.add_runs(world.recorded)  # type: ignore[attr-defined]
    file = tmp_path / "p.yaml"
    env = {"lake": world.lake.root, "runs": str(world.folder.parent)}
    file.write_text(json.dumps({"name": "p", "env": env, "steps": {"raw": {"stage": "ingest"}}}))
    asked = [
        ["runs", str(file), "--json"],
        ["models", "--json"],
        ["show", "u4", str(file), "--json"],
        ["compare", "score_als", "score_popularity", str(file), "--json"],
        ["compare", "score_als", "score_popularity", str(file)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", NO_JAVA, json.dumps(asked)],
        env={"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *answers, text = map(json.loads, done.stdout.splitlines())
    runs, models, shown, both = map(json.loads, answers)
    assert {run["run_id"] for run in runs} == {run.run_id for run in world.recorded}  # type: ignore[attr-defined]
    assert {"als", "markov"} <= {model["name"] for model in models}
    assert [event["title"] for event in shown["history"]] == ["Title 3", "Title 2"]
    lists = {listed["model"]: listed["places"] for listed in shown["lists"]}
    assert [(place["title"], place["score"]) for place in lists["als"]] == [
        ("Title 1", 1.0),
        ("Title 3", None),  # which is not a number
    ]
    assert "neumf" not in lists and len(lists["popularity"]) == 2
    [task] = both["tasks"]
    page, document = compared(world, "score_als", "score_popularity")
    assert Path(both["page"]).read_text() == document.replace("1970-01-01 00:00", _written(both))
    assert task["reference"] == page.compared[0].reference
    apart = {(entry["run_id"], entry["column"], entry["slice"]) for entry in task["differences"]}
    assert ("score_popularity-1", "ndcg@1", "all") in apart
    assert "als beats popularity" in text or "cannot be told apart" in text


def _written(facts: Any) -> str:
    """When the page of a comparison was written."""
    found = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d(?= UTC)", Path(facts["page"]).read_text())
    assert found
    return found[0]
