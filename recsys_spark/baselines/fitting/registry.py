"""The baselines, found by their file names: every file of `baselines/` is one."""

from __future__ import annotations

from types import ModuleType

from recsys_spark.core import plugins
from recsys_spark.core.errors import ConfigError, nearest

_PACKAGE = "recsys_spark.baselines"


def names() -> list[str]:
    return plugins.names(_PACKAGE)


def find(name: str) -> ModuleType:
    """The module with its `Config`, its `TASK` (or `task(config)`) and its `write`.

    Raises ConfigError for an unknown name, with the nearest.
    """
    baseline_names = names()
    if name not in baseline_names:
        raise ConfigError(
            "baseline",
            found=repr(name),
            expected=f"one of {', '.join(baseline_names)}{nearest(name, baseline_names)}",
        )
    return plugins.load(_PACKAGE, name)


def task(name: str, config: object) -> str:
    """`ranking` or `rating`: what the baseline predicts with these settings."""
    baseline = find(name)
    return str(baseline.task(config) if hasattr(baseline, "task") else baseline.TASK)


def reads(name: str, config: object) -> tuple[str, ...]:
    """Columns of an event that it reads beside those that every baseline gets."""
    baseline = find(name)
    return tuple(baseline.reads(config)) if hasattr(baseline, "reads") else ()


def uses_values(name: str, config: object) -> bool:
    """Whether the values of events change what it learns; if not, an event counts as one."""
    return task(name, config) == "rating" or bool(getattr(config, "values", False))


def reads_union(name: str) -> bool:
    """Whether it is fitted on the united lists of other models, of the validation part."""
    return bool(getattr(find(name), "READS_UNION", False))
