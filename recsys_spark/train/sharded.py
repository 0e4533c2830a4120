"""Large tables in parts (`workers.shard_tables`): of N ranks, rank r holds the rows r, r + N, ... and the optimiser's moments of them.

In a step each rank fetches the rows that its batch looks up from their owners and computes with a small table of them. Their gradients go
back to the owners, which add them in the order of the ranks. What needs all rows (validation, a checkpoint) gets the tables whole, as
mapped files of the run folder, into which they go a block at a time.
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
from recsys_spark.train import optim
from recsys_spark.train.checkpoint import FOLDER
from recsys_spark.train.workers import Workers

_Tensors = dict[str, Tensor]
BLOCK_BYTES = 8 << 20  # of a table, on its way into a file


class _Fetched(NamedTuple):
    """The rows of one look-up; `rows.grad` is what goes back."""

    rows: Tensor  # (R, D), by owner
    counts: list[int]  # rows of each owner
    places: Tensor  # int64 (A,): rows here that the ranks asked for, in their order
    asked: list[int]  # by each rank


class Shard:
    """This rank's rows of a table, which are the table's weight from now on. Ranks have equally many, the last one maybe a row too much."""

    def __init__(self, table: Table, workers: Workers) -> None:
        self.table, self.workers, self.rows = table, workers, len(table.weight)
        self.height = -(-self.rows // workers.size)
        self.fetched: list[_Fetched] = []  # in this step
        table.weight = nn.Parameter(self.cut(table.weight.detach()))
        table.fetch = self

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (...) -> rows (R, D), each once and row 0 first; where in them each index is, int64 (...). All ranks call together."""
        size, table = self.workers.size, self.table.weight
        by_owner = (index % size * self.height + index // size).reshape(-1)
        found, where = torch.unique(torch.cat([by_owner.new_zeros(1), by_owner]), return_inverse=True)
        counts = torch.bincount(found // self.height, minlength=size).tolist()
        places, asked = self.workers.exchange(found % self.height, counts)
        rows, _ = self.workers.exchange(table.detach()[places], asked, counts)
        if table.requires_grad and torch.is_grad_enabled():
            self.fetched.append(_Fetched(rows.requires_grad_(), counts, places, asked))
        return rows, where[1:].view(index.shape)

    def cut(self, whole: Tensor) -> Tensor:
        """(rows, ...) -> a copy of this rank's, (height, ...)."""
        mine = whole[self.workers.rank :: self.workers.size]
        return torch.cat([mine, mine.new_zeros(self.height - len(mine), *mine.shape[1:])])

    def whole(self, mine: Tensor, path: Path) -> Tensor:
        """(height, ...) of each rank -> (rows, ...), mapped from `path`, into which rank 0 writes them block by block."""
        workers, width = self.workers, mine[:1].numel()
        block = max(1, BLOCK_BYTES // (width * mine.element_size() * workers.size))
        for start in range(0, self.height, block):
            part = mine.detach()[start : start + block].reshape(-1).to(self.table.weight.device)
            parts = workers.gather(part, [len(part)] * workers.size)
            if workers.rank == 0:
                rows = torch.stack(parts, 0).view(workers.size, -1, width).transpose(0, 1).reshape(-1, width)
                _append(path, rows[: self.rows - start * workers.size])
        workers.barrier()
        return torch.from_file(str(path), shared=False, size=self.rows * width, dtype=mine.dtype).view(self.rows, *mine.shape[1:])


def collect(shards: Sequence[Shard]) -> list[tuple[Tensor, Tensor]]:
    """The gradients of all rows that this step fetched, brought to their owners in one exchange.

    Of each shard (places int64 (A,), gradients (A, D)): a place may come several times, in the order of look-ups and ranks.
    """
    if not shards:
        return []
    workers = shards[0].workers
    for shard in shards:
        if not shard.fetched:
            shard(torch.zeros(0, dtype=torch.int64, device=shard.table.weight.device))  # it played no part in this step
    every = [one for shard in shards for one in shard.fetched]
    widths = [one.rows.shape[1] for one in every]
    gradients = [torch.zeros_like(one.rows) if one.rows.grad is None else one.rows.grad for one in every]
    messages = zip(*(gradient.split(one.counts) for gradient, one in zip(gradients, every, strict=True)), strict=True)  # to each rank
    sizes, expected = ((torch.tensor(rows).T @ torch.tensor(widths)).tolist()  # numbers to and from each rank
                       for rows in ([one.counts for one in every], [one.asked for one in every]))
    received, _ = workers.exchange(torch.cat([part.reshape(-1) for message in messages for part in message]), sizes, expected)
    heard = [message.split([one.asked[rank] * width for one, width in zip(every, widths, strict=True)])
             for rank, message in enumerate(received.split(expected))]
    added = iter([torch.cat([message[number] for message in heard]).view(-1, width) for number, width in enumerate(widths)])
    found = [(torch.cat([one.places for one in shard.fetched]), torch.cat([next(added) for _ in shard.fetched])) for shard in shards]
    for shard in shards:
        shard.fetched.clear()
    return found


class Sharding:
    """The tables of a model that lie in parts, by the name of their weights; none on one rank, or where the job has none.

    Raises ConfigError where the job asks for parts and the model or another setting cannot have them.
    """

    def __init__(self, model: Model, job: TrainJob, workers: Workers) -> None:
        self.workers, self.folder = workers, Path(job.run_dir) / FOLDER / ".tmp-tables"  # a name that `checkpoint.clean` removes
        self.shards: dict[str, Shard] = {}
        if job.workers.shard_tables:
            _check(model, job)
            large = [table for table in tables(model) if len(table.weight) >= job.workers.shard_tables and workers.size > 1]
            names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
            self.shards = {names[id(table)]: Shard(table, workers) for table in large}

    def replicated(self, model: Model) -> list[Tensor]:
        """The tensors of the model that every rank has whole."""
        return [value for key, value in model.state_dict().items() if key not in self.shards]

    def part(self, key: str, whole: Tensor) -> Tensor:
        """What this rank holds of a tensor of the model's state."""
        return self.shards[key].cut(whole) if key in self.shards else whole

    def moments(self, optimiser: optim.Optimiser, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Tensor]:
        """What this rank holds of an optimiser's whole moments, as `optim.pack` gives them."""
        numbered = self._numbered(optimiser, groups)
        return {key: shard.cut(value) if (shard := _of(key, value, numbered)) else value for key, value in tensors.items()}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every table whole, for whatever looks at rows of its own on each rank: no gradients, no step. All ranks go in together."""
        mine = {name: shard.table.weight for name, shard in self.shards.items()}
        with self._files() as write:
            for name, shard in self.shards.items():
                shard.table.weight = nn.Parameter(write(shard, mine[name], name).to(mine[name].device), requires_grad=False)
                shard.table.fetch = None
            yield
            for name, shard in self.shards.items():
                shard.table.weight, shard.table.fetch = mine[name], shard

    @contextmanager
    def state(self, model: Model, optimiser: optim.Optimiser) -> Iterator[tuple[_Tensors, _Tensors, list[dict[str, Any]]]]:
        """(weights, moments, the optimiser's groups) as if no table lay in parts. Ranks go in together."""
        if not self.shards and self.workers.rank:
            yield {}, {}, []  # rank 0 has all of it
            return
        weights = {key: value.detach() for key, value in model.state_dict().items()}
        tensors, groups = optim.pack(optimiser)
        with self._files() as write:
            weights |= {name: write(shard, weights[name], name) for name, shard in self.shards.items()}
            numbered = self._numbered(optimiser, groups)
            yield weights, {key: write(shard, value, key) if (shard := _of(key, value, numbered)) else value
                            for key, value in tensors.items()}, groups

    @contextmanager
    def _files(self) -> Iterator[Callable[[Shard, Tensor, str], Tensor]]:
        """(shard, this rank's rows, file name) -> the whole, mapped until the end of the block."""
        if self.shards and self.workers.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        yield lambda shard, mine, name: shard.whole(mine, self.folder / name)
        if self.shards:
            self.workers.barrier()  # nobody reads any more
            if self.workers.rank == 0:
                shutil.rmtree(self.folder)

    def _numbered(self, optimiser: optim.Optimiser, groups: list[dict[str, Any]]) -> dict[str, Shard]:
        """The numbers of the sharded weights among the optimiser's parameters."""
        shards = {id(shard.table.weight): shard for shard in self.shards.values()}
        return {str(number): shards[id(weight)] for group, mine in zip(groups, optimiser.param_groups, strict=True)
                for number, weight in zip(group["params"], mine["params"], strict=True) if id(weight) in shards}


def _of(key: str, value: Tensor, numbered: dict[str, Shard]) -> Shard | None:
    """Whose rows a moment has. A count of steps has none."""
    return numbered.get(key.partition(".")[0]) if value.dim() else None


def _append(path: Path, rows: Tensor) -> None:
    try:
        with open(path, "ab") as file:
            rows.cpu().numpy().tofile(file)
    except OSError as problem:
        raise CheckpointError(f"table {path}", found=" ".join(str(problem).split()), expected="room to write it", remedy="free some space "
                              "on this disk and run again: training resumes from the last checkpoint") from problem


def _check(model: Model, job: TrainJob) -> None:
    least, name = job.workers.shard_tables, f"workers.shard_tables of {job.model}"
    if model.whole_tables:
        raise ConfigError(name, found=least, expected="a model whose steps reach the rows of their batch alone",
                          remedy="leave workers.shard_tables out")
    largest = max((len(table.weight) for table in tables(model)), default=0)
    if largest < least:
        raise ConfigError(name, found=least, expected=f"a table with so many rows; the largest has {largest}",
                          remedy="lower workers.shard_tables or leave it out")
    settings = job.train
    for key, fits, expected in (
            ("accumulate", settings.accumulate == 1, "1"),  # a batch of fewer rows than parts would look up less often than the others
            ("precision", settings.precision != "fp16", "float32 or bf16"),  # each rank would see the overflow of its own rows alone
            ("compile", not settings.compile, "false")):
        if not fits:
            raise ConfigError(f"train.{key}", found=getattr(settings, key), expected=f"{expected}, for workers.shard_tables is {least}",
                              remedy=f"leave train.{key} or workers.shard_tables out")
