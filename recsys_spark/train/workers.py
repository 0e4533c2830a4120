"""The seam between the loop and whatever connects its ranks: `single`, `horovod` or `torch` (torch.distributed).

The three do the same five things, so the same global batches give the same numbers. Every collective takes one fused buffer:
on small models latency costs more than bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterator

import torch
from torch import Tensor

from recsys_spark.core.errors import WorkerError
from recsys_spark.train.beat import Beat

RANK, SIZE, STORE = "RECSYS_SPARK_RANK", "RECSYS_SPARK_SIZE", "RECSYS_SPARK_STORE"  # environment variables that the launcher sets
PATIENCE = 2.0  # a collective waits so many times `timeout_s`: long enough for whoever watches the ranks to name the one that hangs


class PeerLost(Exception):
    """A collective failed because another rank is gone: a consequence, never the cause."""


class Workers:
    """`single`, and the base of the others: one rank of `size`."""

    engine = "single"

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, beat: Beat | None = None) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.beat = beat or Beat()

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes, in place, its sum over the ranks. One collective for each dtype among them."""
        if self.size > 1:
            for same in _by_dtype(tensors):
                with self._collective():
                    _fused(same, self._sum)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes, in place, that of rank 0."""
        if self.size > 1:
            for same in _by_dtype(tensors):
                with self._collective():
                    _fused(same, self._copy)

    def gather(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The tensors (lengths[r],) of all ranks r, in their order."""
        if self.size == 1:
            return [mine]
        with self._collective():
            return self._gather(mine, lengths)

    def exchange(self, mine: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
        """Of `mine` (sum of counts, ...) the first counts[0] rows go to rank 0, the next to rank 1 and so on.

        (the rows that the ranks sent here, in their order; how many each sent, which saves a message where it is `expected`).
        """
        if self.size == 1:
            return mine, list(counts)
        with self._collective():
            return self._exchange(mine.detach().contiguous(), counts, expected)

    def barrier(self) -> None:
        self.all_reduce_sum([torch.zeros(1)])

    def close(self) -> None:
        """Leave the group; the other ranks must have finished their collectives too."""

    def _sum(self, flat: Tensor) -> None:
        raise NotImplementedError

    def _copy(self, flat: Tensor) -> None:
        raise NotImplementedError

    def _gather(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        raise NotImplementedError

    def _exchange(self, mine: Tensor, counts: Sequence[int], expected: Sequence[int] | None) -> tuple[Tensor, list[int]]:
        raise NotImplementedError

    @contextmanager
    def _collective(self) -> Iterator[None]:
        self.beat.wait()
        try:
            yield
        except RuntimeError as problem:  # what both libraries raise, or derive from, when a connection breaks
            raise PeerLost(" ".join(str(problem).split())[:300]) from problem
        self.beat.work()


class Horovod(Workers):
    engine = "horovod"

    def __init__(self, local_rank: int, beat: Beat | None = None) -> None:
        import horovod.torch as hvd

        hvd.init()
        self.hvd = hvd
        super().__init__(hvd.rank(), hvd.size(), local_rank, beat)

    # A tensor keeps its name from step to step: Horovod then skips the negotiation that a new name needs.
    def _sum(self, flat: Tensor) -> None:
        self.hvd.allreduce_(flat, op=self.hvd.Sum, name=f"sum.{flat.dtype}.{flat.numel()}")

    def _copy(self, flat: Tensor) -> None:
        self.hvd.broadcast_(flat, root_rank=0, name=f"copy.{flat.dtype}.{flat.numel()}")

    def _gather(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        return list(self.hvd.allgather(mine, name=f"gather.{mine.dtype}").split(list(lengths)))

    def _exchange(self, mine: Tensor, counts: Sequence[int], expected: Sequence[int] | None) -> tuple[Tensor, list[int]]:
        splits = torch.tensor(counts, dtype=torch.int32)
        received, sizes = self.hvd.alltoall(mine, splits, name=f"exchange.{mine.dtype}.{mine.dim()}.{mine[:1].numel()}")
        return received, sizes.tolist()

    def close(self) -> None:
        self.hvd.shutdown()


class Torch(Workers):
    engine = "torch"

    def __init__(self, local_rank: int, device: str = "cpu", timeout_s: float = 600.0, beat: Beat | None = None) -> None:
        from torch import distributed

        self.distributed = distributed
        patience = timedelta(seconds=PATIENCE * timeout_s)
        met: dict[str, Any] = {}  # without a store: MASTER_ADDR and its like, as torchrun sets them
        if where := os.environ.get(STORE):
            host, _, port = where.rpartition(":")
            store = distributed.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=timeout_s))  # type: ignore[attr-defined]
            met = {"store": store, "rank": int(os.environ[RANK]), "world_size": int(os.environ[SIZE])}
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=patience, **met)
        super().__init__(distributed.get_rank(), distributed.get_world_size(), local_rank, beat)

    def _sum(self, flat: Tensor) -> None:
        self.distributed.all_reduce(flat)

    def _copy(self, flat: Tensor) -> None:
        self.distributed.broadcast(flat, src=0)

    def _gather(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        longest = max(lengths)
        if not longest:
            return [mine] * self.size
        padded = torch.cat([mine, mine.new_zeros(longest - len(mine))])  # gloo wants them equally long
        every = [torch.empty_like(padded) for _ in lengths]
        self.distributed.all_gather(every, padded)
        return [one[:length] for one, length in zip(every, lengths, strict=True)]

    def _exchange(self, mine: Tensor, counts: Sequence[int], expected: Sequence[int] | None) -> tuple[Tensor, list[int]]:
        if expected is None:
            told, heard = torch.tensor(counts, device=mine.device), torch.empty(self.size, dtype=torch.int64, device=mine.device)
            self.distributed.all_to_all_single(heard, told)
            expected = heard.tolist()
        received = mine.new_empty(sum(expected), *mine.shape[1:])
        self.distributed.all_to_all_single(received, mine, list(expected), list(counts))
        return received, list(expected)

    def close(self) -> None:
        self.distributed.destroy_process_group()


def resolve(engine: str, num_workers: int) -> str:
    """`auto` is horovod for more than one rank, single for one."""
    return ("horovod" if num_workers > 1 else "single") if engine == "auto" else engine


def connect(engine: str, *, local_rank: int = 0, device: str = "cpu", timeout_s: float = 600.0, beat: Beat | None = None) -> Workers:
    """Join the ranks that were started together. `local_rank`: the number of this rank's GPU on its host.

    Raises WorkerError when the engine is not installed, PeerLost when nobody answers.
    """
    try:
        if engine == "horovod":
            return Horovod(local_rank, beat)
        if engine == "torch":
            return Torch(local_rank, device, timeout_s, beat)
    except ImportError as problem:
        raise WorkerError(f"workers.engine {engine}", found=str(problem), expected="an installed library",
                          remedy="run `make setup`, or set workers.engine=torch") from problem
    except RuntimeError as problem:
        raise PeerLost(" ".join(str(problem).split())[:300]) from problem
    assert engine == "single", f"engine {engine}"
    return Workers(local_rank=local_rank, beat=beat)


def _by_dtype(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups in an order that is the same on every rank: that of their first tensor."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    yield from groups.values()


def _fused(tensors: list[Tensor], collective: Any) -> None:
    """Run the collective on one flat buffer; a single contiguous tensor is its own buffer."""
    with torch.no_grad():
        if len(tensors) == 1 and tensors[0].is_contiguous():
            collective(tensors[0].detach().view(-1))
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        collective(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
