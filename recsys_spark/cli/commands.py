"""Every command, a function each: what it takes, the stage that it calls, what it shows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from recsys_spark.cli import running
from recsys_spark.cli.listener import listener
from recsys_spark.cli.options import PARITY, Config, DryRun, Overrides, Steps
from recsys_spark.cli.screen import screen
from recsys_spark.core.errors import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Raw logs to recommendations in Delta tables: Spark, Petastorm, Horovod, PyTorch.")


@app.command()
def run(config: Config = None, overrides: Overrides = None, step: Steps = None, dry_run: DryRun = False) -> None:
    """Run a pipeline: its steps in order, those that are done already skipped."""
    running.run(config, overrides, stage=None, names=step, dry_run=dry_run)


@app.command()
def prepare_ranks(config: Config = None, overrides: Overrides = None,
                  step: Annotated[str, typer.Option(help="A train_deep step.")] = "") -> None:
    """Prepare a training for ranks that torchrun or horovodrun starts: run what it needs, write its job file, print the commands."""
    console = screen()
    job, ctx = running.trained(config, overrides, step, console, compute=True)
    from recsys_spark.stages import train_deep

    path, ranks = train_deep.prepare(ctx, job), job.workers.num_workers
    for command in (f"torchrun --standalone --nproc-per-node {ranks} -m", f"horovodrun -np {ranks} python -m"):
        console.print(f"{command} recsys_spark.train.entry {path}", soft_wrap=True, highlight=False)


@app.command()
def plan(
    config: Config = None, overrides: Overrides = None,
    step: Annotated[str, typer.Option(help="A train_deep step whose shards are there.")] = "",
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Ranks (may be repeated). Default: 1 2 8 64 512.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Training rows of an epoch. Default: those of the shards.")] = 0,
    latency_us: Annotated[float, typer.Option(min=0, help="Of one message between two ranks.")] = 20.0,
    bandwidth_gbit: Annotated[float, typer.Option(min=0.001, help="That each rank sends and receives.")] = 100.0,
    faster: Annotated[float, typer.Option(min=0.001, help="How many times as fast as this processor a rank's is (a GPU).")] = 1.0,
) -> None:
    """Predict examples/s, memory and the bottleneck of a training on more ranks, from steps measured here and now."""
    from recsys_spark.report import scaling as shown
    from recsys_spark.stages import scaling
    from recsys_spark.train.forecast import Network

    console = screen()
    job, ctx = running.trained(config, overrides, step, console, compute=False)
    network = Network(latency_us / 1e6, bandwidth_gbit * 1e9 / 8)
    shown.show(console, scaling.plan(ctx, job, workers or [1, 2, 8, 64, 512], network, rows=rows, faster=faster))


@app.command()
def tune(config: Config = None, overrides: Overrides = None, step: Steps = None, dry_run: DryRun = False) -> None:
    """Run the steps that have a `search` (and what they need), then show their trials, best first. Validation only."""
    from recsys_spark.report import terminal
    from recsys_spark.stages import search, steps

    path, given = running.arguments(config, overrides)
    _, known = steps.load(path, given)
    searched = [name for name, one in known.items() if getattr(one.job, "search", None) is not None]
    for name in step or ():
        if name in known and name not in searched:
            raise ConfigError(f"step {name!r}", found="no `search`", expected=f"one of {', '.join(searched) or 'none in this file'}",
                              remedy=f"give {name} a `search` with a `space` (docs/tuning.md)")
    if not searched:
        raise ConfigError(str(path), found="no step with a `search`", expected="at least one", remedy="see docs/tuning.md")
    done = running.run(config, overrides, stage=None, names=step or searched, dry_run=dry_run)
    for name in (step or searched) if done else ():
        terminal.trials(screen(), done[name], search.read(Path(done[name].run_dir) / search.TRIALS))


@app.command()
def parity(
    listed: Annotated[str, typer.Argument(metavar="[LIST]", help="A list of published figures.")] = PARITY,
    overrides: Overrides = None,
    out: Annotated[str, typer.Option(help="The page.")] = "docs/parity.md",
    only: Annotated[list[str] | None, typer.Option(help="Run only this pipeline of the list (may be repeated).")] = None,
) -> None:
    """Run the pipelines behind a list of published figures, and write ours beside them."""
    from recsys_spark.stages import parity as parities

    console = screen()
    page = parities.run(Path(listed), Path(out), only=only or (), arguments=overrides or (), listener=listener(console))
    console.print(f"wrote {page}")


@app.command()
def runs(config: Config = None, overrides: Overrides = None) -> None:
    """The completed runs of a pipeline's lake, newest last."""
    from recsys_spark.report import terminal

    _, lake = running.open_lake(config, overrides)
    terminal.runs(screen(), lake.runs())


