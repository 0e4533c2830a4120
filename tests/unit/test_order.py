"""The order of rows: every row once, the same global steps on any number of ranks, resumable
anywhere. Pure arithmetic, no files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import floor, log2

import numpy as np
import pytest

from recsys_spark.train.data.order import Order, interleave

V = 64
DEALT = {  # shards whose rows differ by at most one, as exported
    "one row each": [(1,)] * V,
    "equal": [(8, 8, 5)] * V,
    "some one longer": [(8, 8, 5 + (v < 13)) for v in range(V)],
    "many windows": [(4,) * 20 + (2,)] * V,
    "few rows": [(1,) if v < 5 else () for v in range(V)],
}
UNEVEN = {
    "empty ones between": [(7, 7, 3) if v % 3 else () for v in range(V)],
    "one huge": [(1,)] * 40 + [(16,) * 30] + [()] * 23,
    "all sizes": [tuple([5] * (v % 7) + [v % 4 + 1]) for v in range(V)],
}
SHARDS = DEALT | UNEVEN


def epoch_of(order: Order, epoch: int = 0, start: int = 0) -> list[list[tuple[int, int, int]]]:
    """What a reader does, row by row: the (virtual shard, row group, row in it) of every step from
    `start`, in the order of the batch.
    """
    stream: dict[tuple[int, int], tuple[int, int, int]] = {}
    needed: dict[tuple[int, int], int] = {}
    for window in order.windows(epoch, start):
        read = [
            (window.shard, group, row)
            for group in window.groups
            for row in range(order.groups[window.shard][group])
        ]
        for position, source in enumerate(order.permutation(epoch, window)):
            stream[window.shard, window.start + position] = read[source]
            needed[window.shard, window.start + position] = window.step
    bounds = order.bounds(start, order.steps)
    place = {int(shard): column for column, shard in enumerate(order.filled)}
    found = []
    for step in range(order.steps - start):
        rows = [
            (v, p)
            for v in map(int, order.filled[order.owned])
            for p in range(bounds[step, place[v]], bounds[step + 1, place[v]])
        ]
        assert all(needed[row] <= start + step for row in rows), (
            "a window comes after the step that needs it"
        )
        found.append([stream[row] for row in rows])
    return found


def flat(steps: list[list[tuple[int, int, int]]]) -> list[tuple[int, int, int]]:
    return [row for step in steps for row in step]


def all_rows(groups: list[tuple[int, ...]]) -> Counter[tuple[int, int, int]]:
    return Counter(
        (v, group, row)
        for v, counts in enumerate(groups)
        for group, count in enumerate(counts)
        for row in range(count)
    )


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 10**6])
def test_every_row_comes_once_an_epoch_on_any_number_of_ranks(name: str, batch_size: int) -> None:
    groups = SHARDS[name]
    alone = Order(groups, batch_size, seed=1, window=3)
    expected = epoch_of(alone)
    assert Counter(flat(expected)) == all_rows(groups)
    assert len(expected) == alone.steps == -(-sum(map(sum, groups)) // batch_size)
    for num_ranks in (2, 4, 8, 64):
        ranks = [
            epoch_of(replace(alone, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)
        ]
        assert {len(steps) for steps in ranks} == {alone.steps}
        for step, rows in enumerate(expected):
            together = [row for steps in ranks for row in steps[step]]
            assert len(together) == len(rows) and set(together) == set(rows)


@pytest.mark.parametrize("name", SHARDS)
def test_bounds_are_the_definition_in_exact_fractions(name: str) -> None:
    order = Order(SHARDS[name], 50, seed=0)
    shards = len(order.filled)
    bounds = order.bounds(0, order.steps)
    for column, v in enumerate(map(int, order.filled)):
        n, k = sum(order.groups[v]), int(order._places[column])
        steps = [floor(order.steps * (p + Fraction(2 * k + 1, 2 * shards)) / n) for p in range(n)]
        assert bounds[:, column].tolist() == [
            sum(step < s for step in steps) for s in range(order.steps + 1)
        ]
        assert [order.step_of(v, p) for p in range(n)] == steps
    assert sorted(order._places) == list(range(shards))


def test_bounds_stay_exact_for_a_hundred_billion_rows() -> None:
    order = Order([(10**9,) * 2 + (v,) for v in range(V)], 256, seed=0)
    bounds = order.bounds(order.steps - 2, order.steps)
    assert bounds[-1].tolist() == [sum(groups) for groups in order.groups]
    for column in (0, 17, 63):
        first = int(bounds[1, column])
        assert (
            order.step_of(column, first) == order.steps - 1
            and order.step_of(column, first - 1) == order.steps - 2
        )


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50, 64, 100, 333])
@pytest.mark.parametrize("name", SHARDS)
def test_steps_have_equal_sizes_within_the_stated_bound(name: str, batch_size: int) -> None:
    order = Order(SHARDS[name], batch_size, seed=0)
    sizes = np.diff(order.bounds(0, order.steps).sum(axis=1))
    off = np.abs(sizes - order.rows / order.steps).max()
    shards = len(order.filled)
    assert off < shards
    if name in DEALT:
        assert off <= log2(shards) + 1
    if len({sum(groups) for groups in order.groups}) == 1:
        assert off < 1


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_resuming_at_any_step_gives_exactly_the_rest(name: str, num_ranks: int) -> None:
    for rank in {0, num_ranks - 1}:
        order = Order(SHARDS[name], 40, seed=5, window=2, rank=rank, num_ranks=num_ranks)
        whole = epoch_of(order, epoch=3)
        for start in range(order.steps + 1):
            assert epoch_of(order, epoch=3, start=start) == whole[start:]


def test_resuming_reads_no_window_that_is_over() -> None:
    order = Order([(10,) * 20] * V, 640, seed=0, window=2)  # 20 steps, 10 rows of each shard a step
    # Half the shards start with one group, half with two
    assert len(order.windows(0)) == 64 * 10 + 32
    assert len(order.windows(0, 19)) == 64
    assert order.windows(0, order.steps) == []


def test_epoch_and_seed_change_the_order_and_nothing_else_does() -> None:
    order = Order(SHARDS["many windows"], 100, seed=0)
    first = epoch_of(order)
    assert epoch_of(replace(order)) == first
    assert epoch_of(order, epoch=1) != first and epoch_of(replace(order, seed=1)) != first
    # The rows of a shard come in one order, whatever the size of a step or the number of ranks.
    streams = [
        [
            row
            for row in flat(epoch_of(replace(order, batch_size=size, rank=0, num_ranks=ranks)))
            if row[0] == 0
        ]
        for size, ranks in ((100, 1), (7, 1), (33, 8))
    ]
    assert streams[0] == streams[1] == streams[2]


def test_rows_are_shuffled_within_a_window_and_row_groups_within_the_shard() -> None:
    order = Order([(50,) * 8], 100, seed=0, window=4)
    rows = flat(epoch_of(order))
    first, rest = order.windows(0)[0], order.windows(0)[1:]
    # A short first window, see the module
    assert [len(window.groups) for window in (first, *rest)] == [
        1,
        4,
        3,
    ]
    assert sorted(group for window in (first, *rest) for group in window.groups) == list(range(8))
    assert {group for _, group, _ in rows[50:250]} == set(rest[0].groups)
    assert len({group for _, group, _ in rows[50:90]}) == 4  # mixed, not one after the other
    assert [row for _, _, row in rows[:50]] != list(range(50))


def test_shards_of_several_windows_do_not_end_them_together() -> None:
    order = Order([(16,) * 40] * V, 1024, seed=0, window=8)
    begun = Counter(window.step for window in order.windows(0) if window.number)
    # An eighth of the shards at a time, not all of them
    assert max(begun.values()) <= V // 8 + V // 16


def test_interleave_by_hand() -> None:
    # Shard 2 gives rows 5, 6 | 7 and shard 9 gives row 0 | 1, 2 to two steps; they lie as
    # [5, 6, 7] + [0, 1, 2].
    made = interleave(np.array([2, 9]), np.array([[5, 0], [7, 1], [8, 3]]))
    assert made.source.tolist() == [0, 1, 3, 2, 4, 5]
    assert [(row >> 32, row & 0xFFFFFFFF) for row in made.row.tolist()] == [
        (2, 5),
        (2, 6),
        (9, 0),
        (2, 7),
        (9, 1),
        (9, 2),
    ]
    assert made.starts.tolist() == [0, 3, 6]
