"""Functions that run in a Spark worker, for `mapInArrow`: one scorer per process, kept between
partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from recsys_spark.core import columns as c
from recsys_spark.models import store
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.model_scorer import ModelScorer
from recsys_spark.scoring.queries import COLD, FOLDED, PREDICTION, Scorer, own_vector
from recsys_spark.scoring.scorer import load

# Rows scored at once: with histories of some hundred items a few MB. Spark's own batches, of more
# rows, are cut here: their size is a setting of the whole session.
BATCH_ROWS = 4096


def written(path: str | Path) -> int:
    """Modification time (ns) of the file that marks the folder as complete; 0 without one."""
    folder = Path(path)
    return next(
        (
            file.stat().st_mtime_ns
            for file in (folder / indices.FILE, folder / store.FACTS)
            if file.exists()
        ),
        0,
    )


@dataclass(frozen=True)
class Settings:
    """Settings from which a worker process builds its scorer: small, picklable, and the key of the
    process's cache.
    """

    path: str
    k: int
    seed: int
    fallback: str | None = None
    passed: tuple[str, ...] = ()  # input columns copied to the output
    threads: int = 1
    # modification time (ns), so that a model replaced at the same path is loaded again
    written: int = 0


_loaded: dict[
    Settings, Scorer
    # Cache of this worker process: it gets many partitions, and the model is read once
] = {}


def rank_batches(settings: Settings, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For mapInArrow. Yields the `passed` columns, item_idx, score, cold and folded (the query had
    no vector in the index, so one was folded in).
    """
    scorer = _of_process(settings)
    with torch.inference_mode():
        for batch in _pieces(batches):
            ranked = scorer.rank(batch)
            yield _beside(
                batch,
                settings,
                {name: ranked.column(name) for name in (c.ITEM_IDX, c.SCORE, COLD)}
                | {
                    FOLDED: pa.array(
                        (~own_vector(batch)).numpy()
                        & ~ranked.column(COLD).to_numpy(zero_copy_only=False)
                    )
                },
            )


def predict_batches(
    settings: Settings, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """For mapInArrow. Yields the `passed` columns and the prediction; for rows that are profiles,
    one row for each of their held entries.
    """
    scorer = _of_process(settings)
    with torch.inference_mode():
        for batch in _pieces(batches):
            yield _beside(batch, settings, {PREDICTION: scorer.predict(batch)})


def encode_batches(
    settings: Settings, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """For mapInArrow, of a trained model with an index. Yields the `passed` columns and the
    queries' vectors.
    """
    scorer = _of_process(settings)
    assert isinstance(scorer, ModelScorer), f"{scorer.model} is no trained model"
    with torch.inference_mode():
        for batch in _pieces(batches):
            yield _beside(batch, settings, {c.VECTOR: scorer.encode(batch)})


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _of_process(settings: Settings) -> Scorer:
    if settings not in _loaded:
        _loaded.clear()  # one model at a time
        torch.set_num_threads(settings.threads)
        _loaded[settings] = load(
            settings.path, k=settings.k, seed=settings.seed, fallback=settings.fallback
        )
    return _loaded[settings]


def _beside(
    batch: pa.RecordBatch, settings: Settings, results: dict[str, pa.Array]
) -> pa.RecordBatch:
    flat = PREDICTION in results  # profiles: lists of the held entries
    arrays = {
        name: column.flatten() if flat and pa.types.is_list(column.type) else column
        for name, column in ((name, batch.column(name)) for name in settings.passed)
    } | results
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
