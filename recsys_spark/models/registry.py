"""Finds models by file name: `models/<layout>/<name>.py` holds class `<Name>`. There is no list to
edit.
"""

from __future__ import annotations

from typing import Any

import torch

from recsys_spark.core import config as configuration
from recsys_spark.core import plugins, seeds
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.models.base import Model, Sizes

_PACKAGE = "recsys_spark.models"


def names() -> list[str]:
    """Every model's name, sorted."""
    return sorted(_layouts())


def find(name: str) -> type[Model]:
    """The class of model `name`. Raises ConfigError, with the nearest name, when there is none."""
    layouts = _layouts()
    if name not in layouts:
        raise ConfigError(
            "model",
            found=repr(name),
            expected=f"one of {', '.join(sorted(layouts))}{nearest(name, layouts)}",
            remedy="`recsys-spark models` lists them",
        )
    module = plugins.load(f"{_PACKAGE}.{layouts[name]}", name)
    class_name = "".join(word.capitalize() for word in name.split("_"))
    kind = getattr(module, class_name, None)
    assert isinstance(kind, type) and issubclass(kind, Model), (
        f"{module.__file__} must hold a Model named {class_name}"
    )
    assert kind.layout == layouts[name], (
        f"{module.__file__} lies in {layouts[name]}/ and says layout = {kind.layout!r}"
    )
    return kind


def build(
    name: str,
    config: dict[str, Any],
    sizes: Sizes,
    seed: int,
    *,
    source: str = "model configuration",
) -> Model:
    """A new model with weights drawn from (seed, "init") alone; torch's global generator is left
    unchanged.

    Raises ConfigError for an unknown model, key or value; `source` is the file that the message
    names.
    """
    kind = find(name)
    valid = configuration.validate(kind.Config, config, source=source, key="config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "init"))
        return kind(valid, sizes)


def _layouts() -> dict[str, str]:
    """{model: the folder that its file lies in}."""
    return {
        name: layout
        for layout in plugins.folders(_PACKAGE)
        for name in plugins.names(f"{_PACKAGE}.{layout}")
    }
