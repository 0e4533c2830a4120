"""The notebook of the deck's experiments, run as it stands on a small generated set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.datasets import synthetic

ROOT = Path(__file__).parents[2]
MODELS = ("mf_vanilla", "mf_bias", "mf_side", "mf_temporal", "fm", "mf_mixture", "mf_variational")


def test_the_notebook_of_the_deck_runs_to_its_plots(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.generate(spark, tmp_path / "data" / "ml-1m", users=60, items=40, ratings=1200, seed=1)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT / "notebooks")  # where Databricks starts a notebook
    small = " ".join(f"steps.{model}.train.epochs=1 steps.{model}.workers.num_workers=1" for model in MODELS)
    values = {"lake": str(tmp_path / "lake"), "runs": str(tmp_path / "runs"), "settings": small + " steps.rating.replicas=100"}
    widgets = SimpleNamespace(text=lambda name, default, label: values.setdefault(name, default), get=lambda name: values[name])
    tables: list[DataFrame] = []
    pages: list[str] = []
    notebook = ROOT / "notebooks" / "5_deck.py"
    names: dict[str, Any] = {"dbutils": SimpleNamespace(widgets=widgets), "display": tables.append, "displayHTML": pages.append}
    exec(compile(notebook.read_text(encoding="utf-8"), notebook, "exec"), names)
    shown = {row["model"]: row["value"] for row in tables[0].collect()}
    assert set(shown) == {"global_bias", *MODELS} and all(0.3 < value < 3.0 for value in shown.values())
    assert all(model in pages[0] for model in MODELS) and "<svg" in pages[0]
