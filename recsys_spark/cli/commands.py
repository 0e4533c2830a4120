"""The commands, one function each: arguments, the call of the stage or command, the output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import recsys_spark
from recsys_spark.cli import data, results, running, submission, upkeep
from recsys_spark.cli.listener import listener
from recsys_spark.cli.options import (
    PARITY,
    AsJson,
    Config,
    DryRun,
    Exclude,
    Force,
    Given,
    InProduction,
    Overrides,
    Select,
)
from recsys_spark.cli.screen import screen
from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Raw logs to recommendations in Delta tables: Spark, Petastorm, Horovod, PyTorch.",
)


def _version(wanted: bool) -> None:
    if wanted:
        screen().print(f"recsys-spark {recsys_spark.__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def every_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    log_level: Annotated[
        log.Level, typer.Option("--log-level", help="What is written to the log (stderr).")
    ] = log.Level.INFO,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and errors in the log.")
    ] = False,
) -> None:
    log.configure("WARNING" if quiet else log_level.value)


@app.command(
    epilog="recsys-spark run my.yaml | run my.yaml als+ --exclude report | run my.yaml state:failed"
)
def run(
    config: Config = None,
    given: Given = None,
    select: Select = None,
    exclude: Exclude = None,
    force: Force = False,
    production: InProduction = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline: its steps in order, those that are done already are kept."""
    wanted = running.Wanted(select or (), exclude or (), force=force, in_production=production)
    (running.for_programs if as_json else running.run)(config, given, wanted, dry_run=dry_run)


@app.command()
def prepare_ranks(
    config: Config = None,
    overrides: Overrides = None,
    step: Annotated[str, typer.Option(help="A train_deep step.")] = "",
) -> None:
    """Prepare a training for ranks that torchrun or horovodrun starts: run what it needs, write its
    job file, print the commands.
    """
    console = screen()
    job, ctx = running.trained(config, overrides, step, console, compute=True)
    from recsys_spark.stages import train_deep

    path, ranks = train_deep.prepare(ctx, job), job.workers.num_workers
    for command in (
        f"torchrun --standalone --nproc-per-node {ranks} -m",
        f"horovodrun -np {ranks} python -m",
    ):
        console.print(f"{command} recsys_spark.train.entry {path}", soft_wrap=True, highlight=False)


@app.command()
def plan(
    config: Config = None,
    overrides: Overrides = None,
    step: Annotated[str, typer.Option(help="A train_deep step whose shards are there.")] = "",
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Ranks (may be repeated). Default: 1 2 8 64 512."),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Training rows of an epoch. Default: those of the shards.")
    ] = 0,
    latency_us: Annotated[
        float, typer.Option(min=0, help="Of one message between two ranks.")
    ] = 20.0,
    bandwidth_gbit: Annotated[
        float, typer.Option(min=0.001, help="That each rank sends and receives.")
    ] = 100.0,
    faster: Annotated[
        float,
        typer.Option(
            min=0.001, help="How many times as fast as this processor a rank's is (a GPU)."
        ),
    ] = 1.0,
) -> None:
    """Predict examples/s, memory and the bottleneck of a training on more ranks, from steps
    measured here and now.
    """
    from recsys_spark.commands import scaling
    from recsys_spark.report import scaling as shown
    from recsys_spark.train.forecast import Network

    console = screen()
    job, ctx = running.trained(config, overrides, step, console, compute=False)
    network = Network(latency_us / 1e6, bandwidth_gbit * 1e9 / 8)
    shown.show(
        console,
        scaling.plan(ctx, job, workers or [1, 2, 8, 64, 512], network, rows=rows, faster=faster),
    )


@app.command(epilog="recsys-spark tune my.yaml --step als")
def tune(
    config: Config = None,
    overrides: Overrides = None,
    select: Select = None,
    dry_run: DryRun = False,
) -> None:
    """Run the steps that have a `search` (and what they need), then show their trials, best first.
    Validation only.
    """
    from recsys_spark.pipeline import steps
    from recsys_spark.report import terminal
    from recsys_spark.stages.tuning import search

    path, settings = running.arguments(config, overrides)
    _, known_steps = steps.load(path, settings)
    searched = [
        name
        for name, entry in known_steps.items()
        if getattr(entry.job, "search", None) is not None
    ]
    if not searched:
        raise ConfigError(
            str(path),
            found="no step with a `search`",
            expected="at least one",
            remedy="give a step a `search` with a `space` (docs/tuning.md)",
        )
    names = steps.select(known_steps, patterns=select or searched, source=str(path))
    for name in names:
        if name not in searched:
            raise ConfigError(
                f"step {name!r}",
                found="no `search`",
                expected=f"one of {', '.join(searched)}",
                remedy=f"give {name} a `search` with a `space` (docs/tuning.md)",
            )
    done = running.run(config, overrides, running.Wanted(names), dry_run=dry_run)
    for name in names if done else ():
        terminal.trials(screen(), done[name], search.read(Path(done[name].run_dir) / search.TRIALS))


@app.command()
def parity(
    listed: Annotated[
        str, typer.Argument(metavar="[LIST]", help="A list of published figures.")
    ] = PARITY,
    overrides: Overrides = None,
    out: Annotated[str, typer.Option(help="The page.")] = "docs/parity.md",
    only: Annotated[
        list[str] | None, typer.Option(help="Run only this pipeline of the list (may be repeated).")
    ] = None,
) -> None:
    """Run the pipelines behind a list of published figures, and write ours beside them."""
    from recsys_spark.commands import parity as parities

    console = screen()
    page = parities.run(
        Path(listed),
        Path(out),
        only=only or (),
        arguments=overrides or (),
        listener=listener(console),
    )
    console.print(f"wrote {page}")


_LOOK, _DATA, _UPKEEP = "What came out", "Data", "Upkeep"
_PANELS: dict[str, dict[Callable[..., None], str]] = {
    _LOOK: {
        results.models: "recsys-spark models | models als",
        results.status: "recsys-spark status my.yaml",
        results.runs: "recsys-spark runs my.yaml --json",
        results.show: "recsys-spark show 42 my.yaml",
        results.compare: "recsys-spark compare score_als score_ease --metric ndcg@10",
        results.rerun: "recsys-spark rerun als-1f3c5a7b9d my.yaml",
    },
    _DATA: {
        data.init: "recsys-spark init /data/shop -o my.yaml",
        data.look: "recsys-spark look my.yaml",
        data.download: "recsys-spark download ml-1m",
        data.generate: "recsys-spark generate data/ml-1m --users 300 --ratings 12000",
    },
    _UPKEEP: {
        upkeep.doctor: "recsys-spark doctor my.yaml",
        upkeep.rollback: "recsys-spark rollback my.yaml --to publish_now-0123456789",
        upkeep.clean: "recsys-spark clean my.yaml --older-than 30d --yes",
        upkeep.forget: "recsys-spark forget 42 my.yaml --yes",
    },
}
for _panel, _commands in _PANELS.items():
    for _command, _example in _commands.items():
        app.command(rich_help_panel=_panel, epilog=_example)(_command)

app.add_typer(submission.app, name="submission", rich_help_panel="Data")
