"""The report stage on a lake made by hand: what it reads, whom it shows, and input that is missing
or cut.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.stages import report
from tests.spark.scored_world import World, run_of

TRAIN = [(u, i) for u in range(1, 5) for i in range(1, u + 2)]
CURVE = [
    {"epoch": 0, "train_bce": 0.7, "ndcg@10": 0.1},
    {"epoch": 1, "train_bce": 0.6, "ndcg@10": 0.2},
]


@pytest.fixture(scope="module")
def world(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two scored rankings, evaluated; titles for the items; one model with curves and one
    without.
    """
    folder = tmp_path_factory.mktemp("report")
    lake = Lake(spark, str(folder / "lake"))
    made = World(spark, lake, folder / "runs")
    made.split(TRAIN, [(1, 3), (2, 4), (3, 5), (4, 6)], {pair: float(pair[1]) for pair in TRAIN})
    # I6 has none
    items = [(f"i{i}", f"Title {i} <b>", {"genres": "Drama|War"}) for i in range(1, 6)]
    made.inputs["prepare"].output_versions["items"] = lake.merge_new(
        "items", spark.createDataFrame(items, SCHEMAS["items"])
    )
    made.lists("popularity", {u: [1, 2] for u in range(1, 5)})
    made.lists("neumf", {1: [3, 4], 2: [5, 6], 3: [4, 5], 4: []})
    outcome, _ = made.evaluate(ks=(1, 2))
    made.inputs = {
        "eval": run_of(
            "eval",
            "evaluate",
            outcome.tables,
            summary=json.loads(json.dumps(outcome.summary)),
            upstream={step: run.run_id for step, run in made.inputs.items()},
            config={"source": "prepare"},
        )
    }
    for step, curve in (("neumf", CURVE), ("als", None)):
        made.inputs[step] = run_of(
            step, "train", {}, config={"model": step}, run_dir=str(folder / step)
        )
        if curve is not None:
            (folder / step).mkdir()
            (folder / step / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in curve)
            )
    return made


def job(**changes: object) -> report.Job:
    return report.Job(**{"evaluation": ("eval",), "trained": ("neumf", "als")} | changes)  # type: ignore[arg-type]


def test_the_report_holds_results_curves_and_users_by_title(world: World) -> None:
    outcome = report.run(world.context("report"), job())
    page = (world.folder / "report.html").read_text(encoding="utf-8")
    assert outcome.summary == {"evaluations": 1, "curves": 1, "example_users": 4}
    assert page.count('<details class="user"') == 4 and page.count("best at epoch 2 of 2") == 1
    assert "Title 3 &lt;b&gt;<small>Drama, War</small>" in page and "<b>Title" not in page
    assert "found by neumf" in page and ">i6<" in page  # an item without a title is shown by its id
    assert page.count("loses to popularity") == 0 and "up to 2 events" in page
    user = next(part for part in page.split("<details ") if "User u4" in part)
    # Best liked first; their held-out item is i6; popularity has a list for u4 and neumf has none.
    assert (
        user.index("Title 5") < user.index("Title 4") < user.index("Title 1")
        and "no list" in user
        and "found by none" in user
    )


def test_no_curves_and_no_users(world: World) -> None:
    outcome = report.run(world.context("report"), job(trained=(), example_users=0))
    page = (world.folder / "report.html").read_text(encoding="utf-8")
    assert outcome.summary == {"evaluations": 1, "curves": 0, "example_users": 0}
    assert 'id="examples"' not in page and 'id="training"' not in page and 'id="results"' in page


def test_a_curve_file_that_is_cut_is_named(world: World) -> None:
    path = Path(world.inputs["neumf"].run_dir) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    (world.folder / "report.html").unlink(missing_ok=True)
    try:
        with pytest.raises(
            DataError,
            match=r"neumf/metrics\.jsonl: found .*; expected one JSON object a line\. To mend: "
            r"rerun step neumf",
        ):
            report.run(world.context("report"), job())
    finally:
        path.write_text(whole)
    assert not (world.folder / "report.html").exists()


def test_a_step_that_is_no_evaluation_is_refused(world: World) -> None:
    with pytest.raises(
        ConfigError,
        match="step report, evaluation: found neumf, which "
        "is a train step; expected steps of stage evaluate",
    ):
        report.plan(world.context("report"), job(evaluation=("neumf",)))
