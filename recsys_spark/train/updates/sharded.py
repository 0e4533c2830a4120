"""Large tables sharded over the ranks (`workers.shard_tables`): of N ranks, rank r holds the rows
r, r + N, ... and the optimiser's moments of them.

In a step each rank fetches the rows that its batch looks up from their owners and computes with a
small table of them. Their gradients go back to the owners, which add them in the order of the
ranks. Validation and checkpoints need all rows: for them the tables are written block by block to
files of the run folder and memory-mapped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import CheckpointError, ConfigError
from recsys_spark.models.base import Model
from recsys_spark.nn.tables import Table, tables
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves.checkpoint import FOLDER
from recsys_spark.train.updates import optim

_Tensors = dict[str, Tensor]
BLOCK_BYTES = 8 << 20  # bytes of a table written to a file at a time


class _Fetched(NamedTuple):
    """The rows of one look-up; `rows.grad` is sent back to the owners."""

    rows: Tensor  # (R, D), by owner
    counts: list[int]  # rows of each owner
    places: Tensor  # int64 (A,): rows of this rank that the ranks requested, in rank order
    asked: list[int]  # rows requested by each rank


class Shard:
    """This rank's rows of a table; they replace the table's weight. All ranks hold equally many
    rows; on the last ranks, one may be padding.
    """

    def __init__(self, table: Table, workers: Workers) -> None:
        self.table, self.workers, self.rows = table, workers, len(table.weight)
        self.height = -(-self.rows // workers.size)
        self.fetched: list[_Fetched] = []  # the look-ups of this step
        table.weight = weight = nn.Parameter(self.cut(table.weight.detach()))
        # This rank's rows int64 (A,) -> (A, D), as the optimiser has them (`Optimiser.reader`)
        self.read: Callable[[Tensor], Tensor] = lambda places: weight.detach()[places]
        table.fetch = self

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (...) -> (rows (R, D), positions int64 (...)): each distinct row once, row 0 first,
        and the position of every index in them. All ranks must call together.
        """
        size, table = self.workers.size, self.table.weight
        by_owner = (index % size * self.height + index // size).reshape(-1)
        unique, positions = torch.unique(
            torch.cat([by_owner.new_zeros(1), by_owner]), return_inverse=True
        )
        counts = torch.bincount(unique // self.height, minlength=size).tolist()
        places, requested = self.workers.exchange(unique % self.height, counts)
        rows, _ = self.workers.exchange(self.read(places), requested, counts)
        if table.requires_grad and torch.is_grad_enabled():
            self.fetched.append(_Fetched(rows.requires_grad_(), counts, places, requested))
        return rows, positions[1:].view(index.shape)

    def cut(self, whole: Tensor) -> Tensor:
        """(rows, ...) -> a copy of this rank's rows, (height, ...)."""
        part = whole[self.workers.rank :: self.workers.size]
        return torch.cat([part, part.new_zeros(self.height - len(part), *part.shape[1:])])

    def whole(self, local: Tensor, path: Path) -> Tensor:
        """(height, ...) of each rank -> (rows, ...), memory-mapped from `path`, which rank 0 writes
        block by block.
        """
        workers, width = self.workers, local[:1].numel()
        block = max(1, BLOCK_BYTES // (width * local.element_size() * workers.size))
        for start in range(0, self.height, block):
            part = local.detach()[start : start + block].reshape(-1).to(self.table.weight.device)
            parts = workers.gather(part, [len(part)] * workers.size)
            if workers.rank == 0:
                rows = (
                    torch.stack(parts, 0)
                    .view(workers.size, -1, width)
                    .transpose(0, 1)
                    .reshape(-1, width)
                )
                _append(path, rows[: self.rows - start * workers.size])
        workers.barrier()
        return torch.from_file(
            str(path), shared=False, size=self.rows * width, dtype=local.dtype
        ).view(self.rows, *local.shape[1:])


def collect(shards: Sequence[Shard]) -> list[tuple[Tensor, Tensor]]:
    """The gradients of all rows fetched in this step, sent to their owners in one exchange.

    Returns for each shard (places int64 (A,), gradients (A, D)). A place may occur several times,
    in the order of look-ups and ranks.
    """
    if not shards:
        return []
    workers = shards[0].workers
    for shard in shards:
        if not shard.fetched:
            # No look-up in this step: an empty one, since all ranks must take part
            shard(torch.zeros(0, dtype=torch.int64, device=shard.table.weight.device))
    lookups = [lookup for shard in shards for lookup in shard.fetched]
    widths = [lookup.rows.shape[1] for lookup in lookups]
    gradients = [
        torch.zeros_like(lookup.rows) if lookup.rows.grad is None else lookup.rows.grad
        for lookup in lookups
    ]
    # The message to each rank
    messages = zip(
        *(
            gradient.split(lookup.counts)
            for gradient, lookup in zip(gradients, lookups, strict=True)
        ),
        strict=True,
    )
    sizes, expected = (
        (torch.tensor(rows).T @ torch.tensor(widths)).tolist()  # elements to and from each rank
        for rows in ([lookup.counts for lookup in lookups], [lookup.asked for lookup in lookups])
    )
    received, _ = workers.exchange(
        torch.cat([part.reshape(-1) for message in messages for part in message]), sizes, expected
    )
    parts = [
        message.split(
            [lookup.asked[rank] * width for lookup, width in zip(lookups, widths, strict=True)]
        )
        for rank, message in enumerate(received.split(expected))
    ]
    added = iter(
        [
            torch.cat([message[number] for message in parts]).view(-1, width)
            for number, width in enumerate(widths)
        ]
    )
    results = [
        (
            torch.cat([lookup.places for lookup in shard.fetched]),
            torch.cat([next(added) for _ in shard.fetched]),
        )
        for shard in shards
    ]
    for shard in shards:
        shard.fetched.clear()
    return results


class Sharding:
    """The sharded tables of a model, by the name of their weights; empty on one rank, or where the
    job shards no tables.

    Raises ConfigError where the job shards tables and the model or another setting does not support
    it.
    """

    def __init__(self, model: Model, job: TrainJob, workers: Workers) -> None:
        self.workers = workers
        # `checkpoint.clean` removes folders of this name
        self.folder = Path(job.run_dir) / FOLDER / ".tmp-tables"
        self.shards: dict[str, Shard] = {}
        if job.workers.shard_tables:
            _check(model, job)
            large = [
                table
                for table in tables(model)
                if len(table.weight) >= job.workers.shard_tables and workers.size > 1
            ]
            names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
            self.shards = {names[id(table)]: Shard(table, workers) for table in large}

    def replicated(self, model: Model) -> list[Tensor]:
        """The tensors of the model that every rank holds whole."""
        return [value for key, value in model.state_dict().items() if key not in self.shards]

    def part(self, key: str, whole: Tensor) -> Tensor:
        """The slice of a tensor of the model's state that this rank owns."""
        return self.shards[key].cut(whole) if key in self.shards else whole

    def moments(
        self, optimiser: optim.Optimiser, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """The slices that this rank owns of an optimiser's whole moments, as `optim.pack` gives
        them.
        """
        numbered = self._numbered(optimiser, groups)
        return {
            key: shard.cut(value) if (shard := _of(key, numbered)) else value
            for key, value in tensors.items()
        }

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every table whole, for code that reads different rows on each rank; no gradients, no
        step. All ranks must enter together.
        """
        weights = {name: shard.table.weight for name, shard in self.shards.items()}
        with self._files() as write:
            for name, shard in self.shards.items():
                shard.table.weight = nn.Parameter(
                    write(shard, weights[name], name).to(weights[name].device), requires_grad=False
                )
                shard.table.fetch = None
            yield
            for name, shard in self.shards.items():
                shard.table.weight, shard.table.fetch = weights[name], shard

    @contextmanager
    def state(
        self, model: Model, optimiser: optim.Optimiser
    ) -> Iterator[tuple[_Tensors, _Tensors, list[dict[str, Any]]]]:
        """(weights, moments, the optimiser's groups) as if no table were sharded. All ranks must
        enter together.
        """
        if not self.shards and self.workers.rank:
            yield {}, {}, []  # rank 0 has the whole state
            return
        weights = {key: value.detach() for key, value in model.state_dict().items()}
        tensors, groups = optim.pack(optimiser)
        with self._files() as write:
            weights |= {
                name: write(shard, weights[name], name) for name, shard in self.shards.items()
            }
            numbered = self._numbered(optimiser, groups)
            yield (
                weights,
                {
                    key: write(shard, value, key) if (shard := _of(key, numbered)) else value
                    for key, value in tensors.items()
                },
                groups,
            )

    @contextmanager
    def _files(self) -> Iterator[Callable[[Shard, Tensor, str], Tensor]]:
        """(shard, this rank's rows, file name) -> the whole tensor, memory-mapped until the end of
        the block.
        """
        if self.shards and self.workers.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        yield lambda shard, local, name: shard.whole(local, self.folder / name)
        if self.shards:
            self.workers.barrier()  # no rank reads the files any more
            if self.workers.rank == 0:
                shutil.rmtree(self.folder)

    def _numbered(
        self, optimiser: optim.Optimiser, groups: list[dict[str, Any]]
    ) -> dict[str, Shard]:
        """The shards by the number of their weight among the optimiser's parameters."""
        shards = {id(shard.table.weight): shard for shard in self.shards.values()}
        return {
            str(number): shards[id(weight)]
            for group, param_group in zip(groups, optimiser.param_groups, strict=True)
            for number, weight in zip(group["params"], param_group["params"], strict=True)
            if id(weight) in shards
        }


def _of(key: str, numbered: dict[str, Shard]) -> Shard | None:
    """The shard whose rows a moment has; None where it is of the table as a whole."""
    number, _, name = key.partition(".")
    return None if name in optim.WITHOUT_ROWS else numbered.get(number)


def _append(path: Path, rows: Tensor) -> None:
    try:
        with open(path, "ab") as file:
            rows.cpu().numpy().tofile(file)
    except OSError as problem:
        raise CheckpointError(
            f"table {path}",
            found=" ".join(str(problem).split()),
            expected="room to write it",
            remedy="free some space "
            "on this disk and run again: training resumes from the last checkpoint",
        ) from problem


def _check(model: Model, job: TrainJob) -> None:
    least, name = job.workers.shard_tables, f"workers.shard_tables of {job.model}"
    if model.whole_tables:
        raise ConfigError(
            name,
            found=least,
            expected="a model whose steps reach the rows of their batch alone",
            remedy="leave workers.shard_tables out",
        )
    largest = max((len(table.weight) for table in tables(model)), default=0)
    if largest < least:
        raise ConfigError(
            name,
            found=least,
            expected=f"a table with so many rows; the largest has {largest}",
            remedy="lower workers.shard_tables or leave it out",
        )
    settings = job.train
    for key, fits, expected in (
        # A rank whose batch has fewer rows than parts would look up less often than the others
        (
            "accumulate",
            settings.accumulate == 1,
            "1",
        ),
        # Each rank would see an overflow of its own rows only
        (
            "precision",
            settings.precision != "fp16",
            "float32 or bf16",
        ),
        ("compile", not settings.compile, "false"),
    ):
        if not fits:
            raise ConfigError(
                f"train.{key}",
                found=getattr(settings, key),
                expected=f"{expected}, for workers.shard_tables is {least}",
                remedy=f"leave train.{key} or workers.shard_tables out",
            )
