"""Batches on the device of the model. On a CPU nothing is copied; to a GPU they go from page-locked memory, beside the step before."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import torch

from recsys_spark.models.batches import Batch

Batches = Generator[tuple[int, Batch], None, None]


def onto(device: torch.device, dtype: torch.dtype, batches: Batches) -> Batches:
    """The batches, each beside its number, in the device's memory and with floating columns in `dtype`. For a GPU a thread makes the next
    one and locks its pages meanwhile: from other memory a copy waits for the GPU to come to it."""
    if device.type == "cpu":
        for number, batch in batches:
            yield number, batch.to(device, dtype)
        return

    def pinned() -> tuple[int, Batch] | None:
        found = next(batches, None)
        return found and (found[0], found[1].to("cpu", dtype).pinned())

    with ThreadPoolExecutor(1, thread_name_prefix="transfer") as pool:
        try:
            upcoming = pool.submit(pinned)
            while (current := upcoming.result()) is not None:
                upcoming = pool.submit(pinned)
                yield current[0], current[1].to(device, dtype)
        finally:
            pool.submit(batches.close).result()  # by the thread that may still be in it
