"""Negative items for positive rows: uniform over the items that the user has not seen in training.

Every draw depends on (seed, epoch, step, global row, place) alone, so any number of ranks draws the same. A draw that the user
has seen is drawn again, twice; the few that are left are then taken from a list of the user's unseen items, so the result is
exactly uniform. A user who has seen every item gets uniform draws over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsys_spark.models.batches import Pairs, Rows
from recsys_spark.nn import noise

AHEAD_ROWS = 1 << 15  # positive rows whose negatives are drawn at once
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

    def draw(self, user: Tensor, row: Tensor, epoch: int, step: int | np.ndarray) -> Tensor:
        """int64 (B, N) items for users (B,) in the global rows (B,) of a step, or each of its own, int (B,)."""
        user, row, high = user.long(), row.long(), self.seen.num_items
        of_row = np.broadcast_to(step, len(row))
        first = np.flatnonzero(np.diff(of_row, prepend=-1))  # of each run of rows of one step
        steps, rows = of_row[first].tolist(), np.diff(first, append=len(row))

        def keys(*again: int) -> np.ndarray:
            """uint64 (B,)"""
            return np.repeat(np.array([noise.key(self.seed, "negatives", epoch, one, *again) for one in steps], np.uint64), rows)

        items = noise.integers(keys(), row, high, self.num) + 1  # (B, N)
        flat = items.view(-1)
        wrong = self.seen.has(user[:, None], items).view(-1).nonzero()[:, 0]  # cells of (B, N)
        for again, width in enumerate(WIDTHS):
            if not len(wrong):
                return items
            of = wrong // self.num
            drawn = noise.integers(keys(again)[of.numpy()], row[of] * self.num + wrong % self.num, high, width) + 1  # (W, width)
            good = ~self.seen.has(user[of][:, None], drawn)
            flat[wrong] = drawn.gather(1, good.byte().argmax(1, keepdim=True))[:, 0]  # the first that is unseen
            wrong = wrong[~good.any(1)]
        of = wrong // self.num
        last, cell, users = keys(len(WIDTHS))[of.numpy()], row[of] * self.num + wrong % self.num, user[of]
        for one in users.unique().tolist():
            left = torch.from_numpy(self.seen.unseen(one))
            mine = users == one
            flat[wrong[mine]] = left[noise.integers(last[mine.numpy()], cell[mine], len(left))]
        return items

    def ahead(self, batches: Iterable[tuple[int, Rows | Pairs]], epoch: int, first_step: int) -> Iterator[tuple[int, Rows | Pairs]]:
        """The batches of the steps from `first_step` on, each beside a number of its own, with their negatives. Those of several steps
        are drawn at once: a small batch costs little but the calls."""
        waiting: list[tuple[int, Rows | Pairs]] = []
        rows = 0
        for number, batch in batches:
            waiting.append((number, batch))
            rows += len(batch)
            if rows >= AHEAD_ROWS:
                yield from self._several(waiting, epoch, first_step)
                first_step, waiting, rows = first_step + len(waiting), [], 0
        yield from self._several(waiting, epoch, first_step)

    def _several(self, batches: list[tuple[int, Rows | Pairs]], epoch: int, first_step: int) -> Iterator[tuple[int, Rows | Pairs]]:
        if not batches:
            return
        sizes = [len(batch) for _, batch in batches]
        users, rows = (torch.cat([getattr(batch, name) for _, batch in batches]) for name in ("user", "row"))
        drawn = self.draw(users, rows, epoch, np.repeat(np.arange(first_step, first_step + len(sizes)), sizes))
        for (number, batch), negative in zip(batches, drawn.split(sizes), strict=True):
            yield number, self._beside(batch, negative)

    def _beside(self, positives: Rows | Pairs, drawn: Tensor) -> Rows | Pairs:
        """Pairs with their negatives beside them; of Rows B * (1 + N) Rows (see `_rows`)."""
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
