"""Ranks one history at request time, without Spark: `recsys_spark.load(folder).recommend(history)`.

The folder is written by a publish step. The scorer is the one that makes lists in batches, so that
a history that it knows gets the list that was published. Models that know a user by number alone
(matrix factorizations without folding in) give a new history their fallback, popularity.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recsys_spark.core import artifacts, seeds
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import VERSION
from recsys_spark.core.errors import CheckpointError, ConfigError
from recsys_spark.scoring import anonymous
from recsys_spark.scoring.queries import COLD
from recsys_spark.scoring.scorer import load as load_scorer

MODEL, ITEMS, FACTS, FALLBACK = "model", "items.parquet", "serving.json", "popularity.npy"
K = 100  # the longest list


class Facts(Settings):
    """`serving.json`, written last: its presence means that the folder is whole."""

    version: int = VERSION
    model: str
    run_id: str  # of the score step that made the published lists
    seed: int
    num_items: int
    fallback: str = ""


class Recommended(NamedTuple):
    item_id: str
    score: float


def write(
    folder: Path,
    *,
    ids: Sequence[str],
    numbers: NDArray[np.int32],
    model: str,
    run_id: str,
    seed: int,
    fallback: Path | None,
) -> None:
    """What `load` needs beside the model's own folder, which is there already. ids, numbers: of all
    items, parallel.
    """
    pq.write_table(pa.table({c.ITEM_ID: ids, c.ITEM_IDX: numbers}), folder / ITEMS)
    if fallback is not None:
        shutil.copy(fallback, folder / FALLBACK)
    facts = Facts(
        model=model,
        run_id=run_id,
        seed=seed,
        num_items=len(ids),
        fallback=FALLBACK if fallback is not None else "",
    )
    artifacts.write_model(folder / FACTS, facts)


def load(folder: str | Path, *, threads: int = 1) -> Recommender:
    """The recommender of a folder that a publish step wrote (RUN_FOLDER/serving). threads: of
    torch, for the whole process; 0 leaves them as they are.

    Raises CheckpointError where the folder is not whole or of another version.
    """
    folder = Path(folder)
    facts = artifacts.read_model(
        folder / FACTS, Facts, error=CheckpointError, remedy="name the folder of a publish step"
    )
    if facts.version != VERSION:
        raise CheckpointError(
            str(folder),
            found=f"contracts of version {facts.version}",
            expected=f"version {VERSION}",
            remedy="publish again with this version of recsys_spark",
        )
    if threads:
        torch.set_num_threads(threads)
    return Recommender(folder, facts)


class Recommender:
    """Made by `load`. May be shared by threads."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.facts = facts
        # The seed of ties is that of the published lists
        self.scorer = load_scorer(
            folder / MODEL,
            k=K,
            seed=seeds.derive(facts.seed, "score"),
            fallback=folder / facts.fallback if facts.fallback else None,
        )
        self.own = anonymous.columns(folder / MODEL)
        items = pq.read_table(folder / ITEMS)
        numbers = items.column(c.ITEM_IDX).to_numpy()
        self.numbers = dict(zip(items.column(c.ITEM_ID).to_pylist(), numbers.tolist(), strict=True))
        self.ids = {number: item_id for item_id, number in self.numbers.items()}
        self.lock = threading.Lock()

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        exclude: Collection[str] = (),
        seen: bool = False,
    ) -> list[Recommended]:
        """The k best items for a history of item ids, oldest first; none of the history unless
        `seen`, none of `exclude`. Ids that the model does not know are passed over.

        A history of which it knows nothing gets the fallback, the most popular items. Raises
        ConfigError for a k that is not 1 to 100.
        """
        if not 1 <= k <= K:
            raise ConfigError("k", found=k, expected=f"1 to {K}")
        known = self._known(history)
        out = {*self._known(exclude), *(() if seen else known)}
        last = known if self.scorer.repeats else list(dict.fromkeys(reversed(known)))[::-1]
        batch = self._query(last, sorted(out))
        with self.lock, torch.inference_mode():
            ranked = self.scorer.rank(batch)
        items = ranked.column(c.ITEM_IDX)[0].as_py()[:k]
        scores = ranked.column(c.SCORE)[0].as_py()[:k]
        pairs = zip(items, scores, strict=True)
        return [Recommended(self.ids[item], score) for item, score in pairs if item]

    def is_cold(self, history: Sequence[str]) -> bool:
        """Whether the list of this history is the fallback."""
        known = self._known(history)
        with self.lock, torch.inference_mode():
            ranked = self.scorer.rank(self._query(known, known))
        return bool(ranked.column(COLD)[0].as_py())

    def _known(self, items: Iterable[str]) -> list[int]:
        return [self.numbers[item] for item in items if item in self.numbers]

    def _query(self, history: list[int], out: list[int]) -> pa.RecordBatch:
        return anonymous.batch([history], [out], self.own)
