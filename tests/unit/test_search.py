"""Draws, edges and spaces of a search; what runs trials is tests/spark/test_tune.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recsys_spark.core.errors import ConfigError
from recsys_spark.stages import train_baseline
from recsys_spark.stages.tuning import search
from recsys_spark.stages.tuning.search import Search

SPACE: dict[str, Any] = {
    "rank": [8, 16, 32],
    "reg": {"low": 0.01, "high": 1.0},
    "sweeps": {"low": 1, "high": 9, "log": False, "whole": True},
}


def played(sampler: str, trials: int) -> list[dict[str, Any]]:
    """Trials of a function whose best lies at rank 16, reg 0.1."""
    wanted, done = Search(space=SPACE, sampler=sampler, trials=trials), []
    for number in range(trials):
        values = search.draw(wanted, 3, done, 1.0)
        done.append(
            {
                "trial": number,
                "values": values,
                "value": -abs(values["rank"] - 16) - abs(values["reg"] - 0.1),
            }
        )
    return done


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_does_not_depend_on_how_many_follow(sampler: str) -> None:
    few, many = played(sampler, 12), played(sampler, 20)
    assert many[:12] == few and played(sampler, 12) == few
    assert all(
        trial["values"]["rank"] in (8, 16, 32) and 0.01 <= trial["values"]["reg"] <= 1
        for trial in many
    )
    assert (
        all(isinstance(trial["values"]["sweeps"], int) for trial in many)
        and len({trial["values"]["reg"] for trial in many}) == 20
    )


def test_tpe_learns() -> None:
    late = [trial["value"] for trial in played("tpe", 30)[15:]]
    assert sum(late) / len(late) > sum(trial["value"] for trial in played("random", 30)) / 30


def test_edges_are_told() -> None:
    wanted = Search(space=SPACE)
    assert search.edges({"rank": 16, "reg": 0.1, "sweeps": 5}, wanted) == []
    assert search.edges({"rank": 32, "reg": 0.0101, "sweeps": 9}, wanted) == [
        "rank",
        "reg",
        "sweeps",
    ]
    assert (
        search.edges(
            {"flag": True, "kind": "a"},
            Search(space={"flag": [True, False], "kind": ["a", "b", "c"]}),
        )
        == []
    )


@pytest.mark.parametrize(
    "space",
    [
        {"reg": {"low": 0.1, "high": 0.1}},
        {"alpha": {"low": 0.0, "high": 1.0}},
        {"rank": []},
        {"rank": [1, 1]},
        {},
    ],
)
def test_a_space_that_is_none_is_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Search(space=space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"ranks": [1, 2]},
            r"baseline als, unknown key search\.space\.ranks: .* \(did you mean 'rank'\?\)",
        ),
        (
            {"reg": {"low": -1, "high": 1, "log": False}},
            r"baseline als, search\.space\.reg: found -1\.0; expected a number",
        ),
    ],
)
def test_a_space_of_another_model_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_baseline.Job(source="prepare", model="als", search={"space": space})
