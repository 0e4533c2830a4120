"""`recsys-spark`, and the entry of every file in jobs/. The only module that configures logging and chooses an exit code."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Callable, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError, RecsysError, is_disk_full

DEFAULT, PARITY = "conf/pipelines/ml-1m.yaml", "conf/parity.yaml"
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Raw logs to recommendations in Delta tables: Spark, Petastorm, Horovod, PyTorch.")

Config = Annotated[str | None, typer.Argument(metavar="[CONFIG]", help=f"A pipeline file. Default: {DEFAULT}")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example seed=2 steps.als.config.rank=32")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Validate configuration and tables, estimate the work, start none.")]
Steps = Annotated[list[str] | None, typer.Option("--step", help="Only this step and what it needs (may be repeated).")]


@app.command()
def run(config: Config = None, overrides: Overrides = None, step: Steps = None, dry_run: DryRun = False) -> None:
    """Run a pipeline: its steps in order, those that are done already skipped."""
    _run(config, overrides, stage=None, names=step, dry_run=dry_run)


@app.command()
def prepare_ranks(config: Config = None, overrides: Overrides = None,
                  step: Annotated[str, typer.Option(help="A train_deep step.")] = "") -> None:
    """Prepare a training for ranks that torchrun or horovodrun starts: run what it needs, write its job file, print the commands."""
    console = Console()
    job, ctx = _trained(config, overrides, step, console, compute=True)
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

    console = Console()
    job, ctx = _trained(config, overrides, step, console, compute=False)
    network = Network(latency_us / 1e6, bandwidth_gbit * 1e9 / 8)
    shown.show(console, scaling.plan(ctx, job, workers or [1, 2, 8, 64, 512], network, rows=rows, faster=faster))


@app.command()
def tune(config: Config = None, overrides: Overrides = None, step: Steps = None, dry_run: DryRun = False) -> None:
    """Run the steps that have a `search` (and what they need), then show their trials, best first. Validation only."""
    from recsys_spark.report import terminal
    from recsys_spark.stages import search, steps

    path, arguments = _arguments(config, overrides)
    _, known = steps.load(path, arguments)
    searched = [name for name, one in known.items() if getattr(one.job, "search", None) is not None]
    for name in step or ():
        if name in known and name not in searched:
            raise ConfigError(f"step {name!r}", found="no `search`", expected=f"one of {', '.join(searched) or 'none in this file'}",
                              remedy=f"give {name} a `search` with a `space` (docs/tuning.md)")
    if not searched:
        raise ConfigError(str(path), found="no step with a `search`", expected="at least one", remedy="see docs/tuning.md")
    done = _run(config, overrides, stage=None, names=step or searched, dry_run=dry_run)
    for name in (step or searched) if done else ():
        terminal.trials(Console(), done[name], search.read(Path(done[name].run_dir) / search.TRIALS))


@app.command()
def parity(
    listed: Annotated[str, typer.Argument(metavar="[LIST]", help="A list of published figures.")] = PARITY,
    overrides: Overrides = None,
    out: Annotated[str, typer.Option(help="The page.")] = "docs/parity.md",
    only: Annotated[list[str] | None, typer.Option(help="Run only this pipeline of the list (may be repeated).")] = None,
) -> None:
    """Run the pipelines behind a list of published figures, and write ours beside them."""
    from recsys_spark.stages import parity as parities

    console = Console()
    page = parities.run(Path(listed), Path(out), only=only or (), arguments=overrides or (), listener=_listener(console))
    console.print(f"wrote {page}")


@app.command()
def runs(config: Config = None, overrides: Overrides = None) -> None:
    """The completed runs of a pipeline's lake, newest last."""
    from recsys_spark.report import terminal

    _, lake = _open(config, overrides)
    terminal.runs(Console(), lake.runs())


