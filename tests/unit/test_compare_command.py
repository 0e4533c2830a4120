"""`recsys-spark compare`: which of its arguments are runs, and what it prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys_spark import cli
from recsys_spark.cli import running
from recsys_spark.commands import compare
from tests.unit.test_comparison import page


def test_runs_a_pipeline_file_and_settings_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def opened(config: str | None, overrides: list[str]) -> Any:
        asked.update(config=config, overrides=overrides)
        return SimpleNamespace(env=SimpleNamespace(runs="/runs"), seed=3), "lake"

    def compared(lake: Any, wanted: compare.Wanted, **more: Any) -> Any:
        asked.update(lake=lake, wanted=wanted, seed=more["seed"], runs_dir=more["runs_dir"])
        return page(), Path("/runs/comparisons/abc.html")

    monkeypatch.setattr(running, "reader", opened)
    monkeypatch.setattr(compare, "compare", compared)
    done = CliRunner().invoke(
        cli.app,
        [
            "compare",
            "score_als",
            "score_pop-12",
            "my.yaml",
            "seed=3",
            "--reference",
            "score_pop-12",
            "--metric",
            "ndcg@10",
            "--users",
            "0",
        ],
    )
    assert done.exit_code == 0, done.output
    assert asked == {
        "config": "my.yaml",
        "overrides": ["seed=3"],
        "lake": "lake",
        "seed": 3,
        "runs_dir": Path("/runs"),
        "wanted": compare.Wanted(("score_als", "score_pop-12"), "score_pop-12", "ndcg@10", 0),
    }
    said = done.output
    assert (
        "als beats popularity by 0.1000 (0.0950 to 0.1050), p < 0.004" in said
        and "popularity beats neumf by 0.0500" in said
    )
    assert (
        "against popularity (the strongest baseline in NDCG@10)" in said
        and said.rstrip().endswith("/runs/comparisons/abc.html")
    )
