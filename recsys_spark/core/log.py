"""`key=value` log lines. Modules get a logger here; only `cli` (and a training rank's entry)
configures the output.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def get(name: str) -> logging.Logger:
    return logging.getLogger("recsys_spark." + name.removeprefix("recsys_spark."))


def fields(**values: Any) -> str:
    """`fields(rows=3, path='a b')` -> `rows=3 path="a b"`; floats with six significant digits."""
    return " ".join(f"{key}={_text(value)}" for key, value in values.items())


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run's summary that fit into one line: all that are not mappings."""
    return {name: fact for name, fact in facts.items() if not isinstance(fact, Mapping)}


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if " " in text or not text else text


def configure(level: str = "INFO") -> None:
    """Called once per process, by the command line or a rank's entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger("recsys_spark")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
