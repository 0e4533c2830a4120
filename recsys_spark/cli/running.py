"""From a pipeline file and key=value arguments to runs: what the commands share. Spark starts only after all is validated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys_spark.cli.listener import listener
from recsys_spark.cli.options import DEFAULT
from recsys_spark.cli.screen import screen
from recsys_spark.core.errors import ConfigError


def run(config: str | None, overrides: list[str] | None, *, stage: str | None, names: list[str] | None, dry_run: bool) -> dict[str, Any]:
    """{step: its run}; empty after a dry run."""
    from recsys_spark.stages import steps

    console = screen()
    path, given = arguments(config, overrides)
    pipeline, known = steps.load(path, given)
    wanted = steps.closure(known, steps.select(known, stage=stage, names=names or (), source=str(path)))
    for step in wanted:
        steps.missing(step)  # a folder that was named and is not there is said now, not after Spark's start
    from recsys_spark.stages import pipeline as pipelines  # starts what the validation above did not need: Spark

    started = time.monotonic()
    lake = pipelines.open_lake(pipeline)
    if dry_run:
        pipelines.dry_run(pipeline, wanted, lake=lake, listener=listener(console))
        return {}
    try:
        done = pipelines.run(pipeline, wanted, lake=lake, listener=listener(console))
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped: completed steps stay, the same command goes on with the rest")
        raise
    from recsys_spark.report import terminal

    terminal.results(console, list(done.values()))
    console.print(f"[dim]{len(done)} steps in {time.monotonic() - started:.0f} s[/]")
    return done


def trained(config: str | None, overrides: list[str] | None, name: str, console: Console, *, compute: bool) -> tuple[Any, Any]:
    """(job, context) of a train_deep step, once what it needs is done: done now (`compute`), or else refused."""
    from recsys_spark.stages import pipeline as pipelines
    from recsys_spark.stages import steps

    path, given = arguments(config, overrides)
    pipeline, known = steps.load(path, given)
    chosen = steps.select(known, stage="train_deep", names=[name] if name else (), source=str(path))
    if len(chosen) > 1:
        raise ConfigError("option --step", found="none", expected=f"one of {', '.join(chosen)}")
    *before, step = steps.closure(known, chosen)
    for needed in before:
        steps.missing(needed)
    lake = pipelines.open_lake(pipeline)
    hear = listener(console)
    done = pipelines.run(pipeline, before, lake=lake, listener=hear) if compute else pipelines.kept(pipeline, before, lake=lake)
    missing = [needed for needed in step.needs if needed not in done]
    if missing:
        raise ConfigError(f"step {step.name}", found=f"{missing[0]} not run yet", expected="its shards",
                          remedy=f"recsys-spark run {path} --step {missing[0]}")
    return step.job, pipelines.context(pipeline, step, {need: done[need] for need in step.needs}, lake=lake)


def open_lake(config: str | None, overrides: list[str] | None) -> tuple[Any, Any]:
    from recsys_spark.stages import pipeline as pipelines
    from recsys_spark.stages import steps

    path, given = arguments(config, overrides)
    pipeline, _ = steps.load(path, given)
    return pipeline, pipelines.open_lake(pipeline)


def arguments(config: str | None, overrides: list[str] | None) -> tuple[Path, list[str]]:
    """The pipeline file and the key=value arguments; the file may be left out. Looked for here, then beside the package."""
    given = list(overrides or [])
    if config is not None and "=" in config:
        given, config = [config, *given], None
    path = Path(config or DEFAULT)
    beside = Path(__file__).parents[2] / path
    if not path.exists() and not path.is_absolute() and beside.exists():
        path = beside
    if config is None and not path.exists():
        raise ConfigError("no pipeline file named", found=f"and {DEFAULT} is not here", expected="a path to a YAML file")
    return path, given
