"""Negative items for positive rows: uniform over the items that the user has not seen in training.

Every draw depends on (seed, epoch, step, global row, place) alone, so any number of ranks draws the same. A draw that the user
has seen is drawn again, twice; the few that are left are then taken from a list of the user's unseen items, so the result is
exactly uniform. A user who has seen every item gets uniform draws over all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsys_spark.models.base import Pairs, Rows
from recsys_spark.nn import noise

WIDTHS = (4, 16)  # draws in each round after the first, of which the first unseen counts
BITMAP_BYTES = 256 << 20  # above: binary search in the lists


class Seen:
    """Which (user, item) pairs stand in a CSR (`indptr` int64 (U + 2,), `indices` int32, sorted in each row)."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, num_items: int, bitmap_bytes: int = BITMAP_BYTES) -> None:
        self.indptr, self.indices, self.num_items = indptr, indices, num_items
        self.starts, self.items = torch.from_numpy(np.array(indptr)), torch.empty(0, dtype=torch.int32)
        self.stride = -(-(num_items + 1) // 8) * 8  # bits a user
        rows = len(indptr) - 1
        self.bitmap: Tensor | None = None
        if rows * self.stride // 8 <= bitmap_bytes:
            self.bitmap = torch.from_numpy(_bitmap(indptr, indices, self.stride))
        else:
            self.items = torch.from_numpy(np.array(indices))
            self.depth = int(np.diff(indptr).max(initial=1)).bit_length()

    def has(self, user: Tensor, item: Tensor) -> Tensor:
        """bool, in the shape of the two int64 tensors."""
        if self.bitmap is not None:
            bit = user * self.stride + item
            return ((self.bitmap[bit >> 3] >> (bit & 7).to(torch.uint8)) & 1).bool()
        if not len(self.items):
            return torch.zeros_like(item, dtype=torch.bool)
        low, end = self.starts[user], self.starts[user + 1]
        high = end
        for _ in range(self.depth + 1):  # bisection: the first place that is not below `item`
            middle = (low + high) >> 1
            below = (self.items[middle.clamp(max=len(self.items) - 1)] < item) & (low < high)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, torch.minimum(middle, high))
        return (low < end) & (self.items[low.clamp(max=len(self.items) - 1)] == item)

    def unseen(self, user: int) -> np.ndarray:
        """int64: the user's unseen items, sorted; all items when there is none."""
        mine = self.indices[self.indptr[user] : self.indptr[user + 1]]
        left = np.setdiff1d(np.arange(1, self.num_items + 1), mine, assume_unique=True)
        return left if len(left) else np.arange(1, self.num_items + 1)


class Negatives:
    """`num` negatives for each positive row."""

    def __init__(self, seen: Seen, num: int, seed: int) -> None:
        self.seen, self.num, self.seed = seen, num, seed

    def draw(self, user: Tensor, row: Tensor, epoch: int, step: int) -> Tensor:
        """int64 (B, N) items for users (B,) in the global rows (B,)."""
        high = self.seen.num_items
        items = noise.integers(noise.key(self.seed, "negatives", epoch, step), row, high, self.num) + 1  # (B, N)
        flat = items.view(-1)
        wrong = self.seen.has(user.long()[:, None], items).view(-1).nonzero()[:, 0]  # cells of (B, N)
        for again, width in enumerate(WIDTHS):
            if not len(wrong):
                return items
            key = noise.key(self.seed, "negatives", epoch, step, again)
            of = wrong // self.num
            drawn = noise.integers(key, row[of] * self.num + wrong % self.num, high, width) + 1  # (W, width)
            good = ~self.seen.has(user[of].long()[:, None], drawn)
            flat[wrong] = drawn.gather(1, good.byte().argmax(1, keepdim=True))[:, 0]  # the first that is unseen
            wrong = wrong[~good.any(1)]
        key = noise.key(self.seed, "negatives", epoch, step, len(WIDTHS))
        users = user[wrong // self.num]
        for one in users.unique().tolist():
            left = torch.from_numpy(self.seen.unseen(one))
            cells = wrong[users == one]
            flat[cells] = left[noise.integers(key, row[cells // self.num] * self.num + cells % self.num, len(left))]
        return items

    def __call__(self, positives: Rows | Pairs, epoch: int, step: int) -> Rows | Pairs:
        """Pairs with their negatives beside them; of Rows B * (1 + N) Rows (see `_rows`)."""
        drawn = self.draw(positives.user, positives.row, epoch, step)
        return replace(positives, negative=drawn) if isinstance(positives, Pairs) else self._rows(positives, drawn)

    def _rows(self, positives: Rows, drawn: Tensor) -> Rows:
        """Each positive (label 1) and behind it its negatives (label 0, weight 1), numbered apart."""
        wide = 1 + self.num
        users = positives.user[:, None].expand(-1, wide)
        items = torch.empty(len(positives), wide, dtype=positives.item.dtype)
        items[:, 0] = positives.item
        items[:, 1:] = drawn
        label = torch.zeros(items.shape, dtype=positives.label.dtype)
        label[:, 0] = 1.0
        weight = torch.ones(items.shape, dtype=positives.weight.dtype)
        weight[:, 0] = positives.weight
        row = positives.row[:, None] * wide + torch.arange(wide)
        return Rows(users.reshape(-1), items.view(-1), label.view(-1), weight.view(-1), row.view(-1))


def _bitmap(indptr: np.ndarray, indices: np.ndarray, stride: int) -> np.ndarray:
    """uint8 (rows * stride / 8,): bit (row * stride + item), the least significant bit of a byte first."""
    rows = len(indptr) - 1
    packed = np.zeros(rows * stride // 8, np.uint8)
    step = max(1, (32 << 20) // stride)
    for start in range(0, rows, step):
        end = min(rows, start + step)
        cells = np.zeros((end - start, stride), np.bool_)
        lengths = np.diff(indptr[start : end + 1])
        cells[np.repeat(np.arange(end - start), lengths), indices[indptr[start] : indptr[end]]] = True
        packed[start * stride // 8 : end * stride // 8] = np.packbits(cells, bitorder="little")
    return packed
