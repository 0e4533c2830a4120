"""Arguments and options shared by several commands."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT, PARITY = "conf/pipelines/ml-1m.yaml", "conf/parity.yaml"

Config = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG]",
        help=f"A pipeline file, or the name of one in conf/pipelines. Default: {DEFAULT}",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE|FILE]...",
        help="For example seed=2 steps.als.config.rank=32 conf/env/cluster.yaml",
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STEP|KEY=VALUE|FILE]...",
        help="Steps, as for --select, and settings such as seed=2 steps.als.config.rank=32, or a "
        "file of them such as conf/env/cluster.yaml",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Validate configuration and tables, estimate the work, start none."
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--step",
        "--select",
        help="Only these steps and what they need: NAME, NAME+ (and all that builds on it), "
        "stage:NAME, state:failed (may be repeated).",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Leave out this step and what builds on it, named likewise."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Run the selected steps again, though they are done.")
]
InProduction = Annotated[
    bool,
    typer.Option(
        "--production",
        help="Fit what `production:` of the file names on all events, and publish its lists.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