@app.command()
def rerun(run_id: str, config: Config = None, overrides: Overrides = None) -> None:
    """Run a recorded run again on the same Delta versions, and compare the two."""
    from recsys_spark.stages import rerun as reruns

    pipeline, lake = running.open_lake(config, overrides)
    console = screen()
    before, after = reruns.rerun(pipeline, run_id, lake=lake, listener=listener(console))
    found = list(reruns.differences(before.summary, after.summary))
    table = Table("fact", before.run_id, after.run_id, title="differences" if found else None)
    for difference in found:
        table.add_row(difference.fact, repr(difference.before), repr(difference.after))
    console.print(table if found else f"{after.run_id}: every recorded fact equals that of {before.run_id}, to the last digit")


@app.command()
def compare(
    named: Annotated[list[str], typer.Argument(metavar="RUN RUN ... [CONFIG] [KEY=VALUE]...",
                                               help="Run ids, unique starts of them, or steps (their last measured run).")],
    reference: Annotated[str, typer.Option(metavar="RUN", help="What the others are held against. Default: the strongest baseline.")] = "",
    metric: Annotated[str, typer.Option(help="For example ndcg@10. Default: the task's own.")] = "",
    users: Annotated[int, typer.Option(min=0, max=100, help="Example users drawn at random.")] = 4,
) -> None:
    """Hold evaluated runs against one of them: differences with intervals and p-values, and a page that opens in a browser."""
    from recsys_spark.report import terminal
    from recsys_spark.stages import compare as compares

    given = [name for name in named if "=" in name or name.endswith((".yaml", ".yml"))]
    files = [name for name in given if "=" not in name]
    pipeline, lake = running.open_lake(files[0] if files else None, [name for name in given if "=" in name])
    wanted = compares.Wanted(tuple(name for name in named if name not in given), reference, metric, users)
    page, path = compares.compare(lake, wanted, runs_dir=Path(pipeline.env.runs), seed=pipeline.seed, now=time.time())
    terminal.comparison(screen(), page, path)


@app.command()
def models() -> None:
    """Every model and baseline, with its layout, task and paper."""
    from recsys_spark.stages import catalogue

    table = Table()
    for name in ("name", "kind", "task", "paper"):
        table.add_column(name, no_wrap=True, min_width=0 if name == "paper" else 11, overflow="ellipsis")
    for entry in catalogue.entries():
        table.add_row(entry.name, entry.kind, entry.task, entry.paper)
    screen().print(table)


@app.command()
def show(user_id: str, config: Config = None, overrides: Overrides = None) -> None:
    """A user's history and every model's recommendations, by title."""
    from recsys_spark.stages import show as shows

    _, lake = running.open_lake(config, overrides)
    shows.show(screen(), lake, user_id)


@app.command()
def download(dataset: str, to: Annotated[str, typer.Option(help="Folder that receives the data set's own folder.")] = "data") -> None:
    """Fetch a data set from its publisher: resumed, checked, unpacked."""
    from recsys_spark.datasets import download as downloads

    folder = downloads.download(dataset, Path(to))
    screen().print(f"{dataset} is in {folder}")


@app.command()
def generate(
    to: Annotated[str, typer.Argument(help="New folder for ratings.dat, users.dat, movies.dat.")],
    users: int = 6040, items: int = 3883, ratings: int = 1_000_209, seed: int = 1,
) -> None:
    """Write a MovieLens-format set with planted tastes, of any size, the same for a seed."""
    from recsys_spark.datasets import synthetic
    from recsys_spark.lake import session
    from recsys_spark.stages.context import SparkSettings

    spark = session.session(SparkSettings(), "recsys_spark generate")
    synthetic.generate(spark, Path(to), users=users, items=items, ratings=ratings, seed=seed)
    screen().print(f"wrote {to}")
