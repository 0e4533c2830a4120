"""Models by name."""

from __future__ import annotations

import pytest
import torch

from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.pointwise.mf_bias import MfBias
from tests.models.worlds import SIZES


def test_the_file_name_is_the_name():
    assert registry.find("mf_bias") is MfBias
    assert registry.names() == sorted(registry.names())
    assert not {"base", "registry", "store", "__init__"} & set(registry.names())


def test_an_unknown_model():
    with pytest.raises(
        ConfigError,
        match=r"model: found 'neumv'; expected one of .*neumf.*did you mean "
        r"'neumf'\?.*recsys-spark models",
    ):
        registry.find("neumv")


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(
        ConfigError,
        match=r"conf/x.yaml, unknown key config.l2_factors: found 0.1; expected .*did you mean "
        r"'l2_factor'",
    ):
        registry.build("mf_bias", {"l2_factors": 0.1}, SIZES, seed=1, source="conf/x.yaml")


def test_an_impossible_value():
    with pytest.raises(ConfigError, match=r"config.dropout: found 1.5; expected a number below 1"):
        registry.build("multi_vae", {"dropout": 1.5}, SIZES, seed=1)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    registry.build("neumf", {}, SIZES, seed=1)
    assert torch.equal(torch.rand(3), expected)
