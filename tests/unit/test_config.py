"""Configuration: merging order, and errors that name file, key, value and the nearest valid
name.
"""

from pathlib import Path

import pytest
from pydantic import Field

from recsys_spark.core import config
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError


class Inner(Settings):
    rank: int = Field(8, ge=1)
    reg: float = 0.1


class Outer(Settings):
    name: str
    als: Inner = Inner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("name: base\nals: {rank: 4, reg: 0.5}\n")
    (tmp_path / "small.yaml").write_text("rank: 2\n")
    (tmp_path / "job.yaml").write_text("extends: base.yaml\nals: {reg: 0.7}\n")
    (tmp_path / "deep.yaml").write_text("name: deep\nals: {extends: small.yaml, reg: 0.9}\n")
    return tmp_path


def test_strength_is_extended_then_file_then_arguments(folder: Path) -> None:
    assert config.load(folder / "job.yaml") == {"name": "base", "als": {"rank": 4, "reg": 0.7}}
    assert config.load(folder / "job.yaml", ["als.rank=9", "name=x"]) == {
        "name": "x",
        "als": {"rank": 9, "reg": 0.7},
    }


def test_extends_works_below_the_top(folder: Path) -> None:
    assert config.load(folder / "deep.yaml") == {"name": "deep", "als": {"rank": 2, "reg": 0.9}}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (
            {"name": "a", "als": {"rnk": 3}},
            ["job.yaml", "unknown key als.rnk", "found 3", "did you mean 'rank'"],
        ),
        ({"als": {}}, ["job.yaml", "missing key name", "add name"]),
        (
            {"name": "a", "als": {"rank": "many"}},
            ["job.yaml", "als.rank", "'many'", "a whole number"],
        ),
        (
            {"name": "a", "als": {"rank": 0}},
            ["job.yaml", "als.rank", "found 0", "a number of at least 1"],
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_place(values: dict, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.validate(Outer, values, source="job.yaml")
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_names_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"jbo\.yaml.*did you mean 'job\.yaml'"):
        config.load(folder / "jbo.yaml")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "valid YAML"),
        ("- 1\n- 2\n", "a mapping"),
        ("extends: loop.yaml\n", "extends itself"),
        ("a: ${nowhere}\n", "references that resolve"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "loop.yaml").write_text(text)
    with pytest.raises(ConfigError, match=part):
        config.load(tmp_path / "loop.yaml")


def test_an_argument_without_equals_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        config.load(folder / "job.yaml", ["seed"])
