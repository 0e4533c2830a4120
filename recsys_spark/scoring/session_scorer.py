"""The scorer of an index of kind `sessions`: a query's rows are the past sessions most like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.scoring import index as indices
from recsys_spark.scoring.index_scorers import SparseScorer, places_from_end
from recsys_spark.scoring.lists import ragged
from recsys_spark.scoring.queries import HISTORY, ROWS, WEIGHTS
from recsys_spark.scoring.sparse import runs

_CELLS = 1 << 21  # pairs of a history's item and a session that has it, in memory at once: 150 MB


class Shared(NamedTuple):
    """An item of a query's history and a session that has it too; all (n,)."""

    owner: NDArray[np.int64]  # row of the query in its batch
    session: NDArray[np.int64]
    weight: NDArray[np.float64]
    place: NDArray[np.int64]  # of the item from the end of the history; 0: the newest

    def take(self, index: NDArray[Any]) -> Shared:
        return Shared(*(array[index] for array in self))

    def first(self, most: int) -> Shared:
        """The first `most` of each owner, of which they are sorted."""
        return self.take(np.arange(len(self.owner)) - self.starts < most)

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.searchsorted(self.owner, self.owner)


class SessionScorer(SparseScorer):
    """Finds the nearest sessions of each history; the rest is `sparse`."""

    def __init__(self, folder: Path, k: int, seed: int, fallback: Tensor | None) -> None:
        super().__init__(folder, k, seed, fallback)
        self.own_rows = True
        self.postings, self.latest = indices.sessions(folder, self.facts)

    def rank(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        query = batch.column(c.QUERY_IDX).to_numpy(zero_copy_only=False)
        counts, sessions, weights = self._nearest(query, ragged(batch.column(HISTORY)))
        offsets = pa.array(np.concatenate([[0], counts.cumsum()]).astype(np.int32))
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, values in ((ROWS, sessions), (WEIGHTS, weights)):
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values))
        return super().rank(pa.RecordBatch.from_pydict(columns))

    def _nearest(
        self, query: NDArray[np.int32], history: Ragged
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """(number of neighbours of each query, (B,); their sessions and weights)."""
        history = self._newest(history)
        item, place = history.values.numpy(), places_from_end(history).numpy()
        # Of item 0 there are no postings
        item = np.where((item > 0) & (item <= self.num_items), item, 0)
        owner = np.repeat(np.arange(len(query)), history.offsets.diff().numpy())
        lengths = np.diff(self.postings.indptr)[item]
        cost = np.bincount(owner, weights=lengths, minlength=len(query)).astype(np.int64)
        counts = np.zeros(len(query), np.int64)
        sessions, weights = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for block in runs(cost, _CELLS):
            of = slice(*history.offsets.numpy()[[block.start, block.stop]])
            best = self._best_of(query, self._shared(owner[of], item[of], place[of]))
            counts += np.bincount(best.owner, minlength=len(query))
            sessions.append(best.session.astype(np.int32))
            weights.append(best.weight.astype(np.float32))
        return counts, np.concatenate(sessions), np.concatenate(weights)

    def _shared(
        self, owner: NDArray[np.int64], item: NDArray[np.int32], place: NDArray[np.int64]
    ) -> Shared:
        """Each item of a history with each session that has it."""
        first, last = self.postings.indptr[item], self.postings.indptr[item + 1]
        lengths = last - first
        of = np.repeat(np.arange(len(item)), lengths)
        entry = np.arange(len(of)) + (first - np.cumsum(lengths) + lengths)[of]
        weight = self.postings.data[entry] * np.float64(self.facts.decay) ** place[of]
        return Shared(owner[of], self.postings.indices[entry].astype(np.int64), weight, place[of])

    def _best_of(self, query: NDArray[np.int32], shared: Shared) -> Shared:
        """The neighbours, by owner; place is that of the newest item in common."""
        facts = self.facts
        shared = shared.take((shared.session != query[shared.owner]) & (shared.weight > 0))
        shared = shared.take(np.lexsort((shared.place, shared.session, shared.owner)))
        new = np.diff(shared.owner, prepend=-1) | np.diff(shared.session, prepend=-1)
        first = np.flatnonzero(new)
        if not len(first):
            return shared
        sums = np.add.reduceat(shared.weight, first)
        likeness = shared.take(first)._replace(weight=sums)

        latest = self.latest[likeness.session]
        recent = likeness.take(np.lexsort((-likeness.session, -latest, likeness.owner)))
        recent = recent.first(facts.sample) if facts.sample else recent
        # Stable: of equally near sessions the latest
        nearest = recent.take(np.lexsort((-recent.weight, recent.owner))).first(facts.neighbours)
        decayed = nearest.weight * np.float64(facts.nearness) ** nearest.place
        return nearest._replace(weight=decayed)
