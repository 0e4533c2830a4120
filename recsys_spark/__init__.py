"""Recommendations from raw logs to Delta tables: Spark, Petastorm, Horovod and PyTorch.

>>> from recsys_spark import Lake, load, recommend, run                   # doctest: +SKIP
>>> run("my.yaml", production=True)                                      # the command `run`
>>> Lake.of("my.yaml").runs()                                            # tables, without Spark
>>> recommend("my.yaml", ["42"], k=10)                                   # published lists
>>> load("out/shop/runs/publish_now-.../serving").recommend(["b17", "b4"], k=10)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# What `from recsys_spark import ...` gives, imported when it is asked for: torch takes seconds
_API = {
    "Lake": "recsys_spark.commands.api",
    "load": "recsys_spark.scoring.serving",
    "recommend": "recsys_spark.commands.api",
    "run": "recsys_spark.commands.api",
}
__all__ = ["Lake", "__version__", "load", "recommend", "run"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
