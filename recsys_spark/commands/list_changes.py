"""Popularity of recommended items and changes for users between runs, counted in memory: of the
evaluated users the held-out events and the lists, of all others nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys_spark.core import columns as c
from recsys_spark.core import seeds, xxh64
from recsys_spark.report.content import Change, Counted

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """Users and items as numbers. users, items: their ids, by number; events: of each item those
    of training, held: the held-out ones; places: {run: item number of each place}, pairs: {run:
    each (user, item) of its lists once, as user * items + item}; hits: (runs, users) whether a
    run's list has a held-out event of the user, by an item whose score is a number.
    """

    users: list[str]
    items: list[str]
    events: Numbers
    held: Numbers
    places: dict[str, Numbers]
    pairs: dict[str, Numbers]
    hits: NDArray[np.bool_]

    @classmethod
    def of(cls, train: Mapping[str, int], held: pa.Table, lists: Mapping[str, pa.Table]) -> Listed:
        """train: {item: events}; held: query_id and item_id; lists: {run: these and the score}, of
        which the lists of users with nothing held out are left out.
        """
        users = pc.unique(held.column(c.QUERY_ID))
        inside = {
            run: rows.filter(pc.is_in(rows.column(c.QUERY_ID), users))
            for run, rows in lists.items()
        }
        of_rows = [rows.column(c.ITEM_ID) for rows in (held, *inside.values())]
        items = pc.unique(
            pa.chunked_array(
                [
                    pa.array(train, pa.string()),
                    *(chunk.cast(pa.string()) for ids in of_rows for chunk in ids.chunks),
                ],
                pa.string(),
            )
        )
        events = np.zeros(len(items), np.int64)
        events[_numbers(pa.array(train, pa.string()), items)] = list(train.values())
        held_items = _numbers(held.column(c.ITEM_ID), items)
        held_pairs = _numbers(held.column(c.QUERY_ID), users) * len(items) + held_items
        places, pairs = {}, {}
        hits = np.zeros((len(lists), len(users)), np.bool_)
        for row, (run, listed) in enumerate(inside.items()):
            places[run] = _numbers(listed.column(c.ITEM_ID), items)
            own = _numbers(listed.column(c.QUERY_ID), users) * len(items) + places[run]
            scored = ~np.isnan(listed.column(c.SCORE).to_numpy())
            hits[row, own[scored & np.isin(own, held_pairs)] // max(len(items), 1)] = True
            pairs[run] = np.unique(own)
        held_counts = np.bincount(held_items, minlength=len(items))
        return cls(users.to_pylist(), items.to_pylist(), events, held_counts, places, pairs, hits)

    def popularity(self) -> tuple[Counted, ...]:
        """For each number of training events: items, held-out events, and places in the lists of
        each run.
        """
        levels, level = np.unique(self.events, return_inverse=True)
        items = np.bincount(level, minlength=len(levels))
        held = np.bincount(level, self.held, len(levels)).astype(int)
        shown = {
            run: np.bincount(level[at], minlength=len(levels)) for run, at in self.places.items()
        }
        return tuple(
            Counted(
                int(events),
                int(items[row]),
                int(held[row]),
                {run: int(counts[row]) for run, counts in shown.items()},
            )
            for row, events in enumerate(levels)
        )

    def differing(self) -> list[str]:
        """Users for whom at least one run hits and another does not."""
        hit_by = self.hits.sum(axis=0)
        chosen = np.flatnonzero((hit_by > 0) & (hit_by < len(self.hits)))
        return [self.users[user] for user in chosen]

    def changes(self, reference: str) -> tuple[Change, ...]:
        """Changes of each run against the reference, in the order of the runs."""
        runs = list(self.places)
        base = self.hits[runs.index(reference)]
        return tuple(
            Change(
                run_id=run,
                both=int((own & base).sum()),
                gained=int((own & ~base).sum()),
                lost=int((base & ~own).sum()),
                neither=int((~own & ~base).sum()),
                shared=len(np.intersect1d(self.pairs[run], self.pairs[reference], True))
                / max(len(self.users), 1),
            )
            for run, own in zip(runs, self.hits, strict=True)
            if run != reference
        )


def draw(users: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` pseudo-random users: the first in the order of a hash of (seed, user)."""
    salt = seeds.derive(seed, "example users")
    return heapq.nsmallest(count, users, key=lambda user: (xxh64.of(salt, user), user))


def _numbers(ids: pa.Array | pa.ChunkedArray, known: pa.Array) -> Numbers:
    """Places of ids among the known ones, of which each is one."""
    return pc.index_in(ids, value_set=known).to_numpy(zero_copy_only=False).astype(np.int64)
