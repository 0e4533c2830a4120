"""Reading an answer file line by line, and saying what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError
from recsys_spark.lake.tables import Lake

EXAMPLES = 5


def last_scored(lake: Lake, step: str) -> Run | None:
    """The last completed run of a score step."""
    runs = [run for run in lake.runs() if run.step == step and run.stage == "score"]
    return max(runs, key=lambda run: run.ended_at, default=None)


class Problems:
    """Counts what is wrong, and keeps the first ones: a file of another kind has one a line."""

    def __init__(self, answer: Path) -> None:
        self.answer, self.count, self.first = answer, 0, list[str]()

    def add(self, line: int | None, problem: str) -> None:
        """line: None where the file lacks something."""
        self.count += 1
        if len(self.first) < EXAMPLES:
            self.first.append(problem if line is None else f"line {line}: {problem}")

    def require_none(self, expected: str) -> None:
        """Raises DataError with the number of problems and the first ones."""
        if self.count:
            more = f" and {self.count - EXAMPLES:,} more" if self.count > EXAMPLES else ""
            raise DataError(
                f"answer {self.answer}",
                found="; ".join(self.first) + more,
                expected=expected,
                remedy="write the file again; nobody would count it as it is",
            )


def lines(answer: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is UTF-8. Raises DataError where there is no file."""
    if not answer.is_file():
        raise DataError(
            f"answer {answer}", found="no such file", expected="an answer file", remedy="correct it"
        )
    with open(answer, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError:
                problems.add(number, "bytes that are not UTF-8")
                yield number, line.decode("utf-8", errors="replace")