@app.command()
def rerun(run_id: str, config: Config = None, overrides: Overrides = None) -> None:
    """Run a recorded run again on the same Delta versions, and compare the two."""
    from recsys_spark.stages import rerun as reruns

    pipeline, lake = _open(config, overrides)
    console = Console()
    before, after = reruns.rerun(pipeline, run_id, lake=lake, listener=_listener(console))
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
    pipeline, lake = _open(files[0] if files else None, [name for name in given if "=" in name])
    wanted = compares.Wanted(tuple(name for name in named if name not in given), reference, metric, users)
    page, path = compares.compare(lake, wanted, runs_dir=Path(pipeline.env.runs), seed=pipeline.seed, now=time.time())
    terminal.comparison(Console(), page, path)


@app.command()
def models() -> None:
    """Every model and baseline, with its layout, task and paper."""
    from recsys_spark.stages import catalogue

    table = Table()
    for name in ("name", "kind", "task", "paper"):
        table.add_column(name, no_wrap=True, min_width=0 if name == "paper" else 11, overflow="ellipsis")
    for entry in catalogue.entries():
        table.add_row(entry.name, entry.kind, entry.task, entry.paper)
    Console().print(table)


@app.command()
def show(user_id: str, config: Config = None, overrides: Overrides = None) -> None:
    """A user's history and every model's recommendations, by title."""
    from recsys_spark.stages import show as shows

    _, lake = _open(config, overrides)
    shows.show(Console(), lake, user_id)


@app.command()
def download(dataset: str, to: Annotated[str, typer.Option(help="Folder that receives the data set's own folder.")] = "data") -> None:
    """Fetch a data set from its publisher: resumed, checked, unpacked."""
    from recsys_spark.datasets import download as downloads

    folder = downloads.download(dataset, Path(to))
    Console().print(f"{dataset} is in {folder}")


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
    Console().print(f"wrote {to}")


def main() -> NoReturn:
    """The console script."""
    _guarded(app)


def job(stage: str, argv: list[str] | None = None) -> None:
    """Entry of jobs/<stage>.py: the pipeline's steps of this stage, and whatever they need that is not done yet."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @command.command(help=f"Run the {stage} steps of a pipeline (and what they need, where that is not done yet).")
    def _(config: Config = None, overrides: Overrides = None, step: Steps = None, dry_run: DryRun = False) -> None:
        _run(config, overrides, stage=stage, names=step, dry_run=dry_run)

    _guarded(lambda: command(args=argv))


def _guarded(call: Callable[[], Any]) -> NoReturn:
    """Exit codes: 0 done, 2 the user's mistake (one line), 130 Ctrl-C; anything else is ours and shows its traceback."""
    log.configure()
    try:
        call()
    except RecsysError as problem:
        _say(str(problem))
        sys.exit(problem.exit_code)
    except Exception as problem:
        if not is_disk_full(problem):
            raise
        _say(f"the disk is full: {_first_line(problem)}. To mend: free space and run the same command again; completed steps stay")
        sys.exit(RecsysError.exit_code)
    sys.exit(0)


def _say(message: str) -> None:
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def _first_line(problem: Exception) -> str:
    return next((line.strip() for line in str(problem).splitlines() if is_disk_full(line)), type(problem).__name__)


def _run(config: str | None, overrides: list[str] | None, *, stage: str | None, names: list[str] | None, dry_run: bool) -> dict[str, Any]:
    """{step: its run}; empty after a dry run."""
    from recsys_spark.stages import steps

    console = Console()
    path, arguments = _arguments(config, overrides)
    pipeline, known = steps.load(path, arguments)
    wanted = steps.closure(known, steps.select(known, stage=stage, names=names or (), source=str(path)))
    from recsys_spark.stages import pipeline as pipelines  # starts what the validation above did not need: Spark

    started = time.monotonic()
    lake = pipelines.open_lake(pipeline)
    if dry_run:
        pipelines.dry_run(pipeline, wanted, lake=lake, listener=_listener(console))
        return {}
    try:
        done = pipelines.run(pipeline, wanted, lake=lake, listener=_listener(console))
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped: completed steps stay, the same command goes on with the rest")
        raise
    from recsys_spark.report import terminal

    terminal.results(console, list(done.values()))
    console.print(f"[dim]{len(done)} steps in {time.monotonic() - started:.0f} s[/]")
    return done


