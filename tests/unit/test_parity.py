"""The list of published figures: what is refused, when a figure passes, how the page looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recsys_spark.commands import parity
from recsys_spark.commands.parity import Wanted
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError
from recsys_spark.report import parity_page

ROOT = Path(__file__).parents[2]
ROW = {
    "protocol": "P",
    "pipeline": "pipelines/ml-1m-sasrec.yaml",
    "evaluation": "ranking",
    "of": "score_als",
    "metric": "ndcg@10",
}


@pytest.mark.parametrize(
    ("rule", "value", "verdict"),
    [
        ({"at_least": 0.049}, 0.049, "PASS"),
        ({"at_least": 0.049}, 0.0489, "FALLS SHORT"),
        ({"at_most": 0.95}, 0.951, "FALLS SHORT"),
        ({"at_most": 0.95}, 0.95, "PASS"),
        ({"target": 0.5, "within": 0.01}, 0.509, "PASS"),
        ({"target": 0.5, "within": 0.01}, 0.489, "FALLS SHORT"),
        ({}, 0.1, "reported"),
    ],
)
def test_verdicts(rule: dict[str, float], value: float, verdict: str) -> None:
    assert Wanted(**ROW, **rule).verdict(value) == verdict


@pytest.mark.parametrize(
    "rule", [{"at_least": 0.1, "at_most": 0.2}, {"within": 0.1}, {"target": 0.1}, {"seeds": []}]
)
def test_a_rule_that_is_none_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wanted(**ROW, **rule)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"evaluation": "rankin"},
            r"rows\.0\.evaluation: found 'rankin'; .*\(did you mean 'ranking'\?\)",
        ),
        (
            {"of": "als"},
            r"rows\.0\.of: found als; expected one of .*score_als.*which ranking evaluates",
        ),
        ({"metrc": "x"}, r"unknown key rows\.0\.metrc: .*\(did you mean 'metric'\?\)"),
        ({"pipeline": "pipelines/none.yaml"}, r"none\.yaml: found no such file"),
    ],
)
def test_every_name_is_checked_before_anything_runs(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    for name in ("pipelines", "env", "models", "data"):
        (tmp_path / name).symlink_to(ROOT / "conf" / name)
    row = "\n".join(f"    {name}: {value}" for name, value in {**ROW, **change}.items())
    (tmp_path / "parity.yaml").write_text(f"rows:\n  -\n{row}\n")
    with pytest.raises(ConfigError, match=said):
        parity.load(tmp_path / "parity.yaml")


def test_the_list_of_this_project_is_valid() -> None:
    listed = parity.load(ROOT / "conf" / "parity.yaml")
    assert {row.protocol.split(",")[0] for row in listed.rows} >= {"K-99", "K-FULL", "K-STRONG"}
    assert all(row.source for row in listed.rows if row.published)


def fitted(search: dict[str, Any] | None = None) -> Run:
    return Run(
        run_id="mf_bias-1",
        pipeline="p",
        step="mf_bias",
        stage="train_deep",
        key="k",
        config={
            "model": "mf_bias",
            "config": {"dim": 32, "l2": 0.0123456},
            "train": {"optim": {"lr": 0.003}},
            "search": search,
        },
        upstream={},
        input_versions={},
        output_versions={},
        run_dir="runs/mf_bias-1",
        code_version="c",
        seed=1,
        started_at=0,
        ended_at=1,
        summary={"trials": 10, "edges": "dim", "chosen": {"dim": 64}},
    )


def test_settings_of_the_page() -> None:
    """Those that a search chose; else those that the list says were chosen elsewhere, as the step
    has them; else none.
    """
    chosen = {"by": "10 trials on seed 1", "settings": ["dim", "l2", "train.optim.lr"]}
    assert parity._settings(Wanted(**ROW), [fitted()]) == "not tuned"
    row = Wanted(**ROW, chosen=chosen)
    assert (
        parity._settings(row, [fitted()])
        == "dim 32, l2 0.01235, train.optim.lr 0.003; chosen by 10 trials on seed 1"
    )
    assert (
        parity._settings(row, [fitted({"space": {"dim": [32, 64]}})])
        == "dim 64; 10 trials, edges: dim"
    )


@pytest.mark.parametrize("name", ["dimm", "train.optim.rate", "dim.x"])
def test_a_setting_that_the_step_has_not_is_refused(name: str) -> None:
    row = Wanted(**ROW, chosen={"by": "hand", "settings": [name]})
    with pytest.raises(
        ConfigError,
        match=rf"P, score_als, chosen\.settings: found {name}; .*its config \(dim, l2\)",
    ):
        parity._settings(row, [fitted()])


def test_the_page_says_what_is_measured_and_what_is_not() -> None:
    line = parity_page.Line(
        "K-FULL",
        "als",
        "ndcg@10",
        ".0496",
        "implicit",
        "≥ 0.049",
        "a lower bound",
        "pipelines/p.yaml",
    )
    done = line.measured(
        value=0.0481,
        interval="0.0440–0.0522",
        verdict="FALLS SHORT",
        seconds=12.34,
        settings="rank 64",
        fingerprints=("abc", "abd", "abc"),
    )
    page = parity_page.render("Parity", "Intro.", [done, line], "2 cores")
    assert "0 PASS, 1 FALL SHORT, 0 reported, 1 not measured yet." in page
    assert (
        "| als | ndcg@10 | 0.0481 | 0.0440–0.0522 | .0496 | implicit | ≥ 0.049 | **FALLS "
        "SHORT** | 12.3 | rank 64 |"
    ) in page
    assert (
        "| als | ndcg@10 | not measured |" in page
        and "fingerprint of the split abc, abd." in page
        and "- als: a lower bound" in page
    )
