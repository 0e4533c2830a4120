"""Vectors for queries that have a history but none of their own: the normal equations of an implicit factorization, for given items.

Paper: as the baseline that wrote the index (contracts.NormalEquations): a user who was not there when it was fitted gets the vector that a
    half step of the solver would give.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_spark.core.contracts import NormalEquations
from recsys_spark.core.errors import RecsysError
from recsys_spark.models.batches import Ragged
from recsys_spark.scoring.topk import select

CELLS = 1 << 22  # numbers held at once, of item vectors and of matrices: 16 and 32 MB


class FoldIn:
    """items (I + 1, D) float32, row 0 zero; gram (D, D) float64, the sum of v v' over them. An item with the vector zero is not known."""

    def __init__(self, equations: NormalEquations, items: Tensor, gram: Tensor, model: str) -> None:
        self.equations, self.items, self.model = equations, items, model
        self.known = items.any(dim=1)
        self.common = equations.unobserved * gram  # (D, D)

    def reaches(self, history: Ragged) -> Tensor:
        """Queries with an item that is known, (B,) bool."""
        row, item = self._entries(history)
        return torch.bincount(row[self.known[item]], minlength=len(history.offsets) - 1) > 0

    def vectors(self, history: Ragged) -> Tensor:
        """(B, D) float32; zero without a known item. An item counts once, and unknown ones not at all.

        Raises RecsysError when the equations have no single solution.
        """
        history = self._distinct(history)
        lengths, dim = history.offsets.diff(), self.items.shape[1]
        made = torch.zeros(len(lengths), dim)
        order = lengths.argsort()  # of about equal lengths, so that little is padded
        order = order[lengths[order] > 0]
        while len(order):
            rows = max(1, min(CELLS // (dim * dim), CELLS // (dim * int(lengths[order[-1]]))))
            block, order = order[-rows:], order[:-rows]
            made[block] = self._solve(select(history, block), block)
        return made

    def _solve(self, history: Ragged, numbers: Tensor) -> Tensor:
        equations, lengths = self.equations, history.offsets.diff()
        place = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
        padded = torch.zeros(place.shape, dtype=torch.int64)
        padded[place] = history.values.long()
        own = self.items[padded]  # (B, L, D), zero where padded
        ridge = equations.reg * (lengths.double() + equations.offset) ** equations.exponent
        matrix = self.common + equations.observed * torch.bmm(own.transpose(1, 2), own).double()  # (B, D, D)
        matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed.any():
            raise RecsysError(f"{self.model}, folding in query {int(numbers[failed > 0][0])} of its batch",
                              found="equations without a single solution", expected="a positive definite matrix",
                              remedy="train with a larger `reg`")
        right = equations.pull * own.double().sum(dim=1)[:, :, None]  # (B, D, 1)
        return torch.cholesky_solve(right, factor)[:, :, 0].float()

    def _distinct(self, history: Ragged) -> Ragged:
        """Each known item once a query, in order."""
        queries, columns = len(history.offsets) - 1, len(self.items)
        row, item = self._entries(history)
        there = self.known[item]
        cell = (row[there] * columns + item[there]).unique()
        return Ragged(torch.searchsorted(cell, torch.arange(queries + 1) * columns), (cell % columns).int())

    def _entries(self, history: Ragged) -> tuple[Tensor, Tensor]:
        """Query and item of every entry, int64; item 0 where it is none of the index."""
        item = history.values.long()
        return torch.repeat_interleave(torch.arange(len(history.offsets) - 1), history.offsets.diff()), item * (item < len(self.items))
