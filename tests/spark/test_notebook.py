"""The notebooks that show results, run as they stand: the deck's experiments on a small generated
set, a table of one's own.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.datasets.generators import synthetic

ROOT = Path(__file__).parents[2]
MODELS = ("mf_vanilla", "mf_bias", "mf_side", "mf_temporal", "fm", "mf_mixture", "mf_variational")


class Notebook:
    """cells: their code, in order. tables, pages: what it showed."""

    def __init__(self, spark: SparkSession, name: str, values: dict[str, str]) -> None:
        """values: of its widgets, in place of their defaults."""
        widgets = SimpleNamespace(
            text=lambda name, default, label: values.setdefault(name, default),
            get=lambda name: values[name],
        )
        self.tables: list[DataFrame] = []
        self.pages: list[str] = []
        self.names: dict[str, Any] = {
            "spark": spark,
            "dbutils": SimpleNamespace(widgets=widgets),
            "display": self.tables.append,
            "displayHTML": self.pages.append,
        }
        text = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        self.cells = text.split("# COMMAND ----------")

    def run(self, cells: list[str]) -> None:
        for cell in cells:
            exec(compile(cell, "notebook", "exec"), self.names)


@pytest.mark.soak  # seven models: most of it is their trainings' start
def test_the_notebook_of_the_deck_runs_to_its_plots(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.generate(spark, tmp_path / "data" / "ml-1m", users=60, items=40, ratings=1200, seed=1)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT / "notebooks")  # where Databricks starts a notebook
    small = " ".join(
        f"steps.{model}.train.epochs=1 steps.{model}.workers.num_workers=1" for model in MODELS
    )
    values = {
        "lake": str(tmp_path / "lake"),
        "runs": str(tmp_path / "runs"),
        "settings": small + " steps.rating.replicas=100",
    }
    notebook = Notebook(spark, "5_deck", values)
    notebook.run(notebook.cells)
    tables, pages = notebook.tables, notebook.pages
    shown = {row["model"]: row["value"] for row in tables[0].collect()}
    assert set(shown) == {"global_bias", *MODELS} and all(
        0.3 < value < 3.0 for value in shown.values()
    )
    assert all(model in pages[0] for model in MODELS) and "<svg" in pages[0]


@pytest.mark.soak
def test_the_notebook_of_a_table_of_ones_own(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The draft is cut to a baseline by hand, between two cells, as a user corrects it."""
    rows = [
        (f"c{n % 12}", f"sku{n * n % 7}{n % 2}", 1_767_225_600 + n, 1 + n % 5) for n in range(96)
    ]
    schema = "customer string, sku string, at long, stars int"
    spark.createDataFrame(rows, schema).write.format("delta").save(str(tmp_path / "sold"))
    spark.sql(f"CREATE TABLE own_events USING delta LOCATION '{tmp_path / 'sold'}'")
    values = {"table": "default.own_events", "draft": str(tmp_path / "own.yaml")}
    values |= {name: str(tmp_path / name) for name in ("lake", "runs")}
    notebook = Notebook(spark, "6_own_table", values)
    place = next(n for n, cell in enumerate(notebook.cells) if "init.write" in cell) + 1
    try:
        notebook.run(notebook.cells[:place])
        drafted = yaml.safe_load((tmp_path / "own.yaml").read_text())
        kept = ("ingest", "split", "popularity", "score_popularity", "ranking", "report")
        drafted["steps"] = {name: drafted["steps"][name] for name in kept}
        drafted["steps"]["ranking"]["of"] = ["score_popularity"]
        del drafted["steps"]["report"]["trained"]
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(drafted, sort_keys=False))
        notebook.run(notebook.cells[place:])
    finally:
        spark.sql("DROP TABLE own_events")
    assert "customer" in capsys.readouterr().out
    [row] = notebook.tables[0].collect()
    assert row.model == "popularity" and 0 < row.low <= row.value <= row.high <= 1
    pairs = len({row[:2] for row in rows})  # of ratings that come again the latest counts
    assert "popularity" in notebook.pages[0] and f"{pairs} events of 12 users" in notebook.pages[0]
