"""README and docs/own-data.md, command by command, as a newcomer types them (typed.py): the whole
path on a small generated set, then on interactions that are not MovieLens.

Ranks, Petastorm, Horovod, Spark and Delta are all real. Left out: `make test` (this) and the
download (tests/unit/test_download.py). `make test` has the way from a table to lists; `make soak`
every command, beginning with the demo. That all of them are commands: tests/unit/test_docs.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recsys_spark import load
from recsys_spark.core import columns as c
from tests import postgres
from tests.spark.typed import ROOT, Shell, commands

PARTS = "spark.sql.adaptive.coalescePartitions.initialPartitionNum"


@pytest.fixture(scope="module")
def shell(spark, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    typed = Shell(spark, tmp_path_factory.mktemp("readme"))
    yield typed
    typed.close()


def run_demo(shell: Shell) -> None:
    """`make demo`, the first command."""
    demo = shell.run("make -o setup demo")  # set-up itself: tests/unit/test_setup.py
    for model in ("popularity", "als", "neumf", "multi_vae", "mf_bias", "global_bias"):
        assert re.search(rf"{model}\b", demo), f"{model} is not in the table of results"
    [report] = (shell.out / "ml-1m" / "runs").glob("report-*/report.html")
    page = report.read_text(encoding="utf-8")
    assert len(page) > 10_000 and ("It beats" in page or "cannot be told apart" in page)
    latest = shell.out / "ml-1m" / "report.html"
    assert latest.read_text(encoding="utf-8") == page and f"report: {latest}" in demo


@pytest.mark.soak
def test_the_demo_with_the_settings_that_are_shipped(spark, tmp_path) -> None:
    shell = Shell(spark, tmp_path, tiny=False)
    run_demo(shell)
    shell.close()


@pytest.mark.soak
def test_every_command_of_the_readme(shell: Shell) -> None:
    todo = [command for command in commands(ROOT / "README.md") if "lastfm" not in command]
    assert todo[0] == "make demo" and len(todo) >= 9
    run_demo(shell)
    for command in todo[1:]:
        said = shell.run(command.replace("RUN_ID", shell.run_ids("multi_vae")[0]))
        if command.endswith("ml-1m.yaml"):
            assert (
                said.count("status=skipped") == said.count("step=") and "status=start" not in said
            ), "a second run keeps every step"
        if "rerun" in command:
            assert "to the last digit" in said
        if "spark-submit" in command:
            assert "train_als" in said


def test_from_a_table_to_lists_in_three_places(spark, shell: Shell, tmp_path: Path) -> None:
    todo = [command for command in commands(ROOT / "README.md") if "lastfm" in command]
    assert [command.split()[1] for command in todo] == ["init", "run", "run"]
    draw = random.Random(8)
    listens = [
        (user, artist, draw.randint(1, 5000))
        for user in range(2, 102)
        for artist in draw.sample(range(user % 5, 80, 2), 12)
    ]
    table = shell.clone / "data" / "lastfm" / "listens"
    rows = spark.createDataFrame(listens, "userID int, artistID int, weight int")
    rows.write.format("delta").save(str(table))
    with postgres.server(tmp_path) as database:
        for command in todo:
            said = shell.run(command.replace("jdbc:postgresql://localhost/postgres", database.url))
        lake = spark.read.format("delta").load(str(shell.out / "lastfm/lake" / c.CURRENT))
        stored = spark.read.jdbc(
            database.url, "recommendations", properties={"user": postgres.USER}
        )
        lists = [
            [row[c.ITEM_ID] for row in place.where("query_id = '2'").orderBy(c.RANK).collect()]
            for place in (lake, stored)
        ]
        assert stored.count() == lake.count() == 100 * 20
    [serving] = (shell.out / "lastfm" / "runs").glob("publish_now-*/serving")
    history = [str(artist) for user, artist, _ in listens if user == 2]
    ranked = [item for item, _ in load(serving).recommend(history, k=20)]
    assert lists[0] == lists[1] == ranked and len(ranked) == 20, said[-2000:]


@pytest.mark.soak
def test_als_runs_again_to_six_digits(shell: Shell) -> None:
    run_id = shell.run_ids("als")[0]
    shell.run(f"recsys-spark rerun {run_id}")
    before, after = (
        np.load(shell.out / "ml-1m" / "runs" / run / "index" / "items.npy")
        for run in (run_id, f"{run_id}-rerun1")
    )
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("steps.als.config.rnk=3", ["steps.als.config.rnk", "did you mean 'rank'"]),
        ("steps.als.config.rank=-1", ["steps.als.config.rank", "-1", "at least 1"]),
        ("steps.neumf.model=neumff", ["neumff", "did you mean 'neumf'"]),
        ("steps.ingest.dataset=ml-2m", ["ml-2m", "ml-1m"]),
        ("conf/pipelines/ml-1n.yaml", ["ml-1n.yaml", "did you mean 'ml-1m.yaml'"]),
        ("--step neum", ["'neum'", "did you mean 'neumf'"]),
        ("steps.ingest.data=/nowhere", ["/nowhere", "no such folder", "RECSYS_DATA"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    shell: Shell, arguments: str, parts: list[str]
) -> None:
    said = shell.run(f"recsys-spark run {arguments}", code=2, alone="rnk" in arguments)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said
    for part in parts:
        assert part in errors[0]


@pytest.mark.soak
@pytest.mark.parametrize(("page", "least"), [("commands", 6), ("debugging", 5)])
def test_the_pages_of_commands(shell: Shell, page: str, least: int) -> None:
    """A dry run of each: what they select is tests/unit/test_steps.py's."""
    todo = commands(ROOT / "docs" / f"{page}.md")
    assert len(todo) >= least
    said = ""
    for command in todo:
        if "cluster.yaml" in command:  # the session keeps what it is given, for the tests behind
            command += f" env.spark.conf.{PARTS}=2"
        failed = command.endswith("state:failed")  # nothing has failed here
        said = shell.run(
            f"{command} --dry-run" if " run " in command else command, 2 if failed else 0
        )
        assert ("no step that failed last" in said) == failed
    assert said


