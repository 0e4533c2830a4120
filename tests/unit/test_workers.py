"""What connects ranks, as far as one process can show it: which backends, and whose mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys_spark.train.ranks import workers
from recsys_spark.train.ranks.workers import PeerLost, Workers

TWO_BACKENDS = """
import os
import torch
from torch.testing._internal.distributed import fake_pg  # registers a backend without a device
from recsys_spark.train.ranks import workers

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
assert workers.BACKENDS["cuda"] == "cpu:gloo,cuda:nccl"
workers.BACKENDS["cuda"] = "cpu:gloo,cuda:fake"
group = workers.connect("torch", device="cuda")
group.size = 2  # so that the collectives run, over a group of one
numbers = torch.tensor([1.0, 2.0])
group.all_reduce_sum([numbers])
group.broadcast([numbers])
group.barrier()
assert numbers.tolist() == [1.0, 2.0]
"""


def test_a_training_on_gpus_adds_numbers_of_the_cpu(tmp_path: Path) -> None:
    """Counts, metrics and barriers lie on the CPU: NCCL alone refuses them."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_BACKENDS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]


class Failing(Workers):
    def __init__(self, problem: Exception) -> None:
        super().__init__(rank=0, size=2)
        self.problem = problem

    def _sum(self, flat: torch.Tensor) -> None:
        raise self.problem


class HorovodInternalError(RuntimeError):
    """Horovod's, by its name."""


@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:4631"),
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms"),
        RuntimeError("Socket Timeout"),
        RuntimeError("NCCL error: ncclRemoteError: A call failed possibly due to a network error"),
        HorovodInternalError("Horovod has been shut down."),
        HorovodInternalError("one or more ranks"),
    ],
    ids=str,
)
def test_a_broken_connection_is_a_lost_peer(problem: RuntimeError) -> None:
    with pytest.raises(PeerLost):
        Failing(problem).all_reduce_sum([torch.zeros(2)])


@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("No backend type associated with device type cpu"),
        RuntimeError("Tensors must be CUDA and dense"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (2)"),
        ValueError("not a matter of ranks"),
    ],
    ids=str,
)
def test_our_own_mistake_is_no_lost_peer(problem: Exception) -> None:
    """It would be tried again, and fail again."""
    with pytest.raises(type(problem), match=str(problem)[:10]) as raised:
        Failing(problem).all_reduce_sum([torch.zeros(2)])
    assert raised.value is problem


def test_cpu_has_one_backend() -> None:
    assert workers.BACKENDS["cpu"] == "gloo"
