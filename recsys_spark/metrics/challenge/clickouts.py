"""RecSys Challenge 2019 (trivago): where the clicked item stands in the list that answers a
click-out, as the organisers' scorer counts it (recsyschallenge/2019, src/score_submission).

    official_mrr   mean of 1 / place of the clicked item, 0 where the list lacks it **or has it more
                   than once**. Their program rounds the mean to four decimals; ours does not.
    official_map3  mean of 1/3 where the clicked item is among the first three, else 0: what the
                   organisers call MAP@3

A click-out is known by (user, session, timestamp, step). A missing answer counts 0 here; their
program leaves it out of the mean, which only their check of the file makes fair.

Slices: `before:item` and `before:none`, whether the session has an event of an item before the
click-out; `step:1`, `step:2-5` and so on. Shapes: B click-outs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_spark.metrics import slices
from recsys_spark.metrics.intervals import Part, Replicates, replicate

METRICS = ("official_mrr", "official_map3")
TOP = 3
STEPS = (1, 5, 10, 25)  # the last step of each slice; later ones are one slice
Floats = NDArray[np.float64]
Ints = NDArray[np.integer]


def places(clicked: Sequence[str], answers: Iterable[Sequence[str]]) -> tuple[Ints, Ints]:
    """(place of the first occurrence from 1, 0: none; number of occurrences), (B,) each."""
    found = [
        (answer.index(item) + 1 if item in answer else 0, answer.count(item))
        for item, answer in zip(clicked, answers, strict=True)
    ]
    place, times = np.array(found, np.int64).reshape(-1, 2).T
    return place, times


def values(place: Ints, times: Ints) -> dict[str, Floats]:
    """The value of each click-out, (B,).

    >>> place, times = places(["a", "a", "a", "x"], [["b", "a"], ["a", "b", "a"], ["a"], ["b"]])
    >>> values(place, times)["official_mrr"].tolist()  # second; twice, so nothing; first; not there
    [0.5, 0.0, 1.0, 0.0]
    """
    once = times == 1
    reciprocal = np.divide(1.0, place, out=np.zeros(len(place)), where=once & (place > 0))
    top = (place > 0) & (place <= TOP)
    return {"official_mrr": reciprocal, "official_map3": top / TOP}


def measure(
    place: Ints,
    times: Ints,
    step: Ints,
    before: NDArray[np.bool_],
    *,
    units: Ints,
    seed: int,
    replicas: int,
) -> dict[str, Replicates]:
    """{slice: replicates}. before: whether an event of an item came first; units (B,): numbers of
    the queries, whose replicas are those of other metrics of the same queries.
    """
    sums = np.stack(list(values(place, times).values()), axis=1)
    of_slice = {slices.ALL: np.ones(len(place), bool)}
    of_slice |= {"before:item": before, "before:none": ~before}
    first = 1
    for last in STEPS:
        label = f"step:{first}" if first == last else f"step:{first}-{last}"
        of_slice[label] = (step >= first) & (step <= last)
        first = last + 1
    of_slice[f"step:{first}+"] = step >= first
    rows = {label: np.flatnonzero(chosen) for label, chosen in of_slice.items() if chosen.any()}
    parts = [
        Part(METRICS, sums[chosen], np.ones((len(chosen), len(METRICS))), chosen)
        for chosen in rows.values()
    ]
    replicates = replicate(parts, units, seed=seed, replicas=replicas)
    return dict(zip(rows, replicates, strict=True))
