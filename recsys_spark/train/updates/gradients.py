"""All gradients of a step, summed over the ranks: one flat buffer, followed by a few numbers of the
step, in one collective.

Sparse gradients, those of tables, need two more collectives: the rows of all ranks are gathered in
the order of the ranks. Alternatively they travel in the buffer, as whole tables with a mark for
each row. Gradients of tables that are sharded over the ranks (train/updates/sharded.py) go to the
owners of the rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.core.errors import ConfigError
from recsys_spark.nn.tables import unique
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.updates import sharded
from recsys_spark.train.updates.lookups import Lookups
from recsys_spark.train.updates.sharded import Shard

# float32 is exact for integers up to 2**24: a count below 2**36 is exact as two such numbers.
_UNIT = 4096.0


class Gradients:
    """`reduce` sums the gradients over the ranks; the optimiser then reads them from the buffer. On
    one rank nothing is copied.

    tables: the look-ups of tables that change by rows, whose gradient is sparse. After `reduce` it
    is coalesced: each row once, in ascending order. shards: the sharded tables.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        workers: Workers,
        tables: Sequence[Lookups] = (),
        as_dense: bool = False,
        shards: Sequence[Shard] = (),
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.workers = workers
        self.shards = [shard for shard in shards if shard.table.weight.requires_grad]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        assert len(kinds) == 1, f"parameters of one dtype on one device are expected, not {kinds}"
        self.dtype, self.device = kinds.pop()
        self.lookups = [each for each in tables if each.table.weight.requires_grad]
        self.tables = [each.table.weight for each in self.lookups]
        not_dense = {id(table) for table in self.tables} | {
            id(shard.table.weight) for shard in self.shards
        }
        self.dense = [parameter for parameter in self.parameters if id(parameter) not in not_dense]
        # Sparse gradients that travel in the buffer, each row followed by a mark
        self.marked = self.tables if as_dense else []
        self.shapes = [parameter.shape for parameter in self.dense] + [
            (len(table), table.shape[1] + 1) for table in self.marked
        ]
        self.flat = torch.empty(0)
        self.parts: list[Tensor] = []  # views of `flat` in those shapes, then the numbers

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self, numbers: Sequence[Tensor | float] = ()) -> list[float]:
        """Sum every gradient (a missing one is zero) and `numbers` over the ranks. Returns the sums
        of `numbers`.

        Raises ConfigError for a gradient of a whole table where a sparse one is expected.
        """
        for parameter in self.dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for lookups in self.lookups:
            lookups.table.weight.grad = _coalesced(lookups)
        for shard, (rows, added) in zip(self.shards, sharded.collect(self.shards), strict=True):
            weight = shard.table.weight
            assert weight.grad is None, "a model that reaches whole tables says `whole_tables`"
            weight.grad = (
                _merged(weight, rows, added)
                if shard.table.sparse
                else torch.zeros_like(weight).index_add_(0, rows, added)
            )
        if self.workers.size == 1:
            return [float(number) for number in numbers]
        gathered = [] if self.marked else self.tables
        lengths = torch.zeros(len(gathered), self.workers.size)
        for number, table in enumerate(gathered):
            lengths[number, self.workers.rank] = len(_values(table))
        sums = self._reduce_flat([*map(float, numbers), *lengths.view(-1).tolist()])
        if gathered:
            counts = torch.tensor(sums[len(numbers) :], dtype=torch.float64).round().long()
            self._gather(counts.view(len(gathered), -1))
        return sums[: len(numbers)]

    def scale(self, factor: float) -> None:
        torch._foreach_mul_([*self._replicated(), *self._sharded()], factor)

    def finite(self) -> bool:
        """Whether every number of every gradient is finite; the same answer on all ranks."""
        gradients = [*self._replicated(), *self._sharded()]
        # NaN and infinity stay in a sum, which costs a twentieth of the largest number
        finite = torch.isfinite(torch.stack([gradient.sum() for gradient in gradients]).sum())
        if not finite:  # or finite numbers have an infinite sum
            finite = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        if self.shards and self.workers.size > 1:  # each rank checks its own rows only
            broken = (~finite).to(self.dtype).view(1)
            self.workers.all_reduce_sum([broken])
            return not bool(broken)
        return bool(finite)

    def clip(self, norm: float) -> None:
        """Scale all gradients so that their joint 2-norm is at most `norm`."""
        replicated, local = self._replicated(), self._sharded()
        total = nn.utils.get_total_norm(replicated)
        if local:
            squares = torch.stack([gradient.square().sum() for gradient in local]).sum()
            self.workers.all_reduce_sum([squares])
            total = (total.square() + squares).sqrt()
        torch._foreach_mul_([*replicated, *local], (norm / (total + 1e-6)).clamp(max=1.0))

    def _replicated(self) -> list[Tensor]:
        return [
            *(parameter.grad for parameter in self.dense if parameter.grad is not None),
            *map(_values, self.tables),
        ]

    def _sharded(self) -> list[Tensor]:
        return [_values(shard.table.weight) for shard in self.shards]

    def _reduce_flat(self, numbers: list[float]) -> list[float]:
        if not self.shapes and not numbers:
            return []
        numbers = [part for number in numbers for part in _in_two(number)]
        sizes = [int(torch.Size(shape).numel()) for shape in self.shapes]
        if len(self.flat) != sum(sizes) + len(numbers):
            self.flat = torch.empty(sum(sizes) + len(numbers), dtype=self.dtype, device=self.device)
            *parts, rest = self.flat.split([*sizes, len(numbers)])
            self.parts = [
                *(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)),
                rest,
            ]
        *parts, tail = self.parts
        views, tables = parts[: len(self.dense)], parts[len(self.dense) :]
        if views:
            torch._foreach_copy_(
                views, [parameter.grad for parameter in self.dense if parameter.grad is not None]
            )
        for part, table in zip(tables, self.marked, strict=True):
            rows = _rows(table)
            part.zero_()
            part[rows] = torch.cat(
                [_values(table), torch.ones(len(rows), 1, dtype=self.dtype, device=self.device)], 1
            )
        if numbers:
            tail.copy_(torch.tensor(numbers, dtype=self.dtype))
        self.workers.all_reduce_sum([self.flat])
        for parameter, view in zip(self.dense, views, strict=True):
            parameter.grad = view
        for part, table in zip(tables, self.marked, strict=True):
            rows = part[:, -1].nonzero()[:, 0]
            table.grad = _sparse(table, rows, part[rows, :-1])
        return [multiple * _UNIT + rest for multiple, rest in tail.double().view(-1, 2).tolist()]

    def _gather(self, lengths: Tensor) -> None:
        """Gather the sparse gradients of all tables at once. lengths: int64 (tables, ranks)."""
        row_counts = lengths.sum(0).tolist()  # rows of each rank
        rows = self.workers.gather(torch.cat([_rows(table) for table in self.tables]), row_counts)
        widths = [table.shape[1] for table in self.tables]
        value_counts = (lengths * torch.tensor(widths)[:, None]).sum(0).tolist()
        values = self.workers.gather(
            torch.cat([_values(table).reshape(-1) for table in self.tables]), value_counts
        )
        messages = [
            Message(
                rank_rows.split(counts),
                rank_values.split(
                    [count * width for count, width in zip(counts, widths, strict=True)]
                ),
            )
            for rank_rows, rank_values, counts in zip(rows, values, lengths.T.tolist(), strict=True)
        ]
        for number, table in enumerate(self.tables):
            index = torch.cat([message.rows[number] for message in messages])
            added = torch.cat([message.values[number] for message in messages])
            table.grad = _merged(table, index, added.view(-1, widths[number]))


