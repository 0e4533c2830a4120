"""Top k: against a plain sort, with ties, blocks, short catalogues and broken scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core.errors import RecsysError
from recsys_spark.scoring import dot
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.topk import TopK, rows_of, select, tie_hash, top_k


def seen_of(lists: list[list[int]]) -> Ragged:
    lengths = torch.tensor([0] + [len(one) for one in lists])
    return Ragged(
        lengths.cumsum(0), torch.tensor([item for one in lists for item in one], dtype=torch.int32)
    )


def by_sorting(
    scores: Tensor, query: Tensor, seen: list[list[int]], k: int, seed: int
) -> list[list[int]]:
    """The definition, slowly."""
    columns = torch.arange(scores.shape[1]).expand(len(scores), -1)
    ties = tie_hash(query, columns, seed)
    found = []
    for row, left_out in enumerate(seen):
        items = [
            i
            for i in range(1, scores.shape[1])
            if i not in left_out and scores[row, i] > -torch.inf
        ]
        items.sort(key=lambda i: (-scores[row, i].item(), -ties[row, i].item()))
        found.append((items + [0] * k)[:k])
    return found


@pytest.mark.parametrize("levels", [1, 3, 1000])  # all equal, many ties, hardly any
@pytest.mark.parametrize("k", [1, 7, 40])  # 40: more than there are items
def test_it_is_the_sorted_catalogue_without_the_seen(levels: int, k: int) -> None:
    draw = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (60, 31), generator=draw).float()
    scores[5, 10:20] = -torch.inf  # never
    seen = [torch.randperm(30, generator=draw)[: n % 31].add(1).tolist() for n in range(60)]
    query = torch.arange(60) * 7
    found = top_k(scores.clone(), query, seen_of(seen), k, seed=3)
    wanted = by_sorting(scores, query, seen, k, seed=3)
    assert found.items.tolist() == wanted and found.items.dtype == torch.int32
    for row, items in enumerate(wanted):
        assert found.scores[row].tolist() == [scores[row, i].item() if i else 0.0 for i in items]


def test_constant_scores_earn_what_random_order_earns() -> None:
    """One target among 50 items, 10 recommended: hit rate 1/5, whichever the target is; the
    neighbours of a place are no luckier.
    """
    found = top_k(torch.ones(20_000, 51), torch.arange(20_000), None, 10, seed=1).items
    for target in (1, 25, 50):
        rate = (found == target).any(dim=1).double().mean().item()
        assert abs(rate - 0.2) < 4 * (0.2 * 0.8 / 20_000) ** 0.5
    first = torch.bincount(found[:, 0].long(), minlength=51)[1:].double()
    assert (
        (first - 400).square() / 400
    ).sum() < 90  # chi-square with 49 degrees: 90 has a probability below 0.001
    other = top_k(torch.ones(20_000, 51), torch.arange(20_000), None, 10, seed=2).items
    # Another seed, another order
    assert abs((found[:, 0] == other[:, 0]).double().mean().item() - 0.02) < 0.005


def test_neither_the_block_nor_its_other_rows_change_a_list() -> None:
    scores = torch.randint(4, (40, 25), generator=torch.Generator().manual_seed(0)).float()
    query = torch.arange(40) + 100
    whole = top_k(scores.clone(), query, None, 6, seed=9)
    for rows in (torch.tensor([3]), torch.arange(39, -1, -1), torch.arange(10, 30)):
        part = top_k(scores[rows].clone(), query[rows], None, 6, seed=9)
        assert torch.equal(part.items, whole.items[rows]) and torch.equal(
            part.scores, whole.scores[rows]
        )


def test_nan_is_refused_by_name() -> None:
    scores = torch.zeros(3, 30)
    scores[1, 4] = torch.nan
    with pytest.raises(
        RecsysError,
        match=r"scores of neumf for query 12: found NaN; expected numbers.*To mend: .*learning "
        r"rate",
    ):
        top_k(scores, torch.tensor([11, 12, 13]), None, 5, seed=0, model="neumf")


def integer_factors(queries: int, items: int, dim: int, span: int) -> tuple[Tensor, Tensor]:
    """Small integers: every product and sum is exact, in bfloat16 inputs and in any order of
    adding.
    """
    draw = torch.Generator().manual_seed(items)
    return (
        torch.randint(-span, span + 1, (queries, dim), generator=draw).float(),
        torch.randint(-span, span + 1, (items + 1, dim), generator=draw).float(),
    )


# All at once; and by groups, the last block not full
@pytest.mark.parametrize("items", [500, 8192, 12_345])
# Few ties; 27 different items, so that ties abound
@pytest.mark.parametrize(("dim", "span"), [(16, 30), (3, 1)])
def test_the_dot_index_is_the_whole_product_sorted(items: int, dim: int, span: int) -> None:
    vectors, table = integer_factors(300, items, dim, span)
    bias = torch.randint(-9, 9, (items + 1,), generator=torch.Generator().manual_seed(1)).float()
    draw = np.random.default_rng(0)
    seen = seen_of(
        [[int(i) for i in draw.choice(items, n % 200, replace=False) + 1] for n in range(300)]
    )
    query = torch.arange(300)
    for added in (None, bias):
        whole = vectors @ table.T if added is None else vectors @ table.T + added
        wanted = top_k(whole, query, seen, 10, seed=4)
        found = DotIndex(table, added).top_k(vectors, query, seen, 10, seed=4)
        assert torch.equal(found.items, wanted.items) and torch.equal(found.scores, wanted.scores)


@pytest.mark.parametrize("half", [False, True])
def test_each_way_of_the_dot_index_proves_what_it_says(
    half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real-valued factors with a few items of great norm; the group way alone, whose `sure` rows
    must be right.
    """
    monkeypatch.setattr(dot, "_has_bfloat16", lambda: True)
    draw = torch.Generator().manual_seed(2)
    table = (
        torch.randn(20_001, 24, generator=draw) * torch.rand(20_001, 1, generator=draw).pow(3) * 5
    )
    vectors = torch.randn(256, 24, generator=draw)
    index = DotIndex(table)
    found, sure = index._grouped(vectors, torch.arange(256), None, 10, 1, half=half)
    wanted = top_k(vectors.double() @ table.double().T, torch.arange(256), None, 10, 1)
    assert sure.double().mean() > 0.9
    assert torch.equal(found.items[sure], wanted.items[sure])
    assert (found.scores[sure] - wanted.scores[sure]).abs().max() < 1e-4
    everyone: TopK = index.top_k(vectors, torch.arange(256), None, 10, 1)
    assert torch.equal(everyone.items, wanted.items)


