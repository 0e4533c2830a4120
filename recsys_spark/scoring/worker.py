"""What runs in a Spark worker, for `mapInArrow`: one scorer a process, kept from partition to partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from recsys_spark.core import columns as c
from recsys_spark.models import store
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.queries import COLD, FOLDED, PREDICTION, Scorer, own_vector
from recsys_spark.scoring.scorer import load


def written(path: str | Path) -> int:
    """Modification time (ns) of the file that makes the folder whole."""
    folder = Path(path)
    return next((file.stat().st_mtime_ns for file in (folder / indices.FILE, folder / store.FACTS) if file.exists()), 0)


@dataclass(frozen=True)
class Settings:
    """What a worker process needs to build its scorer: small, picklable, and the key under which the process keeps it."""

    path: str
    k: int
    seed: int
    fallback: str | None = None
    passed: tuple[str, ...] = ()  # input columns handed through to the output
    threads: int = 1
    written: int = 0  # when (ns), so that a worker never keeps a model that another has replaced at the same path


_loaded: dict[Settings, Scorer] = {}  # of this worker process: Spark gives it many partitions, and the model is read once


def rank_batches(settings: Settings, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: the `passed` columns, item_idx, score, cold, folded (in, for want of a vector)."""
    scorer = _of_process(settings)
    with torch.inference_mode():
        for batch in batches:
            ranked = scorer.rank(batch)
            yield _beside(batch, settings, {name: ranked.column(name) for name in (c.ITEM_IDX, c.SCORE, COLD)}
                          | {FOLDED: pa.array((~own_vector(batch)).numpy() & ~ranked.column(COLD).to_numpy(zero_copy_only=False))})


def predict_batches(settings: Settings, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow: the `passed` columns and the prediction; where the rows are profiles, one row for each of their held entries."""
    scorer = _of_process(settings)
    with torch.inference_mode():
        for batch in batches:
            yield _beside(batch, settings, {PREDICTION: scorer.predict(batch)})


def _of_process(settings: Settings) -> Scorer:
    if settings not in _loaded:
        _loaded.clear()  # one model at a time
        torch.set_num_threads(settings.threads)
        _loaded[settings] = load(settings.path, k=settings.k, seed=settings.seed, fallback=settings.fallback)
    return _loaded[settings]


def _beside(batch: pa.RecordBatch, settings: Settings, made: dict[str, pa.Array]) -> pa.RecordBatch:
    flat = PREDICTION in made  # of profiles: lists of what was to be predicted
    arrays = {name: column.flatten() if flat and pa.types.is_list(column.type) else column
              for name, column in ((name, batch.column(name)) for name in settings.passed)} | made
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
