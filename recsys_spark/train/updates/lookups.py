"""Look-ups in a table that changes by rows: a step works with a small table of the distinct rows of
its batch, and the gradient is one of those rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from recsys_spark.models.base import Model
from recsys_spark.nn.tables import Table, tables, unique
from recsys_spark.train.updates.optim import Optimiser
from recsys_spark.train.updates.sharded import Shard


class Lookups:
    """`fetch` of a table. read: the rows of an index, int64 (R,) -> (R, D), as they are until the
    next step.
    """

    def __init__(self, table: Table, read: Callable[[Tensor], Tensor]) -> None:
        self.table, self.read = table, read
        self.fetched: list[tuple[Tensor, Tensor]] = []  # rows and their numbers, of this step
        # Here, not as a decorator: torch's compiler takes seconds to import, and every command
        # that reads a pipeline would wait for it
        self._fetch = torch.compiler.disable(self._distinct)

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (...) -> (rows (R, D), positions int64 (...)): each distinct row once, row 0 first,
        and the position of every index in them.
        """
        return self._fetch(index)

    def _distinct(self, index: Tensor) -> tuple[Tensor, Tensor]:
        each, positions = unique(torch.cat([index.new_zeros(1), index.reshape(-1)]))
        rows = self.read(each)
        if self.table.weight.requires_grad and torch.is_grad_enabled():
            self.fetched.append((each, rows.requires_grad_()))
        return rows, positions[1:].view(index.shape)

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """(distinct rows int64 (R,), their gradients (R, D)) of each look-up of the step, which is
        over.
        """
        fetched, self.fetched = self.fetched, []
        return [
            (each, torch.zeros_like(rows) if rows.grad is None else rows.grad)
            for each, rows in fetched
        ]


def attach(model: Model, by_rows: Collection[Table], optimiser: Optimiser) -> None:
    """Let each table of the model be looked up as the optimiser changes it: `by_rows` or whole."""
    for table in tables(model):
        table.sparse = any(table is other for other in by_rows)
        read = optimiser.reader(table.weight)
        if isinstance(table.fetch, Shard):
            table.fetch.read = read
        else:
            table.fetch = Lookups(table, read) if table.sparse else None
