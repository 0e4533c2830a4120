"""docs/models.md, made of what the models' files say and of what was measured: `make docs`."""

from __future__ import annotations

from pathlib import Path

from recsys_spark.commands import catalogue, figures
from recsys_spark.commands.catalogue import Entry
from recsys_spark.commands.figures import Figure
from recsys_spark.core import artifacts

PAGE = Path("docs/models.md")
INTRO = """# Models

Written by `make docs` from the models' files; nothing here is edited by hand. `recsys-spark models
NAME` shows a model's settings with their defaults, its paper, its memory and all its figures.

Start with `popularity`, then `ease` (up to some 20,000 items) or `ials`; where the next event is
asked for, `markov`; for ratings `global_bias`, then `mf_bias`; for clicks `logistic`, then `fm`;
for new items `content_knn`. Take a network when it beats these on your validation part.

A figure is of a test part, with its 95 % interval, and can be compared only within one protocol:
those behind a name are the headings of [parity](parity.md), `make demo` is in
[results](results.md). Seconds are of search and fit, on two cores. "not in parity": look in
[results](results.md) and the pages of the challenges.
"""
COLUMNS = ("name", "for", "needs", "new users and items", "figure", "not for")


def text() -> str:
    """The page, baselines first. Raises RecsysError where a model's file cannot be read."""
    entries = catalogue.entries()
    names = [entry.name for entry in entries]
    parts = [INTRO]
    for kind in dict.fromkeys(entry.kind for entry in entries):
        of_kind = [entry for entry in entries if entry.kind == kind]
        title = "Baselines" if kind == "baseline" else f"Models of the layout `{kind}`"
        parts.append(f"## {title}\n\n{_table(of_kind, names)}")
    return "\n".join(parts)


def _table(entries: list[Entry], names: list[str]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for entry in entries:
        cells = (
            f"`{entry.name}` ({entry.task})",
            entry.use,
            entry.needs,
            entry.cold,
            _figure(figures.of(entry.name, names)),
            entry.unfit,
        )
        lines.append(f"| {' | '.join(cell.removesuffix('.') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _figure(measured: list[Figure]) -> str:
    """The first one; one of drawn candidates only where there is no other."""
    if not measured:
        return "not in parity"
    figure = min(measured, key=lambda figure: figure.where.startswith("K-99"))
    seconds = f", {figure.seconds} s" if figure.seconds else ""
    protocol = figure.where.split()[0].rstrip(",") if figure.seconds else figure.where
    return f"{figure.metric} {figure.value} ({figure.interval}), {protocol}{seconds}"


if __name__ == "__main__":
    artifacts.write_text(PAGE, text())
