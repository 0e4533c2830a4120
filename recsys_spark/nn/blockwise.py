"""Scores of every user with every item, where the network must process each pair: one block of
items at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

BLOCK = 1 << 21  # elements in memory at once while a catalogue is scored


def blockwise(
    like: Tensor, num_items: int, width: int, scores: Callable[[slice], Tensor]
) -> Tensor:
    """Calls scores(items) -> (B, c) for blocks of the items 0 .. C - 1. Returns (B, C), with the
    device and dtype of `like` (B, ...).

    A pair takes `width` elements while it is scored; a block takes at most BLOCK of them (at least
    one item).
    """
    step = max(1, BLOCK // max(1, len(like) * width))
    # Results are written in place: kept separately they would fragment the memory freed by blocks,
    # so that no later block fits in it; that costs gigabytes.
    matrix = like.new_empty(len(like), num_items)
    for start in range(0, num_items, step):
        block = slice(start, start + step)
        matrix[:, block] = scores(block)
    return matrix
