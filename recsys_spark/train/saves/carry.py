"""State kept between batches: read before a step, committed after it, saved whole.

A model names its carries (`Model.carries`). `forward` finds the state of its batch's rows in
`ctx.carry` and returns the new one as output `carry.<name>`, (B, *shape). The loop commits it once
the step is done, so that a repeated pass (parts of a batch, the search for a bad row) changes
nothing.

By lane: each lane belongs to one virtual shard and so to one rank; after a resume on another number
of ranks, the lanes are read from the saved table. By user or item: every rank holds the whole
table, and the rows that a step changed are exchanged; of several rows with one id, the last by row
number counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recsys_spark.batches.base import Batch
from recsys_spark.core.contracts import ShardSet
from recsys_spark.core.errors import CheckpointError
from recsys_spark.models.base import CARRY, Carry
from recsys_spark.train.ranks.workers import Workers


class Carried:
    """The carries of one rank: tables (lanes or ids + 1, *shape), zero where there is no
    state yet.
    """

    def __init__(
        self,
        carries: Mapping[str, Carry],
        shards: ShardSet,
        workers: Workers,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        rows = {"lane": shards.num_lanes, "user": shards.num_users, "item": shards.num_items}
        assert shards.num_lanes or all(carry.by != "lane" for carry in carries.values()), (
            f"layout {shards.layout} has no lanes"
        )
        self.carries = dict(sorted(carries.items()))
        self.workers = workers
        self.tables = {
            name: torch.zeros(rows[carry.by] + 1, *carry.shape, dtype=dtype, device=device)
            for name, carry in self.carries.items()
        }
        lane = torch.arange(shards.num_lanes + 1)
        # Lane l belongs to virtual shard l % V, which rank (l % V) % N reads
        self.own_lane = (lane % shards.virtual_shards % workers.size == workers.rank).to(device)

    def read(self, batch: Batch) -> dict[str, Tensor]:
        """The state of each row before the step, (B, *shape); zero where a lane begins anew."""
        state = {}
        for name, carry in self.carries.items():
            rows = self.tables[name][_ids(batch, carry)]
            if carry.by == "lane":
                first: Any = batch.first  # type: ignore[attr-defined]
                rows = rows.masked_fill(first.view(-1, *[1] * len(carry.shape)), 0)
            state[name] = rows
        return state

    def commit(self, batch: Batch, output: Mapping[str, Tensor]) -> None:
        """Store what `forward` returned for these rows. Every rank takes part, even without
        rows.
        """
        for name, carry in self.carries.items():
            ids, rows = _ids(batch, carry), output[CARRY + name].detach()
            if carry.by != "lane" and self.workers.size > 1:
                ids, rows = self._of_all_ranks(batch.row, ids, rows)
            elif carry.by != "lane":
                order = batch.row.argsort()
                ids, rows = ids[order], rows[order]
            _last_of_each(self.tables[name], ids, rows)

    def clear(self) -> None:
        """Reset all state: a new epoch reads every lane, and every id's events, from the
        beginning.
        """
        for table in self.tables.values():
            table.zero_()

    def whole(self) -> dict[str, Tensor]:
        """The tables over all ranks, the same on each rank, on the CPU."""
        tables = {}
        for name, carry in self.carries.items():
            table = self.tables[name].clone()
            if carry.by == "lane":
                table[~self.own_lane] = 0
                self.workers.all_reduce_sum([table])
            tables[name] = table.cpu()
        return tables

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Load the tables of `whole`, saved on any number of ranks. Raises CheckpointError for
        another model's state.
        """
        for name, table in self.tables.items():
            value = saved.get(name)
            if value is None or value.shape != table.shape:
                raise CheckpointError(
                    f"carry {name} of the checkpoint",
                    found="none" if value is None else f"shape {tuple(value.shape)}",
                    expected=f"shape {tuple(table.shape)}",
                    remedy="give this training an empty run folder",
                )
            table.copy_(value)

    def _of_all_ranks(self, row: Tensor, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(ids, rows) of the whole step, sorted by row number."""
        sizes = torch.zeros(self.workers.size, dtype=torch.float64)
        sizes[self.workers.rank] = len(ids)
        self.workers.all_reduce_sum([sizes])
        lengths = [int(size) for size in sizes.tolist()]
        numbers = torch.cat(
            self.workers.gather(torch.stack([row, ids], 1).flatten(), _times(lengths, 2))
        )
        width = rows[0].numel() if len(rows) else int(torch.tensor(rows.shape[1:]).prod())
        values = torch.cat(self.workers.gather(rows.flatten(), _times(lengths, width)))
        order = numbers.view(-1, 2)[:, 0].argsort()
        return numbers.view(-1, 2)[order, 1], values.view(-1, *rows.shape[1:])[order]


def _times(lengths: list[int], width: int) -> list[int]:
    return [length * width for length in lengths]


def _ids(batch: Batch, carry: Carry) -> Tensor:
    """The lane, user or item of each row, int64 (B,)."""
    ids: Tensor = getattr(batch, carry.by)
    return ids.long()


def _last_of_each(table: Tensor, ids: Tensor, rows: Tensor) -> None:
    """table[ids] = rows; of several rows with one id the last counts, on any device."""
    position = torch.full((len(table),), -1, dtype=torch.int64, device=ids.device)
    position.scatter_reduce_(0, ids, torch.arange(len(ids), device=ids.device), "amax")
    changed = (position >= 0).nonzero()[:, 0]
    table[changed] = rows[position[changed]]
