"""Scores of every user with every item, where the network has to see each pair: a block of items at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

BLOCK = 1 << 21  # numbers held at once while a catalogue is scored


def blockwise(like: Tensor, num_items: int, width: int, scores: Callable[[slice], Tensor]) -> Tensor:
    """scores(items) -> (B, c), for blocks of the items 0 .. C - 1, side by side: (B, C) of the device and type of `like` (B, ...).

    A pair takes `width` numbers while it is scored; a block takes at most BLOCK of them (one item at least).
    """
    step = max(1, BLOCK // max(1, len(like) * width))
    # Written where they belong: results kept one by one lie in the gaps that the blocks leave, which then fit no block, by gigabytes.
    made = like.new_empty(len(like), num_items)
    for start in range(0, num_items, step):
        block = slice(start, start + step)
        made[:, block] = scores(block)
    return made
