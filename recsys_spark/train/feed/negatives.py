"""Negative items for positive rows: uniform over the items that the user has not seen in training.

Every draw depends on (seed, epoch, step, global row, position) alone, so any number of ranks draws
the same items. A drawn item that the user has seen is drawn again in two more rounds; the few cells
that remain then get an item from a list of the user's unseen items, so the result is exactly
uniform. A user who has seen every item gets uniform draws over all items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from recsys_spark.batches.base import Batch
from recsys_spark.nn import noise

AHEAD_ROWS = 1 << 15  # positive rows whose negatives are drawn at once
WIDTHS = (4, 16)  # draws per cell in the rounds after the first; the first unseen item counts
BITMAP_BYTES = 256 << 20  # if the bitmap were larger: binary search in the lists


class Seen:
    """Tells which (user, item) pairs are in a CSR (`indptr` int64 (U + 2,), `indices` int32, sorted
    within each row).
    """

    def __init__(
        self,
        indptr: np.ndarray,
        indices: np.ndarray,
        num_items: int,
        bitmap_bytes: int = BITMAP_BYTES,
    ) -> None:
        self.indptr, self.indices, self.num_items = indptr, indices, num_items
        self.starts = torch.from_numpy(np.asarray(indptr))
        self.items = torch.empty(0, dtype=torch.int32)
        self.stride = -(-(num_items + 1) // 8) * 8  # bits per user
        rows = len(indptr) - 1
        self.bitmap: Tensor | None = None
        if rows * self.stride // 8 <= bitmap_bytes:
            self.bitmap = torch.from_numpy(_bitmap(indptr, indices, self.stride))
        else:
            self.items = torch.from_numpy(np.asarray(indices))
            self.depth = int(np.diff(indptr).max(initial=1)).bit_length()

    def has(self, user: Tensor, item: Tensor) -> Tensor:
        """bool, in the shape of the two int64 tensors: whether the user has seen the item."""
        if self.bitmap is not None:
            bit = user * self.stride + item
            return ((self.bitmap[bit >> 3] >> (bit & 7).to(torch.uint8)) & 1).bool()
        if not len(self.items):
            return torch.zeros_like(item, dtype=torch.bool)
        low, end = self.starts[user], self.starts[user + 1]
        high = end
        for _ in range(
            self.depth + 1
        ):  # bisection: the first position whose item is not below `item`
            middle = (low + high) >> 1
            below = (self.items[middle.clamp(max=len(self.items) - 1)] < item) & (low < high)
            low = torch.where(below, middle + 1, low)
            high = torch.where(below, high, torch.minimum(middle, high))
        return (low < end) & (self.items[low.clamp(max=len(self.items) - 1)] == item)

    def unseen(self, user: int) -> np.ndarray:
        """int64: the user's unseen items, sorted; all items when there are none."""
        seen = self.indices[self.indptr[user] : self.indptr[user + 1]]
        unseen = np.setdiff1d(np.arange(1, self.num_items + 1), seen, assume_unique=True)
        return unseen if len(unseen) else np.arange(1, self.num_items + 1)


class Negatives:
    """`num` negatives for each positive row."""

    def __init__(self, seen: Seen, num: int, seed: int) -> None:
        self.seen, self.num, self.seed = seen, num, seed

    def draw(self, user: Tensor, row: Tensor, epoch: int, step: int | np.ndarray) -> Tensor:
        """int64 (B, N) items for users (B,) in the global rows (B,) of a step; step: one for all
        rows, or int (B,), one for each row.
        """
        user, row, high = user.long(), row.long(), self.seen.num_items
        steps = np.broadcast_to(step, len(row))
        items = noise.integers(self._keys(steps, epoch), row, high, self.num) + 1  # (B, N)
        flat = items.view(-1)
        seen_cells = self.seen.has(user[:, None], items).view(-1).nonzero()[:, 0]  # cells of (B, N)
        for attempt, width in enumerate(WIDTHS):
            if not len(seen_cells):
                return items
            positive = seen_cells // self.num
            keys = self._keys(steps, epoch, attempt)[positive.numpy()]
            cell = row[positive] * self.num + seen_cells % self.num
            drawn = noise.integers(keys, cell, high, width) + 1  # (W, width)
            unseen = ~self.seen.has(user[positive][:, None], drawn)
            # The first unseen item of each cell
            flat[seen_cells] = drawn.gather(1, unseen.byte().argmax(1, keepdim=True))[:, 0]
            seen_cells = seen_cells[~unseen.any(1)]
        positive = seen_cells // self.num
        keys = self._keys(steps, epoch, len(WIDTHS))[positive.numpy()]
        cell = row[positive] * self.num + seen_cells % self.num
        users = user[positive]
        for query_idx in users.unique().tolist():
            candidates = torch.from_numpy(self.seen.unseen(query_idx))
            of_user = users == query_idx
            index = noise.integers(keys[of_user.numpy()], cell[of_user], len(candidates))
            flat[seen_cells[of_user]] = candidates[index]
        return items

    def _keys(self, steps: np.ndarray, epoch: int, *attempt: int) -> np.ndarray:
        """uint64 (B,): the key of each row's draw, from its step; steps int (B,)."""
        first = np.flatnonzero(np.diff(steps, prepend=-1))  # of each run of rows of one step
        keys = [
            noise.key(self.seed, "negatives", epoch, step, *attempt)
            for step in steps[first].tolist()
        ]
        return np.repeat(np.array(keys, np.uint64), np.diff(first, append=len(steps)))

    def ahead(
        self, batches: Iterable[tuple[int, Batch]], epoch: int, first_step: int
    ) -> Iterator[tuple[int, Batch]]:
        """The batches of the steps from `first_step` on, each with its number, with their negatives
        added. Those of several steps are drawn at once, because a call costs more than the rows of
        a small batch.
        """
        waiting: list[tuple[int, Batch]] = []
        rows = 0
        for number, batch in batches:
            waiting.append((number, batch))
            rows += len(batch.positives()[0])
            if rows >= AHEAD_ROWS:
                yield from self._several(waiting, epoch, first_step)
                first_step, waiting, rows = first_step + len(waiting), [], 0
        yield from self._several(waiting, epoch, first_step)

    def _several(
        self, batches: list[tuple[int, Batch]], epoch: int, first_step: int
    ) -> Iterator[tuple[int, Batch]]:
        if not batches:
            return
        positives = [batch.positives() for _, batch in batches]
        sizes = [len(user) for user, _ in positives]
        users, rows = (torch.cat(each) for each in zip(*positives, strict=True))
        drawn = self.draw(
            users, rows, epoch, np.repeat(np.arange(first_step, first_step + len(sizes)), sizes)
        )
        for (number, batch), negative in zip(batches, drawn.split(sizes), strict=True):
            yield number, batch.beside(negative)


def _bitmap(indptr: np.ndarray, indices: np.ndarray, stride: int) -> np.ndarray:
    """uint8 (rows * stride / 8,): bit (row * stride + item), the least significant bit of a byte
    first.
    """
    rows = len(indptr) - 1
    packed = np.zeros(rows * stride // 8, np.uint8)
    step = max(1, (32 << 20) // stride)
    for start in range(0, rows, step):
        end = min(rows, start + step)
        cells = np.zeros((end - start, stride), np.bool_)
        lengths = np.diff(indptr[start : end + 1])
        cells[np.repeat(np.arange(end - start), lengths), indices[indptr[start] : indptr[end]]] = (
            True
        )
        packed[start * stride // 8 : end * stride // 8] = np.packbits(cells, bitorder="little")
    return packed
