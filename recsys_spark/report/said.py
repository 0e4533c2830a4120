"""Paired differences in words and numbers, for both the page and the terminal."""

from __future__ import annotations

import math

from recsys_spark.metrics import glossary
from recsys_spark.report import results
from recsys_spark.report.content import Compared, Evaluation, Paired

SURE = 0.05  # a corrected p-value below this is reported as a difference


def verdict(compared: Compared, difference: Paired, labels: dict[str, str]) -> tuple[str, str]:
    """(claim, detail), such as (`als beats popularity`, ` by 0.0286 (0.0240 to 0.0331),
    p < 0.002`): which run is better, then the size of the difference and its p-value.
    """
    name, other = labels[difference.run_id], labels[compared.reference]
    if difference.value is None:
        return f"{name} and {other}", ": nothing was measured on both"
    if not is_sure(difference):
        detail = (
            f": {name} minus {other} is {signed(difference)}, "
            f"{probability(difference, compared.replicas)}"
        )
        return f"{name} and {other} cannot be told apart", detail
    better = (
        difference.value < 0
        if difference.column[0] in glossary.LOWER_IS_BETTER
        else difference.value > 0
    )
    winner, loser = (name, other) if better else (other, name)
    return (
        f"{winner} beats {loser}",
        f" by {size(difference)}, {probability(difference, compared.replicas)}",
    )


def leads(evaluation: Evaluation, table: results.Table) -> list[str]:
    """Sentences on what the first run of the table is surely better than, by paired differences and
    p-values corrected for the number of runs, and on what it cannot be told apart from.
    """
    labels = {row.run_id: row.label for row in table.rows}
    differences = [lead for lead in evaluation.leads.get(table.task, ()) if lead.run_id in labels]
    doubtful = [lead for lead in differences if not is_sure(lead)]
    sure = [lead for lead in differences if is_sure(lead)]
    sentences = []
    if doubtful:
        names = ", ".join(
            f"{labels[lead.run_id]} ({probability(lead, evaluation.replicas)})" for lead in doubtful
        )
        sentences.append(f"It cannot be told apart from {names}")
    if sure:
        nearest = sure[0]  # the table's order: the best of them
        rest = ", and all behind it" if len(sure) > 1 else ""
        bar = table.baseline.run_id if table.baseline else ""
        baseline = next((lead for lead in sure[1:] if lead.run_id == bar), None)
        if baseline is not None:
            between = "all in between, " if baseline is not sure[1] else ""
            rest = (
                f", {between}and {labels[bar]} by {size(baseline)}, "
                f"{probability(baseline, evaluation.replicas)}"
            )
            if sure[-1] is not baseline:
                rest += ", and all behind it"
        sentences.append(
            f"It beats {labels[nearest.run_id]} by {size(nearest)}, "
            f"{probability(nearest, evaluation.replicas)}{rest}"
        )
    return sentences


def is_sure(difference: Paired) -> bool:
    """Whether the runs differ, by the corrected p-value."""
    return difference.corrected is not None and difference.corrected < SURE


def main_differences(compared: Compared) -> list[Paired]:
    """The differences in the main metric over all users, the largest gain first."""
    differences = [
        difference
        for difference in compared.differences
        if (difference.column, difference.slice) == (compared.primary, results.ALL)
    ]
    lower = compared.primary[0] in glossary.LOWER_IS_BETTER
    return sorted(
        differences,
        key=lambda difference: (
            math.inf
            if difference.value is None
            else difference.value
            if lower
            else -difference.value
        ),
    )


def size(difference: Paired) -> str:
    """The absolute difference with its interval: `0.0286 (0.0240 to 0.0331)`."""
    assert difference.value is not None
    metric = difference.column[0]
    if difference.value >= 0:
        return (
            f"{number(metric, difference.value)} ({number(metric, difference.low)} to "
            f"{number(metric, difference.high)})"
        )
    ends = [None if end is None else -end for end in (difference.high, difference.low)]
    return (
        f"{number(metric, -difference.value)} ({number(metric, ends[0])} to "
        f"{number(metric, ends[1])})"
    )


def signed(difference: Paired) -> str:
    """The signed difference with its interval: `+0.0012 (−0.0030 to 0.0051)`."""
    metric = difference.column[0]
    return (
        f"{plus(metric, difference.value)} ({number(metric, difference.low)} to "
        f"{number(metric, difference.high)})"
    )


def plus(metric: str, value: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + number(metric, value)


def number(metric: str, value: float | None) -> str:
    """As `results.number`, with the minus sign U+2212."""
    return results.number(metric, value).replace("-", "−")


def probability(difference: Paired, replicas: int) -> str:
    """`p = 0.034` after Holm's correction; `p < 0.002` where no replica has the opposite sign: R
    replicas cannot resolve a smaller p-value.
    """
    if difference.p is None or difference.corrected is None:
        return "no p-value"
    if difference.p <= 2 / replicas:
        return f"p < {math.ceil(1000 * difference.corrected - 1e-6) / 1000:.3f}"
    return f"p = {difference.corrected:.3f}" if difference.corrected < 0.9995 else "p = 1"
