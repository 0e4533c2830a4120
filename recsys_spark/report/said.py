"""Paired differences in words and numbers, for page and terminal alike."""

from __future__ import annotations

import math

from recsys_spark.report import results
from recsys_spark.report.content import Compared, Paired

SURE = 0.05  # a corrected p-value below this is called a difference


def verdict(made: Compared, difference: Paired, labels: dict[str, str]) -> tuple[str, str]:
    """(`als beats popularity`, ` by 0.0286 (0.0240 to 0.0331), p < 0.002`): who wins, then by how much and how sure that is."""
    one, other = labels[difference.run_id], labels[made.reference]
    if difference.value is None:
        return f"{one} and {other}", ": nothing was measured on both"
    sure = difference.corrected is not None and difference.corrected < SURE
    if not sure:
        told = f": {one} minus {other} is {signed(difference)}, {probability(difference, made.replicas)}"
        return f"{one} and {other} cannot be told apart", told
    better = difference.value < 0 if difference.column[0] in results.LOWER_IS_BETTER else difference.value > 0
    winner, loser = (one, other) if better else (other, one)
    return f"{winner} beats {loser}", f" by {size(difference)}, {probability(difference, made.replicas)}"


def main_differences(made: Compared) -> list[Paired]:
    """Those in the main metric over all users, the largest gain first."""
    found = [difference for difference in made.differences if (difference.column, difference.slice) == (made.primary, results.ALL)]
    lower = made.primary[0] in results.LOWER_IS_BETTER
    return sorted(found, key=lambda one: math.inf if one.value is None else one.value if lower else -one.value)


def size(difference: Paired) -> str:
    """`0.0286 (0.0240 to 0.0331)`, whichever way it points."""
    assert difference.value is not None
    metric = difference.column[0]
    if difference.value >= 0:
        return f"{number(metric, difference.value)} ({number(metric, difference.low)} to {number(metric, difference.high)})"
    ends = [None if end is None else -end for end in (difference.high, difference.low)]
    return f"{number(metric, -difference.value)} ({number(metric, ends[0])} to {number(metric, ends[1])})"


def signed(difference: Paired) -> str:
    """`+0.0012 (−0.0030 to 0.0051)`."""
    metric = difference.column[0]
    return f"{plus(metric, difference.value)} ({number(metric, difference.low)} to {number(metric, difference.high)})"


def plus(metric: str, value: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + number(metric, value)


def number(metric: str, value: float | None) -> str:
    """As anywhere else, with a true minus sign."""
    return results.number(metric, value).replace("-", "−")


def probability(difference: Paired, replicas: int) -> str:
    """`p = 0.034` after Holm's correction; `p < 0.002` where no replica went the other way, for R replicas cannot say more."""
    if difference.p is None or difference.corrected is None:
        return "no p-value"
    if difference.p <= 2 / replicas:
        return f"p < {math.ceil(1000 * difference.corrected - 1e-6) / 1000:.3f}"
    return f"p = {difference.corrected:.3f}" if difference.corrected < 0.9995 else "p = 1"


