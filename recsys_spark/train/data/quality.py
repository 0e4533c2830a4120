"""How well rows are shuffled, from their order alone: no file is read.

A row's place is its position within its file, from 0 to 1. The files of a log are in some order (of
time, of users); after a good shuffle neither the next row nor a row's batch predicts its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_spark.train.data.order import Order, interleave


class Quality(NamedTuple):
    neighbours: (
        float  # correlation of the places of consecutive rows: 1 in file order, 0 when shuffled
    )
    # spread of the batches' mean places over that of batches drawn at random: 1 when shuffled
    batches: float


def measure(places: np.ndarray, starts: np.ndarray) -> Quality:
    """places (R,) of the rows in reading order, at least two; the rows of batch t are starts[t] :
    starts[t + 1], and no batch is empty.
    """
    sizes = np.diff(starts)
    deviations = np.add.reduceat(places, starts[:-1]) / sizes - places.mean()
    return Quality(
        float(np.corrcoef(places[:-1], places[1:])[0, 1]),
        float(np.sqrt((sizes * deviations**2).mean() / places.var())),
    )


def places(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (R,), starts (T + 1,)) of an epoch; the rows of a step are those of all ranks.
    `order` must have one rank.
    """
    assert order.num_ranks == 1, "the order of all rows is asked of one rank"
    stream: dict[int, np.ndarray] = {int(v): np.zeros(sum(order.groups[v])) for v in order.filled}
    for window in order.windows(epoch):
        groups = order.groups[window.shard]
        ends = np.cumsum(groups)
        read = np.concatenate(
            [np.arange(ends[group] - groups[group], ends[group]) for group in window.groups]
        )
        stream[window.shard][window.start : window.start + window.rows] = (
            read[order.permutation(epoch, window)] / ends[-1]
        )
    interleaved = interleave(order.filled, order.bounds(0, order.steps))
    return np.concatenate(list(stream.values()))[interleaved.source], interleaved.starts
