"""Moves batches to the device of the model. On a CPU nothing is copied; to a GPU they are copied
from page-locked memory while the step before runs.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import torch

from recsys_spark.batches.base import Batch

Batches = Generator[tuple[int, Batch], None, None]


def onto(device: torch.device, dtype: torch.dtype, batches: Batches) -> Batches:
    """The batches, each with its number, in the device's memory and with floating columns in
    `dtype`. For a GPU, a thread prepares the next batch in page-locked memory meanwhile: a copy
    from other memory waits for the GPU.
    """
    if device.type == "cpu":
        for number, batch in batches:
            yield number, batch.to(device, dtype)
        return

    def pinned() -> tuple[int, Batch] | None:
        pair = next(batches, None)
        return pair and (pair[0], pair[1].to("cpu", dtype).pinned())

    with ThreadPoolExecutor(1, thread_name_prefix="transfer") as pool:
        try:
            upcoming = pool.submit(pinned)
            while (current := upcoming.result()) is not None:
                upcoming = pool.submit(pinned)
                yield current[0], current[1].to(device, dtype)
        finally:
            pool.submit(
                batches.close
            ).result()  # in the same thread, which may still run the generator
