"""Code shared by the commands: a pipeline file and key=value arguments -> runs. Spark starts only
after everything is validated.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from recsys_spark.cli.listener import listener
from recsys_spark.cli.options import DEFAULT
from recsys_spark.cli.screen import screen
from recsys_spark.core import config as config_files
from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError, in_one_line

GOES_ON = "completed steps stay; to go on: "
# Of a step, by its last event
STATES = {"start": "stopped", "skipped": "kept"}


@dataclass(frozen=True)
class Wanted:
    """Which steps to run: patterns of `steps.matching`. stage: of a file in jobs/. force: those
    that the patterns match, though they are done.
    """

    select: Sequence[str] = ()
    exclude: Sequence[str] = ()
    stage: str | None = None
    force: bool = False
    in_production: bool = False


def for_programs(
    config: str | None, given: list[str] | None, wanted: Wanted, *, dry_run: bool = False
) -> None:
    """As `run`, with nothing on standard output but one line of JSON, whatever happens: state
    (done, failed or stopped), seconds, steps (step, stage, state, run_id, seconds), problem, and
    resume, the command that goes on.
    """
    events: dict[str, Any] = {}
    outcome: dict[str, Any] = {"state": "stopped"}
    started = time.monotonic()
    try:
        console = Console(stderr=True)
        run(config, given, wanted, dry_run=dry_run, console=console, events=events)
        outcome["state"] = "done"
    except Exception as problem:
        outcome = {"state": "failed", "problem": in_one_line(problem)}
        resume = [note for note in getattr(problem, "__notes__", ()) if GOES_ON in note]
        outcome |= {"resume": resume[0].partition(GOES_ON)[2]} if resume else {}
        raise
    finally:
        outcome["seconds"] = round(time.monotonic() - started, 1)
        outcome["steps"] = [
            {
                "step": event.step,
                "stage": event.stage,
                "state": STATES.get(event.kind, event.kind),
                "run_id": event.run_id,
                "seconds": round(event.seconds, 1),
            }
            for event in events.values()
        ]
        typer.echo(json.dumps(outcome, ensure_ascii=False))


def run(
    config: str | None,
    given: list[str] | None,
    wanted: Wanted,
    *,
    dry_run: bool = False,
    console: Console | None = None,
    events: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """{step: its run}; empty after a dry run. What of `given` is no key=value names a step. events
    gets the last event of each step.
    """
    from recsys_spark.pipeline import steps

    console = console or screen()
    path, given = arguments(config, given)
    overrides = [argument for argument in given if is_setting(argument)]
    patterns = [*wanted.select, *(argument for argument in given if not is_setting(argument))]
    pipeline, known_steps = steps.load(path, overrides, in_production=wanted.in_production)
    if wanted.in_production and not patterns:
        patterns = [name for name in known_steps if name not in pipeline.steps]
    lake = None
    if "state:failed" in (*patterns, *wanted.exclude):  # the lake knows
        lake = _opened(console, pipeline)
    names = steps.select(
        known_steps,
        stage=wanted.stage,
        patterns=patterns,
        exclude=wanted.exclude,
        failed=_failed(lake, pipeline) if lake else (),
        source=str(path),
    )
    chosen = steps.closure(known_steps, names)
    for step in chosen:
        # A configured folder that does not exist is reported now, not after Spark's start
        steps.missing(step)
    # Imported only now: it needs Spark, which the validation above does not
    from recsys_spark.pipeline import runner as pipelines

    started = time.monotonic()
    lake = lake or _opened(console, pipeline)
    hear = listener(console, events)
    if dry_run:
        pipelines.dry_run(pipeline, chosen, lake=lake, listener=hear)
        return {}
    force = names if wanted.force else ()
    try:
        done = pipelines.run(pipeline, chosen, lake=lake, listener=hear, force=force)
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "stopped: completed steps stay, the same command goes on with the rest"
        )
        raise
    except Exception as problem:
        command = ["recsys-spark", "run", str(path), *overrides]
        command += ["--production"] if wanted.in_production else []
        problem.add_note(f"{GOES_ON}{shlex.join(command)}")
        raise
    from recsys_spark.report import terminal
    from recsys_spark.stages.results import measured

    terminal.results(console, list(done.values()), measured.level)
    console.print(f"[dim]{len(done)} steps in {time.monotonic() - started:.0f} s[/]")
    return done


def _opened(console: Console, pipeline: Any) -> Any:
    from recsys_spark.pipeline import runner as pipelines

    if console.is_terminal:
        with console.status("starting Spark"):
            return pipelines.open_lake(pipeline)
    log.get("cli").info(log.fields(event="starting_spark", master=pipeline.env.spark.master))
    return pipelines.open_lake(pipeline)


def _failed(lake: Any, pipeline: Any) -> set[str]:
    """The steps of the pipeline whose last attempt failed."""
    last = {run.step: run for run in lake.attempts() if run.pipeline == pipeline.name}
    return {step for step, run in last.items() if run.state == "failed"}


def trained(
    config: str | None, overrides: list[str] | None, name: str, console: Console, *, compute: bool
) -> tuple[Any, Any]:
    """(job, context) of a train_deep step. The steps that it needs are run (`compute`), or must
    have completed, else ConfigError is raised.
    """
    from recsys_spark.pipeline import runner as pipelines
    from recsys_spark.pipeline import steps

    path, given = arguments(config, overrides)
    pipeline, known_steps = steps.load(path, given)
    chosen = steps.select(
        known_steps, stage="train_deep", patterns=[name] if name else (), source=str(path)
    )
    if len(chosen) > 1:
        raise ConfigError("option --step", found="none", expected=f"one of {', '.join(chosen)}")
    *before, step = steps.closure(known_steps, chosen)
    for needed in before:
        steps.missing(needed)
    lake = pipelines.open_lake(pipeline)
    hear = listener(console)
    done = (
        pipelines.run(pipeline, before, lake=lake, listener=hear)
        if compute
        else pipelines.kept(pipeline, before, lake=lake)
    )
    missing = [needed for needed in step.needs if needed not in done]
    if missing:
        raise ConfigError(
            f"step {step.name}",
            found=f"{missing[0]} not run yet",
            expected="its shards",
            remedy=f"recsys-spark run {path} --step {missing[0]}",
        )
    return step.job, pipelines.context(
        pipeline, step, {need: done[need] for need in step.needs}, lake=lake
    )


def open_lake(config: str | None, overrides: list[str] | None) -> tuple[Any, Any]:
    from recsys_spark.pipeline import runner as pipelines
    from recsys_spark.pipeline import steps

    path, given = arguments(config, overrides)
    pipeline, _ = steps.load(path, given)
    return pipeline, pipelines.open_lake(pipeline)


def planned(
    config: str | None, overrides: list[str] | None, *, in_production: bool
) -> tuple[Any, Any, Any]:
    """(pipeline, its steps, validated, and its lake, only to be read)."""
    from recsys_spark.pipeline import steps

    path, given = arguments(config, overrides)
    pipeline, known = steps.load(path, given, in_production=in_production)
    return pipeline, known, _to_read(pipeline)


def reader(config: str | None, overrides: list[str] | None) -> tuple[Any, Any]:
    """The pipeline, its steps not validated, and its lake, only to be read: Spark starts only for
    tables in a catalog.
    """
    from recsys_spark.pipeline import steps

    path, given = arguments(config, overrides)
    pipeline = steps.read(path, given)
    return pipeline, _to_read(pipeline)


def _to_read(pipeline: Any) -> Any:
    from recsys_spark.lake.direct import Direct, is_catalog

    if is_catalog(pipeline.env.lake):
        from recsys_spark.lake.gathered import Gathered
        from recsys_spark.pipeline import runner as pipelines

        return Gathered(pipelines.open_lake(pipeline))
    return Direct(pipeline.env.lake, Path(pipeline.env.runs))


def named_lake(name: str | None, overrides: list[str] | None) -> Any:
    """The lake of a pipeline file, or the one at this root."""
    if name is None or is_setting(name):
        return open_lake(name, overrides)[1]
    from recsys_spark.lake.tables import Lake

    return Lake(session_of("recsys_spark look"), name)


def session_of(app: str) -> Any:
    """A session for what needs no pipeline file."""
    from recsys_spark.lake.session import session
    from recsys_spark.pipeline.context import SparkSettings

    return session(SparkSettings(), app)


def kept(config: str | None, overrides: list[str] | None, lake: Any) -> set[str]:
    """Ids of the completed runs that `run` would reuse."""
    from recsys_spark.pipeline import runner as pipelines
    from recsys_spark.pipeline import steps

    path, given = arguments(config, overrides)
    pipeline, known_steps = steps.load(path, given)
    return {
        run.run_id
        for run in pipelines.kept(pipeline, list(known_steps.values()), lake=lake).values()
    }


def arguments(config: str | None, overrides: list[str] | None) -> tuple[Path, list[str]]:
    """(pipeline file, the other arguments); the file may be left out, or be the bare name of one in
    conf/pipelines. It is looked up in the working directory, then among those of the package.
    """
    given = list(overrides or [])
    if config is not None and "=" in config:
        given, config = [config, *given], None
    if config is not None and not Path(config).suffix and not Path(config).exists():
        config = f"{Path(DEFAULT).parent / config}.yaml"
    path = config_files.located(config or DEFAULT)
    if config is None and not path.exists():
        raise ConfigError(
            "the pipeline file", found=f"none named, and no {DEFAULT} here", expected="a YAML file"
        )
    return path, given


def is_setting(argument: str) -> bool:
    """Whether an argument is a key=value or a file of them; others name steps, runs or lakes."""
    return "=" in argument or config_files.is_file(argument)
