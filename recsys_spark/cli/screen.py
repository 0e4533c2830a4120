"""The console on which the commands print."""

from __future__ import annotations

import os

from rich.console import Console

LOG_WIDTH = 160


def screen() -> Console:
    """Standard output. A log or a pipe has no width, so tables get LOG_WIDTH columns unless COLUMNS
    sets a width.
    """
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=LOG_WIDTH)
