"""The interface between the training loop and the engine that connects its ranks: `single`,
`horovod` or `torch` (torch.distributed).

All engines implement the same five operations, so the same global batches give the same numbers.
Every collective takes one fused buffer: for small models latency costs more than bytes.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Iterator

import torch
from torch import Tensor

from recsys_spark.core.errors import WorkerError
from recsys_spark.train.ranks.beat import Beat

# Environment variables that the launcher sets
RANK = "RECSYS_SPARK_RANK"
SIZE = "RECSYS_SPARK_SIZE"
STORE = "RECSYS_SPARK_STORE"
# A collective waits PATIENCE * `timeout_s`: long enough for the watch over the ranks to name the
# rank that hangs
PATIENCE = 2.0

# A training on GPUs also reduces tensors on the CPU: counts, metrics, barriers.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# Messages of gloo, NCCL, torch's store and Horovod for a broken connection. Both libraries raise
# RuntimeError or a subclass both for a broken connection and for mistakes of the caller.
_LOST = re.compile(
    r"connection|connect\(|timed?.?out|peer|broken pipe|socket|shut ?down|remote process|"
    r"ncclRemoteError|ncclSystemError|watchdog|aborted|Horovod has been|HorovodInternalError",
    re.IGNORECASE,
)


class PeerLost(Exception):
    """A collective failed because another rank is gone: a consequence, never the cause."""


class Workers:
    """Engine `single`, and the base of the others: one rank of `size`."""

    engine = "single"

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, beat: Beat | None = None
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.beat = beat or Beat()

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks. One collective for each
        dtype.
        """
        if self.size > 1:
            for same in _by_dtype(tensors):
                with self._collective():
                    _fused(same, self._sum)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by that of rank 0."""
        if self.size > 1:
            for same in _by_dtype(tensors):
                with self._collective():
                    _fused(same, self._copy)

    def gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The tensors (lengths[r],) of all ranks r, in rank order."""
        if self.size == 1:
            return [values]
        with self._collective():
            return self._gather(values, lengths)

    def exchange(
        self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Send the first counts[0] rows of `rows` (sum of counts, ...) to rank 0, the next
        counts[1] to rank 1 and so on.

        Returns the rows that the ranks sent to this one, in rank order, and how many each sent.
        Passing these counts as `expected`, where they are known, saves a message.
        """
        if self.size == 1:
            return rows, list(counts)
        with self._collective():
            return self._exchange(rows.detach().contiguous(), counts, expected)

    def barrier(self) -> None:
        self.all_reduce_sum([torch.zeros(1)])

    def close(self) -> None:
        """Leave the group; the other ranks must also have finished their collectives."""

    def _sum(self, flat: Tensor) -> None:
        raise NotImplementedError

    def _copy(self, flat: Tensor) -> None:
        raise NotImplementedError

    def _gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        raise NotImplementedError

    def _exchange(
        self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None
    ) -> tuple[Tensor, list[int]]:
        raise NotImplementedError

    @contextmanager
    def _collective(self) -> Iterator[None]:
        self.beat.wait()
        try:
            yield
        except RuntimeError as problem:
            if not _is_lost_peer(problem):
                raise
            raise PeerLost(" ".join(str(problem).split())[:300]) from problem
        self.beat.work()


class Horovod(Workers):
    engine = "horovod"

    def __init__(self, local_rank: int, beat: Beat | None = None) -> None:
        import horovod.torch as hvd

        hvd.init()
        self.hvd = hvd
        super().__init__(hvd.rank(), hvd.size(), local_rank, beat)

    # A tensor has the same name in every step: Horovod then skips the negotiation that a new name
    # needs.
    def _sum(self, flat: Tensor) -> None:
        self.hvd.allreduce_(flat, op=self.hvd.Sum, name=f"sum.{flat.dtype}.{flat.numel()}")

    def _copy(self, flat: Tensor) -> None:
        self.hvd.broadcast_(flat, root_rank=0, name=f"copy.{flat.dtype}.{flat.numel()}")

    def _gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        return list(self.hvd.allgather(values, name=f"gather.{values.dtype}").split(list(lengths)))

    def _exchange(
        self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None
    ) -> tuple[Tensor, list[int]]:
        splits = torch.tensor(counts, dtype=torch.int32)
        received, sizes = self.hvd.alltoall(
            rows, splits, name=f"exchange.{rows.dtype}.{rows.dim()}.{rows[:1].numel()}"
        )
        return received, sizes.tolist()

    def close(self) -> None:
        self.hvd.shutdown()


class Torch(Workers):
    engine = "torch"

    def __init__(
        self,
        local_rank: int,
        device: str = "cpu",
        timeout_s: float = 600.0,
        beat: Beat | None = None,
    ) -> None:
        from torch import distributed

        self.distributed = distributed
        patience = timedelta(seconds=PATIENCE * timeout_s)
        options: dict[str, Any] = {}  # without a store: MASTER_ADDR etc., as torchrun sets them
        if address := os.environ.get(STORE):
            host, _, port = address.rpartition(":")
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                host, int(port), is_master=False, timeout=timedelta(seconds=timeout_s)
            )
            options = {
                "store": store,
                "rank": int(os.environ[RANK]),
                "world_size": int(os.environ[SIZE]),
            }
        distributed.init_process_group(BACKENDS[device], timeout=patience, **options)
        super().__init__(distributed.get_rank(), distributed.get_world_size(), local_rank, beat)

    def _sum(self, flat: Tensor) -> None:
        self.distributed.all_reduce(flat)

    def _copy(self, flat: Tensor) -> None:
        self.distributed.broadcast(flat, src=0)

    def _gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        longest = max(lengths)
        if not longest:
            return [values] * self.size
        # gloo requires equal lengths
        padded = torch.cat([values, values.new_zeros(longest - len(values))])
        gathered = [torch.empty_like(padded) for _ in lengths]
        self.distributed.all_gather(gathered, padded)
        return [row[:length] for row, length in zip(gathered, lengths, strict=True)]

    def _exchange(
        self, rows: Tensor, counts: Sequence[int], expected: Sequence[int] | None
    ) -> tuple[Tensor, list[int]]:
        if expected is None:
            sent = torch.tensor(counts, device=rows.device)
            received_counts = torch.empty(self.size, dtype=torch.int64, device=rows.device)
            self.distributed.all_to_all_single(received_counts, sent)
            expected = received_counts.tolist()
        received = rows.new_empty(sum(expected), *rows.shape[1:])
        self.distributed.all_to_all_single(received, rows, list(expected), list(counts))
        return received, list(expected)

    def close(self) -> None:
        self.distributed.destroy_process_group()


def resolve(engine: str, num_workers: int) -> str:
    """`auto` is single for one rank; for more horovod where it can be imported, else torch."""
    if engine != "auto":
        return engine
    if num_workers == 1:
        return "single"
    return "torch" if no_horovod() else "horovod"


@functools.cache
def no_horovod() -> str:
    """Why Horovod cannot be imported; empty: it can. It is imported to know: an installed one may
    have been built without torch, or for another version of it.
    """
    try:
        importlib.import_module("horovod.torch")
    except (ImportError, OSError) as problem:
        return " ".join(str(problem).split())[:200] or type(problem).__name__
    return ""


def not_installed(engine: str, problem: ImportError) -> WorkerError:
    return WorkerError(
        f"workers.engine {engine}",
        found=str(problem),
        expected="an installed library",
        remedy="set workers.engine=auto (torch where there is no Horovod), or run `make setup`",
    )


def connect(
    engine: str,
    *,
    local_rank: int = 0,
    device: str = "cpu",
    timeout_s: float = 600.0,
    beat: Beat | None = None,
) -> Workers:
    """Join the ranks that were started together. `local_rank`: the number of this rank's GPU on its
    host.

    Raises WorkerError when the engine is not installed, PeerLost when no rank answers.
    """
    try:
        if engine == "horovod":
            return Horovod(local_rank, beat)
        if engine == "torch":
            return Torch(local_rank, device, timeout_s, beat)
    except ImportError as problem:
        raise not_installed(engine, problem) from problem
    except RuntimeError as problem:
        raise PeerLost(" ".join(str(problem).split())[:300]) from problem
    assert engine == "single", f"engine {engine}"
    return Workers(local_rank=local_rank, beat=beat)


def _is_lost_peer(problem: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone, not by a mistake of this one."""
    return bool(_LOST.search(f"{type(problem).__name__}: {problem}"))


def _by_dtype(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of one dtype, in the order of their first tensor: the same on every rank."""
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
        for tensor, part in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))
