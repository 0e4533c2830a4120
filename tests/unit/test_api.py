"""`from recsys_spark import Lake, recommend, run`, where no Spark is needed (run itself:
tests/spark/test_readme.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import recsys_spark
from recsys_spark import Lake, recommend
from recsys_spark.core.errors import ConfigError, TableError
from tests.unit.test_commands import ROOT, lake_of, run

LISTS = [
    ("default", "2", "b", 1, 0.5),
    ("default", "1", "c", 2, 0.25),
    ("default", "1", "a", 1, 0.75),
    ("other", "1", "z", 1, 0.1),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A pipeline whose lake has two runs, published lists and titles of some items."""
    root = lake_of(tmp_path / "lake", run("als"), run("ease", state="failed", problem="no memory"))
    names, queries, items, ranks, scores = zip(*LISTS, strict=True)
    lists = {"name": names, "query_id": queries, "item_id": items, "rank": ranks, "score": scores}
    table = pa.table({key: list(values) for key, values in lists.items()} | {"model": ["m"] * 4})
    write_deltalake(str(root / "current_recommendations"), table, partition_by=["name"])
    titles = pa.table({"item_id": ["a", "b"], "title": ["A", None]})
    write_deltalake(str(root / "items"), titles)
    path = tmp_path / "my.yaml"
    env = f"env: {{lake: {root}, runs: {tmp_path}/runs}}"
    path.write_text(f"name: t\n{env}\nsteps: {{raw: {{stage: ingest}}}}\n")
    return path


def test_the_names_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import sys, recsys_spark\n"
        "heavy = {'pyspark', 'torch', 'pandas', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules)\n"
        "from recsys_spark import Lake, recommend, run\n"
        "assert not {'pyspark', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(hasattr(recsys_spark, name) for name in recsys_spark.__all__)
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        recsys_spark.recomend  # noqa: B018


def test_runs_and_tables_are_data_frames(file: Path) -> None:
    lake = Lake.of(file)
    runs = lake.runs()
    assert runs[["step", "state", "problem"]].values.tolist() == [
        ["als", "done", ""],
        ["ease", "failed", "no memory"],
    ]
    assert runs.seconds.tolist() == [1.0, 1.0] and runs.config[0] == {"a": [1, 2]}
    assert runs.run_dir[0] == str(file.parent / "runs" / "runs" / "x")
    items = lake.table("items", where={"item_id": ["a"]}, arrow=True)
    assert items.to_pylist() == [{"item_id": "a", "title": "A"}]
    assert lake.table("items", columns=["title"]).columns.tolist() == ["title"]
    with pytest.raises(TableError, match="items: found .*version"):
        lake.table("items", version=7)
    with pytest.raises(TableError, match="no such Delta table"):
        lake.table("itmes")


def test_published_lists_are_read_by_query_and_rank(file: Path) -> None:
    lake = Lake.of(file)
    assert lake.current().item_id.tolist() == ["a", "c", "b"]
    assert lake.current("other").item_id.tolist() == ["z"]
    few = recommend(file, ["1", "nobody"], k=2)
    assert few[["query_id", "rank", "item_id"]].values.tolist() == [["1", 1, "a"], ["1", 2, "c"]]
    assert few.title[0] == "A" and few.title.isna().tolist() == [False, True]
    assert recommend(file, ["1", "2"], k=1).item_id.tolist() == ["a", "b"]
    with pytest.raises(TableError, match="'no'.*none published.*--production"):
        lake.current("no")


def test_a_lake_without_lists_and_one_in_a_catalog_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="none published"):
        Lake(tmp_path).current()
    assert Lake(tmp_path).runs().empty
    with pytest.raises(ConfigError, match=r"a schema in a catalog.*spark\.table"):
        Lake("main.recsys")
