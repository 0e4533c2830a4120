"""Vectors for queries that have a history but no vector in the index: the normal equations of an
implicit factorization, for given items.

Paper: that of the baseline that wrote the index (contracts.NormalEquations): a user who was absent
    from the fit gets the vector that a half step of the solver would give.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core.contracts import NormalEquations
from recsys_spark.core.errors import RecsysError
from recsys_spark.scoring.topk import select

CELLS = 1 << 22  # elements in memory at once, of item vectors and of matrices: 16 and 32 MB


class FoldIn:
    """items (I + 1, D) float32, row 0 zero; gram (D, D) float64, the sum of v v' over them. An item
    whose vector is zero is not known.
    """

    def __init__(self, equations: NormalEquations, items: Tensor, gram: Tensor, model: str) -> None:
        self.equations, self.items, self.model = equations, items, model
        self.known = items.any(dim=1)
        self.common = equations.unobserved * gram  # (D, D)

    def reaches(self, history: Ragged) -> Tensor:
        """bool (B,): whether the history of a query has a known item."""
        row, item = self._entries(history)
        return torch.bincount(row[self.known[item]], minlength=len(history.offsets) - 1) > 0

    def vectors(self, history: Ragged) -> Tensor:
        """Returns (B, D) float32; zero without a known item. Repeated items count once, unknown
        items not at all.

        Raises RecsysError when the equations have no single solution.
        """
        history = self._distinct(history)
        lengths, dim = history.offsets.diff(), self.items.shape[1]
        vectors = torch.zeros(len(lengths), dim)
        order = lengths.argsort()  # similar lengths together, to keep the padding small
        order = order[lengths[order] > 0]
        while len(order):
            rows = max(1, min(CELLS // (dim * dim), CELLS // (dim * int(lengths[order[-1]]))))
            block, order = order[-rows:], order[:-rows]
            vectors[block] = self._solve(select(history, block), block)
        return vectors

    def _solve(self, history: Ragged, numbers: Tensor) -> Tensor:
        equations, lengths = self.equations, history.offsets.diff()
        filled = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, L)
        padded = torch.zeros(filled.shape, dtype=torch.int64)
        padded[filled] = history.values.long()
        vectors = self.items[padded]  # (B, L, D), zero where padded
        ridge = equations.reg * (lengths.double() + equations.offset) ** equations.exponent
        # (B, D, D)
        matrix = (
            self.common + equations.observed * torch.bmm(vectors.transpose(1, 2), vectors).double()
        )
        matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed.any():
            raise RecsysError(
                f"{self.model}, folding in query {int(numbers[failed > 0][0])} of its batch",
                found="equations without a single solution",
                expected="a positive definite matrix",
                remedy="train with a larger `reg`",
            )
        right = equations.pull * vectors.double().sum(dim=1)[:, :, None]  # (B, D, 1)
        return torch.cholesky_solve(right, factor)[:, :, 0].float()

    def _distinct(self, history: Ragged) -> Ragged:
        """Each known item once per query, in ascending order."""
        queries, columns = len(history.offsets) - 1, len(self.items)
        row, item = self._entries(history)
        known = self.known[item]
        cell = (row[known] * columns + item[known]).unique()
        return Ragged(
            torch.searchsorted(cell, torch.arange(queries + 1) * columns), (cell % columns).int()
        )

    def _entries(self, history: Ragged) -> tuple[Tensor, Tensor]:
        """Query and item of every entry, int64; item 0 for an item that the index lacks."""
        item = history.values.long()
        return torch.repeat_interleave(
            torch.arange(len(history.offsets) - 1), history.offsets.diff()
        ), item * (item < len(self.items))
