"""The table of every page: a click on a heading sorts it, two buttons copy it as TSV (full digits)
or as Markdown (numbers as shown).

page.js implements both; without it the table is complete and the buttons stay hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BUTTONS = (
    '<p class="copy" hidden>Copy as <button type="button" data-copy="tsv">TSV</button> '
    '<button type="button" data-copy="md">Markdown</button></p>'
)


@dataclass(frozen=True)
class Column:
    """parts: names of further numbers of each cell (`low`, `high`), which become columns of their
    own in a TSV.
    """

    title: str
    tip: str = ""
    text: bool = False  # sorted as text, set flush left
    low_first: bool = False  # the first click puts the lowest on top
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """text is shown; value is the sort key and what is copied; notes are shown below in small
    print, one line each. mark: markup after the text (tags).
    """

    text: str
    value: float | str | None
    notes: tuple[str, ...] = ()
    parts: tuple[float | None, ...] = ()
    css: str = ""
    mark: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """The first cell of a row is its heading; with a colour class it gets a colour key."""
    head = "".join(_heading(column) for column in columns)
    body = "".join(f"<tr>{_row(row, columns)}</tr>" for row in rows)
    return (
        f'<div class="table">{BUTTONS}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _heading(column: Column) -> str:
    marks = ' class="text"' if column.text else ""
    marks += ' data-first="up"' if column.text or column.low_first else ""
    marks += f' data-parts="{escape(" ".join(column.parts))}"' if column.parts else ""
    marks += f' title="{escape(column.tip)}"' if column.tip else ""
    return f'<th{marks}><button type="button">{escape(column.title)}</button></th>'


def _row(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    pairs = zip(row, columns, strict=True)
    return "".join(_cell(cell, column, place == 0) for place, (cell, column) in enumerate(pairs))


def _cell(cell: Cell, column: Column, is_heading: bool) -> str:
    tag = "th" if is_heading else "td"
    classes = " ".join(filter(None, ["text" if column.text else "", cell.css]))
    marks = (f' class="{classes}"' if classes else "") + (' scope="row"' if is_heading else "")
    marks += f' data-v="{escape(_plain(cell.value))}"'
    marks += "".join(
        f' data-{name}="{_plain(part)}"'
        for name, part in zip(column.parts, cell.parts, strict=False)
    )
    key = '<span class="key"></span>' if is_heading and cell.css else ""
    notes = "".join(f"<small>{escape(note)}</small>" for note in cell.notes if note)
    return f"<{tag}{marks}>{key}{escape(cell.text)}{cell.mark}{notes}</{tag}>"


def _plain(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(value)
