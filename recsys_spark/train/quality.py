"""How well rows are shuffled, from their order alone: no file is read.

A row's place is its position within its file, from 0 to 1. Rows of a log lie in its files in some order (of time, of users); what
a shuffle is for is that neither the next row nor the batch a row is in tells its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_spark.train.order import Order, interleave


class Quality(NamedTuple):
    neighbours: float  # correlation of the places of consecutive rows: 1 in file order, 0 when shuffled
    batches: float  # spread of the batches' mean places over that of batches drawn at random: 1 when shuffled


def measure(places: np.ndarray, starts: np.ndarray) -> Quality:
    """places (R,) of the rows as they come, at least two; the rows of batch t are starts[t] : starts[t + 1], none of them empty."""
    sizes = np.diff(starts)
    off = np.add.reduceat(places, starts[:-1]) / sizes - places.mean()
    return Quality(float(np.corrcoef(places[:-1], places[1:])[0, 1]), float(np.sqrt((sizes * off**2).mean() / places.var())))


def places(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (R,), starts (T + 1,)) of an epoch, all ranks' rows of a step one after the other. `order` is of one rank alone."""
    assert order.num_ranks == 1, "the order of all rows is asked of one rank"
    stream: dict[int, np.ndarray] = {int(v): np.zeros(sum(order.groups[v])) for v in order.filled}
    for window in order.windows(epoch):
        groups = order.groups[window.shard]
        ends = np.cumsum(groups)
        read = np.concatenate([np.arange(ends[group] - groups[group], ends[group]) for group in window.groups])
        stream[window.shard][window.start:window.start + window.rows] = read[order.permutation(epoch, window)] / ends[-1]
    laid = interleave(order.filled, order.bounds(0, order.steps))
    return np.concatenate(list(stream.values()))[laid.source], laid.starts
