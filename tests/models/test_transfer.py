"""Batches on their way to the device. No GPU is needed: a device that is no CPU stands for one, and
locking pages is only counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from recsys_spark.train.feed import transfer
from tests.models import worlds

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int]]:
    """(dtype, thread) of each tensor whose pages were locked."""
    found: list[tuple[torch.dtype, int]] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        found.append((tensor.dtype, threading.get_ident()))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    return found


def batches(number: int, said: list[Any]) -> Iterator[tuple[int, Any]]:
    try:
        for one in range(number):
            said.append(one)
            yield one, worlds.batch("profile")
    finally:
        said.append("closed")


def test_on_a_cpu_a_batch_stays_where_it_is(locked: list[Any]) -> None:
    made, said = [(number, worlds.batch("pairs")) for number in range(3)], []
    for (number, batch), (before, given) in zip(
        transfer.onto(CPU, torch.float32, (one for one in made)), made, strict=True
    ):
        assert number == before and batch.user.data_ptr() == given.user.data_ptr()
    for number, _ in transfer.onto(CPU, torch.float32, batches(3, said)):
        assert said[-1] == number, "nothing is made ahead"
    assert not locked


def test_for_another_device_a_thread_makes_and_locks_the_next_batch(locked: list[Any]) -> None:
    said: list[Any] = []
    for number, batch in transfer.onto(OTHER, torch.float64, batches(4, said)):
        assert (
            batch.user.device == batch.items.values.device == OTHER
            and batch.values.dtype == torch.float64
        )
        until = time.monotonic() + 10
        while number < 3 and number + 1 not in said and time.monotonic() < until:
            time.sleep(0.001)
        assert number == 3 or number + 1 in said
    assert said == [0, 1, 2, 3, "closed"]
    assert locked and all(dtype not in (torch.float16, torch.float32) for dtype, _ in locked), (
        "converted before"
    )
    assert threading.get_ident() not in {thread for _, thread in locked}


def test_whoever_stops_early_stops_the_thread(locked: list[Any]) -> None:
    said: list[Any] = []
    ahead = transfer.onto(OTHER, torch.float32, batches(9, said))
    next(ahead)
    ahead.close()
    assert said in ([0, 1, "closed"], [0, "closed"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("transfer")]


def test_an_error_of_the_reader_is_raised_by_the_loop(locked: list[Any]) -> None:
    def broken() -> Iterator[tuple[int, Any]]:
        yield 0, worlds.batch("pairs")
        raise ValueError("row group 7")

    with pytest.raises(ValueError, match="row group 7"):
        list(transfer.onto(OTHER, torch.float32, broken()))