def _trained(config: str | None, overrides: list[str] | None, name: str, console: Console, *, compute: bool) -> tuple[Any, Any]:
    """(job, context) of a train_deep step, once what it needs is done: done now (`compute`), or else refused."""
    from recsys_spark.stages import pipeline as pipelines
    from recsys_spark.stages import steps

    path, arguments = _arguments(config, overrides)
    pipeline, known = steps.load(path, arguments)
    chosen = steps.select(known, stage="train_deep", names=[name] if name else (), source=str(path))
    if len(chosen) > 1:
        raise ConfigError("option --step", found="none", expected=f"one of {', '.join(chosen)}")
    *before, step = steps.closure(known, chosen)
    lake = pipelines.open_lake(pipeline)
    hear = _listener(console)
    done = pipelines.run(pipeline, before, lake=lake, listener=hear) if compute else pipelines.kept(pipeline, before, lake=lake)
    missing = [needed for needed in step.needs if needed not in done]
    if missing:
        raise ConfigError(f"step {step.name}", found=f"{missing[0]} not run yet", expected="its shards",
                          remedy=f"recsys-spark run {path} --step {missing[0]}")
    return step.job, pipelines.context(pipeline, step, {need: done[need] for need in step.needs}, lake=lake)


def _open(config: str | None, overrides: list[str] | None) -> tuple[Any, Any]:
    from recsys_spark.stages import pipeline as pipelines
    from recsys_spark.stages import steps

    path, arguments = _arguments(config, overrides)
    pipeline, _ = steps.load(path, arguments)
    return pipeline, pipelines.open_lake(pipeline)


def _arguments(config: str | None, overrides: list[str] | None) -> tuple[Path, list[str]]:
    """The pipeline file and the key=value arguments; the file may be left out. Looked for here, then beside the package."""
    given = list(overrides or [])
    if config is not None and "=" in config:
        given, config = [config, *given], None
    path = Path(config or DEFAULT)
    beside = Path(__file__).parent.parent / path
    if not path.exists() and not path.is_absolute() and beside.exists():
        path = beside
    if config is None and not path.exists():
        raise ConfigError("no pipeline file named", found=f"and {DEFAULT} is not here", expected="a path to a YAML file")
    return path, given


def _listener(console: Console) -> Callable[[Any], None]:
    """Steps as they come: one line each on a terminal, key=value log lines elsewhere."""
    logger = log.get("cli")

    def hear(event: Any) -> None:
        facts = {name: value for name, value in (event.facts or {}).items() if isinstance(value, (int, float, str))}
        if not console.is_terminal:  # what a stage did stands in its own line
            told = facts if event.kind == "planned" else {"seconds": round(event.seconds, 1)} if event.seconds else {}
            logger.info(log.fields(step=event.step, stage=event.stage, status=event.kind, run_id=event.run_id or "none",
                                   **{name: value for name, value in told.items() if name not in ("step", "stage", "status", "run_id")}))
            return
        brief = "  ".join(f"{name} {_short(value)}" for name, value in list(facts.items())[:4])
        mark = {"start": "[cyan]>[/]", "done": "[green]done[/]", "skipped": "[dim]kept[/]", "planned": "[cyan]plan[/]"}[event.kind]
        seconds = f"{event.seconds:6.1f} s" if event.seconds else " " * 8
        if event.kind != "start":
            console.print(f"{mark} {event.step:<18} {seconds}  [dim]{brief}[/]", highlight=False, soft_wrap=True)

    return hear


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)[:40]


if __name__ == "__main__":
    main()
