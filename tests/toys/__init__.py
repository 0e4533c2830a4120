"""A toy layout, model and kind of draw, found as the package's own are: by a file in a folder.

They measure what an addition costs: nothing of the package is edited for them. `install` puts their
folders behind the package's.
"""

from __future__ import annotations

import sys
from pathlib import Path

_FOLDERS = {
    "recsys_spark.batches.layouts": "batches",
    "recsys_spark.models": "models",
    "recsys_spark.etl.layouts": "etl",
}


def install(*, spark: bool = False) -> None:
    """For this process. spark: the Spark half of the layout, too."""
    import importlib

    for package, folder in _FOLDERS.items():
        if spark or not package.startswith("recsys_spark.etl"):
            path = importlib.import_module(package).__path__
            here = str(Path(__file__).parent / folder)
            if here not in path:
                path.append(here)


def remove() -> None:
    """As if it had never been."""
    for package, folder in _FOLDERS.items():
        here = str(Path(__file__).parent / folder)
        if package in sys.modules and here in sys.modules[package].__path__:
            sys.modules[package].__path__.remove(here)