@pytest.mark.soak
def test_a_lake_and_its_runs_can_be_moved(shell: Shell) -> None:
    moved = shell.out.with_name("moved")
    shell.out.rename(moved)
    said = shell.run(
        f"recsys-spark run ml-1m env.lake={moved}/ml-1m/lake env.runs={moved}/ml-1m/runs"
    )
    assert "status=start" not in said and f"report: {moved}/ml-1m/report.html" in said
    moved.rename(shell.out)


@pytest.mark.soak
def test_a_failure_is_recorded_and_the_command_that_goes_on_is_said(shell: Shell) -> None:
    said = shell.run("recsys-spark run ml-1m ease steps.ease.config.max_items=1", code=2)
    assert said.splitlines()[-2].startswith("error: ") and "max_items" in said.splitlines()[-2]
    assert said.splitlines()[-1] == (
        "completed steps stay; to go on: recsys-spark run conf/pipelines/ml-1m.yaml "
        "steps.ease.config.max_items=1"
    )
    assert "failed" in shell.run("recsys-spark runs")
    again = shell.run("recsys-spark run ml-1m state:failed")
    assert re.search(r"step=ease .*status=skipped", again)  # done before, with other settings


@pytest.mark.soak
def test_the_example_of_own_data(shell: Shell) -> None:
    doc = ROOT / "docs" / "own-data.md"
    text = re.findall(r"```yaml\n(.*?)```", doc.read_text(encoding="utf-8"), flags=re.S)[0]
    shop = shell.data / "shop"
    shop.mkdir()
    rows = [
        line.split("::") for line in (shell.data / "ml-1m" / "ratings.dat").read_text().splitlines()
    ]
    lines = [
        "user,item,time,stars,store",
        *(f"{user},{item},{time},{stars},x" for user, item, stars, time in rows),
    ]
    (shop / "events-1.csv").write_text("\n".join(lines) + "\n")
    baskets: dict[str, list[str]] = {}
    for user, item, *_ in rows:
        baskets.setdefault(user, []).append(item)
    (shell.data / "shop-lists").mkdir()
    (shell.data / "shop-lists" / "baskets.txt").write_text(
        "".join(f"{' '.join([user, *items])}\n" for user, items in baskets.items())
    )
    (shell.clone / "my.yaml").write_text(text.replace("/data/shop", str(shop)))
    said = ""
    for command in commands(doc):
        said = shell.run(command.replace("/data/shop", str(shop)))
        if " init " in command:
            assert "item_id, by its name" in said and f"events     {len(rows):,}" in said
            assert f"wrote {command.split()[-1]}" in said
    assert "popularity" in said and "als" in said and "report.html" in said


@pytest.mark.soak
def test_the_production_page(spark, shell: Shell) -> None:
    """Of the example before; its block of `production`, without items' fields."""
    page = ROOT / "docs" / "production.md"
    todo = commands(page)
    assert [line.split()[1] for line in todo] == ["run", "run", "rollback"]
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.S)[0])
    settings = {"score": "score_als", "k": block["production"]["k"]}
    with (shell.clone / "my.yaml").open("a") as file:
        file.write(yaml.safe_dump({"production": settings}))
    shell.run(todo[0])
    shell.run(todo[1])
    rows = spark.read.format("delta").load(str(shell.out / "shop/lake/current_recommendations"))
    lists = rows.where("query_id = '1'").orderBy("rank").collect()
    [serving] = (shell.out / "shop" / "runs").glob("publish_now-*/serving")
    events = (shell.data / "shop" / "events-1.csv").read_text().splitlines()[1:]
    history = [event.split(",")[1] for event in events if event.startswith("1,")]
    assert len(lists) == settings["k"] and not {row.item_id for row in lists} & set(history)
    ranked = load(serving).recommend(history, k=settings["k"])
    assert len(ranked) == settings["k"] and not {item for item, _ in ranked} & set(history)
    assert "none published before" in shell.run(todo[2], code=2)


@pytest.mark.soak
def test_the_python_page(spark, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the example before, whose lists are published."""
    monkeypatch.chdir(shell.clone)
    monkeypatch.setenv("RECSYS_OUT", str(shell.out))
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(block, names)
    assert set(names["few"].query_id) == {"1", "2"} and len(names["few"]) == 10
    own = names["lists"].query("query_id == '1'")
    assert own.item_id.tolist()[:5] == names["few"].query("query_id == '1'").item_id.tolist()
    assert len(names["best"]) == 5 and not {item for item, _ in names["best"]} & {*names["history"]}
    assert {"als", "popularity"} <= set(names["metrics"].model)
    assert names["arrow"].column_names == ["user_id", "user_idx"] and names["arrow"].num_rows
