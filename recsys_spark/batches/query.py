"""The batch of queries to score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from recsys_spark.batches.base import Batch, Ragged


@dataclass(frozen=True)
class Query(Batch):
    """A user, session or playlist, and its past at the time of scoring.

    `history` is what a model reads; `exclude` is left out of the ranking. They differ where a list
    may have what was met before (`seen: keep`), and where the model reads every event of a history.
    Models of layout `profile` score from the history alone.

    None means unknown: fields of the event are then out of vocabulary and add nothing, and the time
    is the last one of training.
    """

    user: Tensor  # int32 (B,); 0: unknown user
    # int32 item indices, oldest first: each item once, at its last time, or (layouts that
    # `repeats`) every event
    history: Ragged
    values: Tensor | None = None  # float (entries,): the user's ratings of the items
    ts: Tensor | None = None  # int64 (entries,): times of the events, seconds since 1970
    actions: Tensor | None = None  # int32 (entries,): actions, by the vocabulary of the split
    at: Tensor | None = None  # int64 (B,): the time for which the list is made
    exclude: Ragged | None = None  # int32 item indices; None: the history
    codes: Tensor | None = None  # int32 (B, E): categories of the event, as in layout pointwise
    numbers: Tensor | None = None  # float (B, N)
    # int64 (B,): number of the query in the rule that breaks ties; None: the user
    key: Tensor | None = None

    @property
    def left_out(self) -> Ragged:
        return self.history if self.exclude is None else self.exclude

    @property
    def named(self) -> Tensor:
        return self.user.long() if self.key is None else self.key

    def take(self, index: Tensor) -> Query:
        history, entries = self.history.take(index)
        rows: dict[str, Any] = {"user": self.user[index], "history": history}
        for name in ("values", "ts", "actions"):
            rows[name] = None if getattr(self, name) is None else getattr(self, name)[entries]
        for name in ("at", "codes", "numbers", "key"):
            rows[name] = None if getattr(self, name) is None else getattr(self, name)[index]
        rows["exclude"] = None if self.exclude is None else self.exclude.take(index)[0]
        return replace(self, **rows)
