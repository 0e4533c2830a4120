"""The commands that ask about models, runs and their results."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from recsys_spark.cli import running
from recsys_spark.cli.listener import listener
from recsys_spark.cli.options import AsJson, Config, InProduction, Overrides
from recsys_spark.cli.screen import screen


def runs(config: Config = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The runs of a pipeline's lake, newest last: those that completed, and failures that nothing
    has made good yet.
    """
    from recsys_spark.report import terminal

    recorded = running.reader(config, overrides)[1].attempts()
    if as_json:
        print_json([run.model_dump() for run in recorded])
    else:
        terminal.runs(screen(), recorded)


def status(
    config: Config = None,
    overrides: Overrides = None,
    in_production: InProduction = False,
    as_json: AsJson = False,
) -> None:
    """What of a pipeline is done, what runs, what failed and why, and what waits for it."""
    from recsys_spark.commands import status as statuses
    from recsys_spark.report import terminal

    pipeline, known, lake = running.planned(config, overrides, in_production=in_production)
    steps = statuses.of(pipeline, list(known.values()), lake)
    if as_json:
        print_json([asdict(status) for status in steps])
    else:
        terminal.statuses(screen(), steps, statuses.summary(steps))


def rerun(run_id: str, config: Config = None, overrides: Overrides = None) -> None:
    """Run a recorded run again on the same Delta versions, and compare the two."""
    from recsys_spark.commands import rerun as reruns

    pipeline, lake = running.open_lake(config, overrides)
    console = screen()
    before, after = reruns.rerun(pipeline, run_id, lake=lake, listener=listener(console))
    differences = list(reruns.differences(before.summary, after.summary))
    table = Table("fact", before.run_id, after.run_id, title="differences" if differences else None)
    for difference in differences:
        table.add_row(difference.fact, repr(difference.before), repr(difference.after))
    console.print(
        table
        if differences
        else (
            f"{after.run_id}: every recorded fact equals that of {before.run_id} to the last "
            "digit, on this machine"
        )
    )


def compare(
    named: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN ... [CONFIG] [KEY=VALUE]...",
            help="Run ids, unique starts of them, or steps (their last measured run).",
        ),
    ],
    reference: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="What the others are held against. Default: the strongest baseline."
        ),
    ] = "",
    metric: Annotated[str, typer.Option(help="For example ndcg@10. Default: the task's own.")] = "",
    users: Annotated[int, typer.Option(min=0, max=100, help="Example users drawn at random.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Hold evaluated runs against one of them: differences with intervals and p-values, and a page
    that opens in a browser.
    """
    from recsys_spark.commands import compare as compares
    from recsys_spark.report import terminal

    settings = [name for name in named if running.is_setting(name)]
    file = next((name for name in settings if "=" not in name), None)
    overrides = [name for name in settings if name != file]
    pipeline, lake = running.reader(file, overrides)
    arguments = compares.Wanted(
        tuple(name for name in named if name not in settings), reference, metric, users
    )
    page, path = compares.compare(
        lake, arguments, runs_dir=Path(pipeline.env.runs), seed=pipeline.seed, now=time.time()
    )
    if as_json:
        print_json(compares.facts(page, path))
    else:
        terminal.comparison(screen(), page, path)


def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Show its settings.")] = "",
    as_json: AsJson = False,
) -> None:
    """Every model and baseline; or all that is known of one: settings, needs, memory, figures."""
    from recsys_spark.commands import catalogue
    from recsys_spark.report import terminal

    if name:
        card = catalogue.card(name)
        if as_json:
            parts = asdict(card)
            print_json(parts.pop("entry") | parts)
        else:
            terminal.model(screen(), card)
        return
    entries = catalogue.entries()
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table()
    for column in ("name", "kind", "task"):
        width = max(len(getattr(entry, column)) for entry in entries)
        table.add_column(column, no_wrap=True, min_width=width)  # a name is there to be copied
    table.add_column("what it does", overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.kind, entry.task, entry.about)
    screen().print(table)


def show(
    query_id: str, config: Config = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """The history of a user, session or playlist and every model's recommendations, by title."""
    from recsys_spark.commands import show as shows
    from recsys_spark.report import terminal

    shown = shows.shown(running.reader(config, overrides)[1], query_id)
    if as_json:
        print_json(asdict(shown))
    else:
        terminal.query(screen(), shown)


def print_json(value: object) -> None:
    """On standard output, which has nothing else then. A number that is none is null."""
    plain = json.loads(json.dumps(value), parse_constant=lambda name: None)
    typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
