"""Recommendations from raw logs to Delta tables: Spark, Petastorm, Horovod and PyTorch.

>>> from recsys_spark import load                                        # doctest: +SKIP
>>> load("out/shop/runs/publish_now-.../serving").recommend(["b17", "b4"], k=10)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# What `from recsys_spark import ...` gives, imported when it is asked for: torch takes seconds
_API = {"load": "recsys_spark.scoring.serving"}
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