class Message(NamedTuple):
    """What one rank sent: for each table the rows it touched and their gradients, flattened."""

    rows: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def _in_two(number: float) -> tuple[float, float]:
    """(multiples of _UNIT, remainder): sums of counts stay exact in float32 beyond 2**24."""
    if not math.isfinite(number):
        return 0.0, number
    multiple = number // _UNIT
    return multiple, number - multiple * _UNIT


def _coalesced(lookups: Lookups) -> Tensor:
    weight, gradients = lookups.table.weight, lookups.gradients()
    if weight.grad is not None:
        raise ConfigError(
            "train.optim, by rows",
            found="a model whose loss reaches every row of a table",
            expected="one that reaches the rows of its batch",
            remedy="choose adam, adamw, sgd or adagrad, without train.optim.sparse",
        )
    if len(gradients) == 1:
        return _sparse(weight, *gradients[0])
    none = (weight.new_zeros(0, dtype=torch.int64), weight.new_zeros(0, weight.shape[1]))
    index, values = (torch.cat(each) for each in zip(none, *gradients, strict=True))
    return _merged(weight, index, values)


def _merged(table: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Each row once; its gradients are added in the order of `index`."""
    rows, inverse = unique(index)
    return _sparse(
        table, rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, inverse, values)
    )


def _sparse(table: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        rows.unsqueeze(0), values.detach(), table.shape, is_coalesced=True, check_invariants=False
    )


def _rows(table: Tensor) -> Tensor:
    assert table.grad is not None
    return table.grad._indices()[0]


def _values(table: Tensor) -> Tensor:
    """The values of the gradient, as a view: writing into it changes the gradient."""
    assert table.grad is not None
    return table.grad._values() if table.grad.is_sparse else table.grad
