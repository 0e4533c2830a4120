"""What the ranks of a training need of memory."""

from __future__ import annotations

from recsys_spark.core import contracts
from recsys_spark.core.contracts import ShardSet, TrainJob

PROCESS_BYTES = 600 << 20  # of a rank without data: the interpreter and its libraries


def width(train: contracts.Train) -> int:
    """Bytes of a weight."""
    return 8 if train.dtype == "float64" else 4


def fixed_and_window(job: TrainJob, shards: ShardSet, parameters: int) -> tuple[int, int]:
    """(fixed bytes of each rank, bytes of the shard-set windows of all ranks together)."""
    # Weights, gradients, two moments; a buffer to sum gradients over the workers
    copies = 4 + (job.workers.num_workers > 1)
    copies += 3 * job.train.checkpoint_async
    part = shards.parts["train"]
    shards_rows = (
        [file.row_groups[number] for file, number in dealt]
        for dealt in part.dealt(shards.virtual_shards)
        if dealt
    )
    window = sum(
        min(sum(rows), max(rows) * job.train.reader.window_row_groups) for rows in shards_rows
    )
    return PROCESS_BYTES + parameters * width(job.train) * copies, int(
        sum(file.bytes for file in part.files) * window / max(part.rows, 1)
    )
