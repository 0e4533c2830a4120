"""Negatives: never a seen item, uniform over the rest, the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.train.feed.negatives import Negatives, Seen

ITEMS = 20


def _csr(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """lists[u] are the items of user u; lists[0] is padding's."""
    return np.cumsum([0, *map(len, lists)]).astype(np.int64), np.array(
        sum(lists, []), dtype=np.int32
    )


def _positives(users: list[int]) -> Rows:
    size = len(users)
    user, item = torch.tensor(users, dtype=torch.int32), torch.ones(size, dtype=torch.int32)
    return Rows(
        user,
        item,
        torch.full((size,), 5.0),
        torch.full((size,), 2.0),
        torch.arange(size) * 2**32 + 7,
    )


def _beside(
    negatives: Negatives, batch: Rows | Pairs, epoch: int = 0, step: int = 0
) -> Rows | Pairs:
    ((_, made),) = negatives.ahead([(0, batch)], epoch, step)
    return made


@pytest.fixture(params=[1 << 20, 0], ids=["bitmap", "search"])
def seen(request: pytest.FixtureRequest) -> Seen:
    # User 1 has seen a few, 2 all but item 13, 3 nothing, 4 everything.
    lists = [
        [],
        [1, 2, 3, 19, 20],
        [i for i in range(1, ITEMS + 1) if i != 13],
        [],
        list(range(1, ITEMS + 1)),
    ]
    return Seen(*_csr(lists), ITEMS, bitmap_bytes=request.param)


def test_membership(seen: Seen) -> None:
    items = torch.arange(1, ITEMS + 1)
    found = {
        user: items[seen.has(torch.full_like(items, user), items)].tolist() for user in (1, 2, 3, 4)
    }
    assert found == {
        1: [1, 2, 3, 19, 20],
        2: [*range(1, 13), *range(14, 21)],
        3: [],
        4: list(range(1, 21)),
    }


def test_never_a_seen_item_unless_all_are(seen: Seen) -> None:
    drawn = Negatives(seen, 50, seed=1).draw(
        torch.tensor([1, 2, 3, 4] * 20), torch.arange(80), epoch=0, step=0
    )
    assert set(drawn[0::4].flatten().tolist()) == set(range(4, 19))
    assert set(drawn[1::4].flatten().tolist()) == {13}
    assert (
        set(drawn[2::4].flatten().tolist())
        == set(range(1, 21))
        == set(drawn[3::4].flatten().tolist())
    )


@pytest.mark.parametrize(("user", "allowed"), [(1, 15), (3, 20), (4, 20)])
def test_uniform_over_what_is_left(seen: Seen, user: int, allowed: int) -> None:
    draws = (
        Negatives(seen, 4, seed=2)
        .draw(torch.full((30_000,), user), torch.arange(30_000), 3, 4)
        .flatten()
    )
    counts = torch.bincount(draws, minlength=ITEMS + 1).double()
    counts = counts[counts > 0]
    expected = 120_000 / allowed
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert len(counts) == allowed
    assert chi_square < 45.3, "beyond the 0.1 % quantile for 20 degrees of freedom"


def test_nearly_everything_seen_stays_uniform() -> None:
    # 998 of 1000 seen: hardly any draw is accepted, so the list of unseen items decides.
    left = {400, 900}
    lists = [[], [i for i in range(1, 1001) if i not in left]]
    draws = Negatives(Seen(*_csr(lists), 1000), 4, seed=2).draw(
        torch.ones(500, dtype=torch.long), torch.arange(500), 0, 0
    )
    counts = torch.bincount(draws.flatten(), minlength=1001)
    assert counts[400] + counts[900] == 2000
    assert abs(int(counts[400]) - 1000) < 4 * 500**0.5


def test_same_draws_whatever_the_batch(seen: Seen) -> None:
    users, rows = torch.tensor([1, 2, 3, 4] * 25), torch.randperm(100)
    negatives = Negatives(seen, 4, seed=3)
    whole = negatives.draw(users, rows, 1, 2)
    half = torch.arange(100) % 4 >= 2
    assert torch.equal(whole[half], negatives.draw(users[half], rows[half], 1, 2))
    assert not torch.equal(whole, negatives.draw(users, rows, 1, 3))
    assert not torch.equal(whole, negatives.draw(users, rows, 2, 2))
    assert not torch.equal(whole, Negatives(seen, 4, seed=4).draw(users, rows, 1, 2))


def test_rows_of_a_batch(seen: Seen) -> None:
    made = _beside(Negatives(seen, 2, seed=1), _positives([1, 2]))
    assert made.user.tolist() == [1, 1, 1, 2, 2, 2]
    assert made.item[[0, 3]].tolist() == [1, 1] and made.item[[4, 5]].tolist() == [13, 13]
    assert made.label.tolist() == [1, 0, 0, 1, 0, 0]
    assert made.weight.tolist() == [2, 1, 1, 2, 1, 1]
    assert made.row.tolist() == [21, 22, 23, 3 * 2**32 + 21, 3 * 2**32 + 22, 3 * 2**32 + 23], (
        "each row has a number of its own"
    )
    assert made.user.dtype == made.item.dtype == torch.int32


def test_pairs_keep_their_rows_and_get_negatives_beside_them(seen: Seen) -> None:
    rows = _positives([1, 2])
    pairs = Pairs(rows.user, rows.item, torch.empty(2, 0, dtype=torch.int64), rows.row)
    negatives = Negatives(seen, 2, seed=1)
    made = _beside(negatives, pairs)
    assert torch.equal(made.negative, negatives.draw(rows.user, rows.row, 0, 0)) and made.negative[
        1
    ].tolist() == [13, 13]
    assert (made.user.tolist(), made.item.tolist(), made.row.tolist()) == (
        [1, 2],
        [1, 1],
        rows.row.tolist(),
    )


def test_empty_batch(seen: Seen) -> None:
    assert len(_beside(Negatives(seen, 3, seed=1), _positives([]))) == 0


def test_drawn_ahead_or_step_by_step(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of several sizes, an empty one among them, in any number of draws: each step's
    numbers are its own.
    """
    batches = [
        (number, _positives([1, 2, 3, 4] * size)) for number, size in enumerate((3, 0, 1, 5, 2))
    ]
    negatives = Negatives(seen, 3, seed=5)
    for rows in (1, 14, 1 << 15):
        monkeypatch.setattr("recsys_spark.train.feed.negatives.AHEAD_ROWS", rows)
        made = list(negatives.ahead(iter(batches), 2, 7))
        assert [number for number, _ in made] == [0, 1, 2, 3, 4]
        for (number, batch), (_, given) in zip(made, batches, strict=True):
            assert torch.equal(
                batch.item.view(-1, 4)[:, 1:],
                negatives.draw(given.user, given.row, 2, 7 + number).int(),
            )
