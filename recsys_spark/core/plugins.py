"""Finds plugins by file name: every module of a folder that holds one kind of thing."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def names(package: str) -> list[str]:
    """Names of the modules directly in `package` (a dotted name), sorted.

    Sub-packages and modules whose name begins with an underscore are left out: they hold shared
    helpers.
    """
    path = importlib.import_module(package).__path__
    return sorted(
        module.name
        for module in pkgutil.iter_modules(path)
        if not module.ispkg and not module.name.startswith("_")
    )


def folders(package: str) -> list[str]:
    """Names of the packages directly in `package`, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if module.ispkg)


def load(package: str, name: str) -> ModuleType:
    """The module `name` of `package`, one of `names`."""
    return importlib.import_module(f"{package}.{name}")


def only_class(package: str, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that the module `name` of `package` defines."""
    module = load(package, name)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"{module.__name__} holds {len(classes)} {base.__name__}, not one"
    return classes[0]
