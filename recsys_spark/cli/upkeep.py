"""The commands that keep house: an installation examined, data removed (dry by default)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from recsys_spark.cli import running
from recsys_spark.cli.options import Config, Overrides
from recsys_spark.cli.screen import screen
from recsys_spark.core.errors import RecsysError


def doctor(config: Config = None, overrides: Overrides = None) -> None:
    """What this machine has of what a pipeline needs, what is missing and how to get it."""
    from recsys_spark.commands import doctor as doctors
    from recsys_spark.pipeline import steps

    path, given = running.arguments(config, overrides)
    env = steps.read(path, given).env
    findings = doctors.examine(env.lake, env.runs)
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    table = Table("", "state", "found", "to get it")
    for finding in findings:
        state = Text(finding.state, colours[finding.state])
        table.add_row(finding.name, state, Text(finding.detail), Text(finding.remedy))
    screen().print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(RecsysError.exit_code)


def rollback(
    config: Config = None,
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="Of the published lists.")] = "default",
    to: Annotated[
        str, typer.Option(metavar="RUN_ID", help="A publish run. Default: the one before.")
    ] = "",
) -> None:
    """Make the lists of an earlier publish step current again, in one commit."""
    from recsys_spark.commands import rollback as rollbacks

    pipeline, lake = running.open_lake(config, overrides)
    record = rollbacks.rollback(
        lake,
        rollbacks.target(lake, name, to),
        pipeline=pipeline.name,
        runs_dir=Path(pipeline.env.runs),
        now=time.time(),
    )
    facts = record.summary
    screen().print(
        f"{facts['name']}: the lists of {record.config['to']} ({facts['model']}) are current, as "
        f"generation {facts['generation']}",
        highlight=False,
    )
    production = pipeline.production
    if production is not None and production.name == name:
        for place in rollbacks.export(lake, record, production.exports):
            screen().print(f"exported to {place}", highlight=False, soft_wrap=True)


def forget(
    user_id: str,
    config: Config = None,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase. Without it: only say what.")] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Remove the runs built on the user's events as well."),
    ] = False,
) -> None:
    """Erase a user from every table and its history; its number stays taken. Dry by default."""
    from recsys_spark.commands import forget as forgets

    pipeline, lake = running.open_lake(config, overrides)
    runs_dir = Path(pipeline.env.runs)
    console, traces = screen(), forgets.traces(lake, user_id, runs_dir=runs_dir)
    table = Table("table", "rows", title=None if yes else "would be erased")
    for name, rows in traces.rows.items():
        table.add_row(name, f"{rows:,}")
    console.print(table)
    if traces.built:
        fate = "removed" if rebuild else "stay: remove them with --rebuild, then run the pipeline"
        names = ", ".join(run.run_id for run in traces.built)
        console.print(f"runs built on the user's events ({fate}): {names}", highlight=False)
    if not yes:
        console.print("nothing was changed; add --yes to erase")
        return
    record = forgets.forget(
        lake,
        traces,
        runs_dir=runs_dir,
        pipeline=pipeline.name,
        rebuild=rebuild,
    )
    console.print(
        f"erased, recorded as {record.run_id}; the raw files still have the user: "
        "take it out there, or the next ingest brings it back"
    )


def clean(
    config: Config = None,
    overrides: Overrides = None,
    older_than: Annotated[
        str, typer.Option(help="Age of runs, such as 30d or 12h. Default: env.retention_days.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove. Without it: only say what.")] = False,
) -> None:
    """Remove old runs on which nothing builds: folders, rows, table versions. Dry by default."""
    from recsys_spark.commands import clean as cleans

    older_than_s = cleans.seconds_of(older_than) if older_than else None
    pipeline, lake = running.open_lake(config, overrides)
    retention_s = cleans.seconds_of(f"{pipeline.env.retention_days}d")
    gone = cleans.leftover(
        lake,
        runs_dir=Path(pipeline.env.runs),
        kept=running.kept(config, overrides, lake),
        older_than_s=retention_s if older_than_s is None else older_than_s,
        now=time.time(),
    )
    console = screen()
    for run in gone.runs:
        console.print(f"{run.run_id}  {run.stage}", highlight=False)
    for folder in gone.unfinished:
        console.print(f"{folder.name}  never completed", highlight=False)
    rows = ", ".join(f"{name} {count:,}" for name, count in gone.rows.items()) or "none"
    console.print(
        f"{len(gone.runs)} runs, {len(gone.unfinished)} unfinished; "
        f"{gone.folder_bytes / 1e6:,.1f} MB of folders, {gone.table_bytes / 1e6:,.1f} MB of table "
        f"partitions; rows: {rows}",
        highlight=False,
        soft_wrap=True,
    )
    if not yes:
        console.print("nothing was changed; add --yes to remove")
        return
    cleans.clean(lake, gone, retention_s=retention_s)
    console.print("removed")
