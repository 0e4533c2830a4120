"""A first look at data, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.report import profile
from recsys_spark.report.content import Profile


def show(
    console: Console,
    columns: Sequence[tuple[str, ...]],
    likely: Mapping[str, str],
    picture: Profile,
    *,
    title: str,
    doubts: Sequence[str],
) -> None:
    """columns: (name, type, nulls, distinct, examples). likely: {column: its role and why}."""
    table = Table(title=Text(title), title_justify="left")
    for name in ("column", "type", "nulls", "different", "examples", "taken as"):
        table.add_column(name, justify="right" if name in ("nulls", "different") else "left")
    for column in columns:
        table.add_row(*map(Text, column), Text(likely.get(column[0], ""), "bold"))
    console.print(table)
    profile.show(console, picture, "events")
    for doubt in doubts:
        console.print(Text.assemble(("look at this: ", "bold yellow"), doubt), soft_wrap=True)
