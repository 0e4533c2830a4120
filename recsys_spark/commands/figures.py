"""What was measured of a model: the rows of docs/parity.md and of the demo in docs/results.md, the
two places where figures stand.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.core import config

PARITY, RESULTS = "docs/parity.md", "docs/results.md"
_DEMO = "## Accuracy: `make demo`"  # the heading of the table that is read of docs/results.md


@dataclass(frozen=True)
class Figure:
    """A value on a test part, with its interval. where: the heading of its table; seconds: of
    search and fit, on the machine that its page names; empty where it says none.
    """

    metric: str
    value: str
    interval: str
    where: str
    seconds: str
    page: str


def of(name: str, known: Collection[str]) -> list[Figure]:
    """Those of a model: the demo's first. known: the names of all models."""
    return [figure for label, figure in [*_demo(), *_parity()] if _model(label, known) == name]


def _demo() -> Iterator[tuple[str, Figure]]:
    _, heading, text = _text(RESULTS).partition(_DEMO)
    header: list[str] = []
    for cells in _rows(text.partition("\n## ")[0]):
        if cells[0] == "model":
            if header:
                return  # of the next set
            header = cells
        elif header:
            label = cells[0].split(" ")[0]
            yield label, Figure(header[1], cells[1], cells[2], "make demo, ML-1M", "", RESULTS)


def _parity() -> Iterator[tuple[str, Figure]]:
    for section in re.split(r"^## ", _text(PARITY), flags=re.M)[1:]:
        where = section.partition("\n")[0]
        for label, metric, value, interval, *_, seconds, _ in _rows(section):
            if label != "model" and value[:1].isdigit():
                ends = interval.partition(";")[0].replace("–", " - ")
                yield label, Figure(metric, value, ends, where, seconds, PARITY)


def _model(label: str, known: Collection[str]) -> str:
    """The model of a row: parity's are named by it, by it and a word more, or by its first word and
    another (`sampled_ease`, `neumf_64`, `rbm_item`).
    """
    words = label.removeprefix("sampled_").split("_")
    for size in range(len(words), 0, -1):
        if (name := "_".join(words[:size])) in known:
            return name
    begun = [name for name in known if name.split("_")[0] == words[0]]
    return begun[0] if len(begun) == 1 else ""


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of each line of a table, but for that under its head."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def _text(page: str) -> str:
    """Nothing where the pages are not there."""
    path: Path = config.located(page)
    return path.read_text(encoding="utf-8") if path.is_file() else ""
