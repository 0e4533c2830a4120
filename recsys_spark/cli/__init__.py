"""`recsys-spark`, and the entry of every file in jobs/. The only package that configures logging
and chooses an exit code.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from recsys_spark.cli import running
from recsys_spark.cli.commands import app
from recsys_spark.cli.options import Config, DryRun, Exclude, Force, Given, Select
from recsys_spark.core import log
from recsys_spark.core.errors import RecsysError, is_disk_full


def main() -> NoReturn:
    """The console script."""
    _guarded(app)


def job(stage: str, argv: list[str] | None = None) -> None:
    """Entry of jobs/<stage>.py: runs the pipeline's steps of this stage, and the steps they need
    that have not completed.
    """
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @command.command(
        help=f"Run the {stage} steps of a pipeline (and "
        "what they need, where that is not done yet)."
    )
    def _(
        config: Config = None,
        given: Given = None,
        select: Select = None,
        exclude: Exclude = None,
        force: Force = False,
        dry_run: DryRun = False,
    ) -> None:
        wanted = running.Wanted(select or (), exclude or (), stage, force)
        running.run(config, given, wanted, dry_run=dry_run)

    _guarded(lambda: command(args=argv))


def _guarded(call: Callable[[], Any]) -> NoReturn:
    """Calls and exits. Exit codes: 0 success, 2 a user error (one line), 3 data of too low quality,
    130 Ctrl-C; any other exception is a bug, shows its traceback and exits with 1.
    """
    log.configure()
    try:
        call()
    except RecsysError as problem:
        _say(str(problem))
        for note in getattr(problem, "__notes__", ()):
            Console(stderr=True).print(Text(note, "dim"), soft_wrap=True)
        sys.exit(problem.exit_code)
    except Exception as problem:
        if not is_disk_full(problem):
            raise
        _say(
            f"the disk is full: {_first_line(problem)}. To mend: free space and run the same "
            "command again; completed steps stay"
        )
        sys.exit(RecsysError.exit_code)
    sys.exit(0)


def _say(message: str) -> None:
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def _first_line(problem: Exception) -> str:
    return next(
        (line.strip() for line in str(problem).splitlines() if is_disk_full(line)),
        type(problem).__name__,
    )
