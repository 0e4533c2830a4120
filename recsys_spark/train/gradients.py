"""All gradients of a step, added over the ranks: one flat buffer with a few numbers of the step behind them, one collective.

Sparse ones, of tables, take two more: the ranks' rows are gathered in the order of the ranks. Or they travel in the buffer, as whole
tables with a mark for each row. Those of tables that lie on the ranks in parts (train/sharded.py) go to the rows' owners alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from recsys_spark.core.errors import ConfigError
from recsys_spark.train import sharded
from recsys_spark.train.sharded import Shard
from recsys_spark.train.workers import Workers


class Gradients:
    """`reduce` sums the gradients over the ranks; the optimiser then reads them from the buffer. Nothing is copied on one rank.

    tables: parameters whose gradient is sparse. After `reduce` it is coalesced: each row once, in order. shards: of tables in parts.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], workers: Workers, tables: Collection[Tensor] = (),
                 as_dense: bool = False, shards: Sequence[Shard] = ()) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.workers, self.shards = workers, [shard for shard in shards if shard.table.weight.requires_grad]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        assert len(kinds) == 1, f"parameters of one dtype on one device are expected, not {kinds}"
        self.dtype, self.device = kinds.pop()
        sparse = {id(table) for table in tables}
        self.tables = [parameter for parameter in self.parameters if id(parameter) in sparse]
        apart = sparse | {id(shard.table.weight) for shard in self.shards}
        self.dense = [parameter for parameter in self.parameters if id(parameter) not in apart]
        self.marked = self.tables if as_dense else []  # those that travel in the buffer, a mark behind each row
        self.shapes = [parameter.shape for parameter in self.dense] + [(len(table), table.shape[1] + 1) for table in self.marked]
        self.flat = torch.empty(0)
        self.parts: list[Tensor] = []  # of `flat`, in those shapes, and what is behind them

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self, numbers: Sequence[Tensor | float] = ()) -> list[float]:
        """Sums over the ranks of every gradient (a missing one is zero) and of `numbers`, which it returns.

        Raises ConfigError for a gradient of a whole table where its rows are expected.
        """
        for parameter in self.dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for table in self.tables:
            table.grad = _coalesced(table)
        for shard, (rows, added) in zip(self.shards, sharded.collect(self.shards), strict=True):
            mine = shard.table.weight
            assert mine.grad is None, "a model that reaches whole tables says `whole_tables`"
            mine.grad = _merged(mine, rows, added) if shard.table.sparse else torch.zeros_like(mine).index_add_(0, rows, added)
        if self.workers.size == 1:
            return [float(number) for number in numbers]
        gathered = [] if self.marked else self.tables
        lengths = torch.zeros(len(gathered), self.workers.size)
        for number, table in enumerate(gathered):
            lengths[number, self.workers.rank] = len(_values(table))
        told = self._reduce_flat([*map(float, numbers), *lengths.view(-1).tolist()])
        if gathered:
            self._gather(torch.tensor(told[len(numbers):]).long().view(len(gathered), -1))
        return told[: len(numbers)]

    def scale(self, factor: float) -> None:
        torch._foreach_mul_([*self._replicated(), *self._sharded()], factor)

    def clip(self, norm: float) -> None:
        """Scale all gradients so that their joint 2-norm is at most `norm`."""
        everywhere, here = self._replicated(), self._sharded()
        total = nn.utils.get_total_norm(everywhere)
        if here:
            squares = torch.stack([gradient.square().sum() for gradient in here]).sum()
            self.workers.all_reduce_sum([squares])
            total = (total.square() + squares).sqrt()
        torch._foreach_mul_([*everywhere, *here], (norm / (total + 1e-6)).clamp(max=1.0))

    def _replicated(self) -> list[Tensor]:
        return [*(parameter.grad for parameter in self.dense if parameter.grad is not None), *map(_values, self.tables)]

    def _sharded(self) -> list[Tensor]:
        return [_values(shard.table.weight) for shard in self.shards]

    def _reduce_flat(self, numbers: list[float]) -> list[float]:
        if not self.shapes and not numbers:
            return []
        sizes = [int(torch.Size(shape).numel()) for shape in self.shapes]
        if len(self.flat) != sum(sizes) + len(numbers):
            self.flat = torch.empty(sum(sizes) + len(numbers), dtype=self.dtype, device=self.device)
            *parts, rest = self.flat.split([*sizes, len(numbers)])
            self.parts = [*(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)), rest]
        *parts, tail = self.parts
        views, tables = parts[: len(self.dense)], parts[len(self.dense):]
        if views:
            torch._foreach_copy_(views, [parameter.grad for parameter in self.dense if parameter.grad is not None])
        for part, table in zip(tables, self.marked, strict=True):
            rows = _rows(table)
            part.zero_()
            part[rows] = torch.cat([_values(table), torch.ones(len(rows), 1, dtype=self.dtype, device=self.device)], 1)
        if numbers:
            tail.copy_(torch.tensor(numbers, dtype=self.dtype))
        self.workers.all_reduce_sum([self.flat])
        for parameter, view in zip(self.dense, views, strict=True):
            parameter.grad = view
        for part, table in zip(tables, self.marked, strict=True):
            rows = part[:, -1].nonzero()[:, 0]
            table.grad = _sparse(table, rows, part[rows, :-1])
        return tail.tolist()

    def _gather(self, lengths: Tensor) -> None:
        """Of all tables at once. lengths: int64 (tables, ranks)."""
        each = lengths.sum(0).tolist()  # rows of a rank
        rows = self.workers.gather(torch.cat([_rows(table) for table in self.tables]), each)
        widths = [table.shape[1] for table in self.tables]
        numbers = (lengths * torch.tensor(widths)[:, None]).sum(0).tolist()
        values = self.workers.gather(torch.cat([_values(table).reshape(-1) for table in self.tables]), numbers)
        by_rank = [(of.split(counts), what.split([count * width for count, width in zip(counts, widths, strict=True)]))
                   for of, what, counts in zip(rows, values, lengths.T.tolist(), strict=True)]
        for number, table in enumerate(self.tables):
            index, added = (torch.cat([parts[kind][number] for parts in by_rank]) for kind in (0, 1))
            table.grad = _merged(table, index, added.view(-1, widths[number]))


def _coalesced(table: nn.Parameter) -> Tensor:
    if table.grad is None:
        return _sparse(table, torch.zeros(0, dtype=torch.int64, device=table.device), table.new_zeros(0, table.shape[1]))
    if not table.grad.is_sparse:
        raise ConfigError("train.optim, by rows", found="a model whose loss reaches every row of a table", expected="one that reaches the "
                          "rows of its batch", remedy="choose adam, adamw, sgd or adagrad, without train.optim.sparse")
    return _merged(table, table.grad._indices()[0], table.grad._values())


def _merged(table: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Each row once, its gradients added in the order in which they come."""
    rows, place = torch.unique(index, return_inverse=True)
    return _sparse(table, rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, place, values))


def _sparse(table: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values.detach(), table.shape, is_coalesced=True, check_invariants=False)


def _rows(table: nn.Parameter) -> Tensor:
    assert table.grad is not None
    return table.grad._indices()[0]


def _values(table: Tensor) -> Tensor:
    """A view: what is written into it is the gradient's."""
    assert table.grad is not None
    return table.grad._values() if table.grad.is_sparse else table.grad
