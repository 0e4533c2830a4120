"""What a message says of a wrong setting: never pydantic's own words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator

from recsys_spark.core import config
from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline.context import SparkSettings


class Inner(config.Settings):
    rank: int = Field(1, ge=1)


class Job(config.Settings):
    count: int = 1
    rate: float = Field(0.5, gt=0, lt=1)
    shuffle: bool = True
    part: Literal["valid", "test"] = "test"
    name: str = Field("a", pattern="^[a-z]+$")
    inner: Inner = Inner()
    shares: Annotated[list[float], Field(min_length=2)] = [0.5, 0.5]
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd number")
        return value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "x"}, "count: found 'x'; expected a whole number"),
        ({"count": 1.5}, "count: found 1.5; expected a whole number"),
        ({"rate": "x"}, "rate: found 'x'; expected a number"),
        ({"rate": 0}, "rate: found 0; expected a number above 0.0"),
        ({"rate": 1}, "rate: found 1; expected a number below 1.0"),
        ({"shuffle": "x"}, "shuffle: found 'x'; expected true or false"),
        (
            {"part": "vaild"},
            "part: found 'vaild'; expected 'valid' or 'test' (did you mean 'valid'?)",
        ),
        ({"name": "A1"}, "name: found 'A1'; expected text of the form ^[a-z]+$"),
        ({"name": 3}, "name: found 3; expected text"),
        ({"inner": 3}, "inner: found 3; expected a mapping of keys to values"),
        ({"inner": {"rank": 0}}, "inner.rank: found 0; expected a number of at least 1"),
        ({"shares": 0.5}, "shares: found 0.5; expected a list"),
        ({"shares": [1.0]}, "shares: found [1.0]; expected at least 2 entries"),
        ({"odd": 2}, "odd: found 2; expected an odd number"),
        ({"count": {"a": 1}}, "count: expected a whole number"),  # a mapping is not repeated
    ],
)
def test_a_wrong_value_is_named_in_plain_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as problem:
        config.validate(Job, values, source="job.yaml")
    assert str(problem.value) == f"job.yaml, {message}"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as problem:
        config.validate(Job, {"count": "x" * 5000}, source="job.yaml")
    assert len(str(problem.value)) < 200


def test_names_of_spark_settings_may_be_nested(tmp_path) -> None:
    (tmp_path / "env.yaml").write_text("conf: {spark.ui.enabled: 'true', spark.a.b: 3}\n")
    values = config.load(
        tmp_path / "env.yaml", ["conf.spark.ui.enabled=false", "conf.spark.x.y=4g"]
    )
    conf = config.validate(SparkSettings, values, source="env.yaml").conf
    assert conf == {"spark.ui.enabled": "false", "spark.a.b": "3", "spark.x.y": "4g"}