def test_queries_near_the_end_of_a_large_catalogue_are_padded() -> None:
    table = torch.ones(9001, 2)
    seen = [list(range(1, 8998)), list(range(1, 9001)), []]
    found = DotIndex(table).top_k(torch.ones(3, 2), torch.arange(3), seen_of(seen), 5, seed=0)
    assert (
        sorted(found.items[0].tolist()) == [0, 0, 8998, 8999, 9000]
        and found.items[1].tolist() == [0] * 5
    )
    assert (found.items[2] > 0).all() and found.scores[0].tolist() == [2.0, 2.0, 2.0, 0.0, 0.0]


def test_factors_that_are_not_finite_are_refused() -> None:
    table, vectors = torch.ones(10, 2), torch.ones(3, 2)
    table[7, 1] = torch.inf
    with pytest.raises(
        RecsysError,
        match=r"item vectors of als: found a value that is not finite at item 7; expected numbers",
    ):
        DotIndex(table, model="als")
    vectors[2, 0] = torch.nan
    with pytest.raises(
        RecsysError, match=r"vectors of als: found a value that is not finite for query 42"
    ):
        DotIndex(torch.ones(10, 2), model="als").top_k(
            vectors, torch.tensor([40, 41, 42]), None, 3, seed=0
        )


def test_rows_of_a_csr() -> None:
    indptr, indices = np.array([0, 0, 2, 2, 5]), np.array([4, 9, 1, 2, 3], dtype=np.int32)
    found = rows_of(indptr, indices, np.array([3, 1, 0, 7, 2]))  # 7 lies beyond the CSR
    assert found.offsets.tolist() == [0, 3, 5, 5, 5, 5] and found.values.tolist() == [1, 2, 3, 4, 9]
    again = select(found, torch.tensor([1, 0]))
    assert again.offsets.tolist() == [0, 2, 5] and again.values.tolist() == [4, 9, 1, 2, 3]


def test_all_rows_in_another_order_are_not_the_list_as_it_is() -> None:
    lists = Ragged(torch.tensor([0, 2, 2, 5]), torch.arange(5, dtype=torch.int32))
    turned = select(lists, torch.tensor([2, 0, 1]))
    assert turned.offsets.tolist() == [0, 3, 5, 5] and turned.values.tolist() == [2, 3, 4, 0, 1]
    assert select(lists, torch.arange(3)) is lists
