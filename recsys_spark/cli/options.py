"""What several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT, PARITY = "conf/pipelines/ml-1m.yaml", "conf/parity.yaml"

Config = Annotated[str | None, typer.Argument(metavar="[CONFIG]", help=f"A pipeline file. Default: {DEFAULT}")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example seed=2 steps.als.config.rank=32")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Validate configuration and tables, estimate the work, start none.")]
Steps = Annotated[list[str] | None, typer.Option("--step", help="Only this step and what it needs (may be repeated).")]
