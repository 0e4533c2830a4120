"""A model's name is its file's name: `models/<layout>/<name>.py` holds class `<Name>`. There is no list to edit."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from recsys_spark.core import config as configuration
from recsys_spark.core import seeds
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.models.base import Model, Sizes

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every model's name, sorted."""
    return sorted(path.stem for path in _files())


def find(name: str) -> type[Model]:
    """The class of model `name`. Raises ConfigError, naming the nearest, when there is none."""
    for path in _files():
        if path.stem == name:
            module = importlib.import_module(f"recsys_spark.models.{path.parent.name}.{name}")
            class_name = "".join(word.capitalize() for word in name.split("_"))
            kind = getattr(module, class_name, None)
            assert isinstance(kind, type) and issubclass(kind, Model), f"{path} must hold a Model named {class_name}"
            assert kind.layout == path.parent.name, f"{path} lies in {path.parent.name}/ and says layout = {kind.layout!r}"
            return kind
    raise ConfigError("model", found=repr(name), expected=f"one of {', '.join(names())}{nearest(name, names())}",
                      remedy="`recsys-spark models` lists them")


def build(name: str, config: dict[str, Any], sizes: Sizes, seed: int, *, source: str = "model configuration") -> Model:
    """A new model with weights drawn from (seed, "init") alone; torch's global generator is left as it was.

    Raises ConfigError for an unknown model, key or value; `source` is the file that the message names.
    """
    kind = find(name)
    valid = configuration.validate(kind.Config, config, source=source, key="config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "init"))
        return kind(valid, sizes)


def _files() -> list[Path]:
    return [path for path in _FOLDER.glob("*/*.py") if not path.stem.startswith("_")]
