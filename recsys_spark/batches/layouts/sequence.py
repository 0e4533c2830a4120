"""Windows of histories: each event of a window with the event that follows it, packed without
padding. The rows say which events they predict; the histories lie in a side file and are gathered
by `reading`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys_spark.batches.base import Batch, Columns, Ragged, row_numbers, tensor
from recsys_spark.core import columns as c

_PLACES = 16  # bits of an event's place in its window, in its number


@dataclass(frozen=True)
class Windows(Batch):
    """Row b predicts the events at places first[b] .. last[b] - 1 of its user's history.

    Until `reading`, the windows are empty. E: entries of all windows together.
    """

    repeats = True
    by_history = True

    user: Tensor  # int32 (B,)
    first: Tensor  # int32 (B,)
    last: Tensor  # int32 (B,)
    items: Ragged  # int32: the events of each row, oldest first
    following: Tensor  # int32 (E,): the event after each, to be predicted from it and those before
    # it; 0: nothing is predicted there
    age: Tensor  # float (E,): days from the following event to the last one of all; 0: not known
    negative: Tensor  # int64 (E, N): items that are not met by the entry's user
    shared: Tensor  # int64 (S,): negatives of the whole step, the same on every rank
    log_expected: Tensor  # float (S,): log of how often a step is expected to draw each of them
    row: Tensor

    @classmethod
    def of(cls, columns: Columns) -> Windows:
        user = tensor(columns[c.QUERY_IDX])
        none = torch.zeros(0, dtype=torch.int64)
        return cls(
            user=user,
            first=tensor(columns[c.FIRST]),
            last=tensor(columns[c.LAST]),
            items=Ragged(torch.zeros(len(user) + 1, dtype=torch.int64), none.int()),
            following=none.int(),
            age=torch.zeros(0),
            negative=none.view(0, 0),
            shared=none,
            log_expected=torch.zeros(0),
            row=row_numbers(columns, len(user)),
        )

    @classmethod
    def examples_per_row(cls, num_negatives: int) -> int:
        """A row counts as one: how many events it predicts depends on its history."""
        return 1

    def reading(
        self, history: Ragged, later: Tensor, length: int, ages: Tensor | None = None
    ) -> Windows:
        """The batch with its windows: of the `length` events before a row's last target, those
        that there are.

        history: of every user by index; later: float, parallel to its values, 0 where an event has
        the time of the one before it: it is input, but no target; ages: parallel too.
        """
        start, last = history.offsets[self.user.long()], self.last.long()
        before = (last - 1 - length).clamp(min=0)
        lengths = last - 1 - before
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        entry = torch.arange(int(offsets[-1]))
        place = entry + torch.repeat_interleave(before - offsets[:-1], lengths)
        source = place + torch.repeat_interleave(start, lengths)
        first = torch.repeat_interleave(self.first.long(), lengths)
        wanted = (place + 1 >= first) & (later[source + 1] > 0)
        return replace(
            self,
            items=Ragged(offsets, history.values[source]),
            following=history.values[source + 1] * wanted,
            age=torch.zeros(len(source)) if ages is None else ages[source + 1],
            negative=torch.zeros(len(source), 0, dtype=torch.int64),
        )

    @property
    def entry_row(self) -> Tensor:
        """int64 (E,): the number of each entry in the epoch, the same on any number of ranks."""
        lengths = self.items.offsets.diff()
        place = torch.arange(len(self.items.values), device=self.row.device)
        place = place - torch.repeat_interleave(self.items.offsets[:-1], lengths)
        return (torch.repeat_interleave(self.row, lengths) << _PLACES) + place

    def positives(self) -> tuple[Tensor, Tensor]:
        return torch.repeat_interleave(self.user, self.items.offsets.diff()), self.entry_row

    def take(self, index: Tensor) -> Windows:
        """Shared negatives stay: they are those of the whole step."""
        items, entries = self.items.take(index)
        rows = {name: getattr(self, name)[index] for name in ("user", "first", "last", "row")}
        return replace(
            self,
            items=items,
            following=self.following[entries],
            age=self.age[entries],
            negative=self.negative[entries],
            **rows,
        )

    def beside(self, negative: Tensor) -> Windows:
        return replace(self, negative=negative)

    def sharing(self, shared: Tensor, log_expected: Tensor) -> Windows:
        return replace(self, shared=shared, log_expected=log_expected)

    def describe(self, number: int) -> str:
        places = f"places {int(self.first[number])} to {int(self.last[number]) - 1}"
        return f"{super().describe(number)[:-1]}, {places} of its history)"
