"""The best k items of each query: one seen filter and one tie rule for every model and baseline.

Order: higher score first; equal scores by a hash of (seed, query, item). So constant scores get the
metrics of a random order, and the result depends neither on the size of a block nor on the position
of an item in it. Column 0 (padding) and seen items never appear; a query with fewer than k items
left is padded with item 0 and score 0. A score of -inf means "never".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from recsys_spark.batches.base import Ragged
from recsys_spark.core.errors import RecsysError
from recsys_spark.nn import noise

# cells (query, item) hashed at once when a tie extends beyond the k-th position: 32 MB
_TIES_CELLS = 1 << 22


class TopK(NamedTuple):
    items: Tensor  # int32 (B, K), 0 where no item is left
    scores: Tensor  # float32 (B, K)


def rows_of(indptr: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> Ragged:
    """The given rows of a CSR (a `seen` or `targets` side file), by query_idx. Rows beyond the CSR
    are empty.
    """
    inside = np.minimum(rows, len(indptr) - 2)
    starts, ends = indptr[inside], indptr[inside + 1]
    lengths = np.where(rows < len(indptr) - 1, ends - starts, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Ragged(
        torch.from_numpy(offsets), torch.from_numpy(np.asarray(indices[entries], dtype=np.int32))
    )


def select(lists: Ragged, rows: Tensor) -> Ragged:
    """The given rows of a CSR, in their order."""
    count = len(lists.offsets) - 1
    if len(rows) == count and torch.equal(rows, torch.arange(count)):
        return lists
    lengths = lists.offsets.diff()[rows]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    start = torch.repeat_interleave(lists.offsets[rows] - offsets[:-1], lengths)
    return Ragged(offsets, lists.values[start + torch.arange(len(start))])


def top_k(
    scores: Tensor, query: Tensor, seen: Ragged | None, k: int, seed: int, model: str = "model"
) -> TopK:
    """The k best columns of each row. `scores` (B, I + 1) is overwritten at column 0 and at the
    seen items.

    query: (B,) query numbers that break ties (query_idx). Raises RecsysError when a
    score is NaN.

    >>> scores = torch.tensor([[9.0, 0.5, 0.8, 0.3]])  # column 0 is padding; items 1 to 3
    >>> seen = Ragged(torch.tensor([0, 1]), torch.tensor([2]))  # the query knows item 2
    >>> top_k(scores, torch.tensor([7]), seen, k=3, seed=1).items.tolist()  # then nothing is left
    [[1, 3, 0]]
    """
    scores[:, 0] = -torch.inf
    if seen is not None:
        rows = torch.repeat_interleave(
            torch.arange(len(scores), device=scores.device), seen.offsets.diff()
        )
        scores[rows, seen.values.long()] = -torch.inf
    columns = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    return top_k_of(scores, columns, query, k, seed, model)


def top_k_of(
    scores: Tensor, items: Tensor, query: Tensor, k: int, seed: int, model: str = "model"
) -> TopK:
    """The k best of each query's own candidates: scores (B, C) float, their items (B, C). No seen
    filter is applied.
    """
    if scores.shape[1] <= k:
        missing = (0, k + 1 - scores.shape[1])
        scores, items = pad(scores, missing, value=-torch.inf), pad(items, missing)
    # (B, K + 1); torch.topk ranks NaN as the largest value, so any NaN is among them
    best, columns = torch.topk(scores, k + 1)
    _refuse_nan(best, query, model)
    tied = (best[:, k - 1] == best[:, k]) & (best[:, k] > -torch.inf)
    best, columns = best[:, :k].contiguous(), columns[:, :k].contiguous()
    if tied.any():
        for part in tied.nonzero()[:, 0].split(max(1, _TIES_CELLS // scores.shape[1])):
            columns[part] = _with_ties(
                scores[part], items[part], best[part, -1:], query[part], seed, k
            )
            best[part] = scores[part].gather(1, columns[part])
    best, chosen = in_order(best, items.gather(1, columns), query, seed)
    return _padded(best, chosen)


def in_order(scores: Tensor, items: Tensor, query: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows sorted by (score descending, hash): (B, C) each."""
    scores, order = scores.sort(dim=1, descending=True)
    items = items.gather(1, order)
    equal = (scores[:, 1:] == scores[:, :-1]).any(dim=1).nonzero()[:, 0]
    if len(equal):
        by_hash = tie_hash(query[equal], items[equal], seed).sort(dim=1, descending=True).indices
        scores_equal = scores[equal].gather(1, by_hash)
        items_equal = items[equal].gather(1, by_hash)
        order = scores_equal.sort(dim=1, descending=True, stable=True).indices
        items[equal] = items_equal.gather(1, order)
    return scores, items


def tie_hash(query: Tensor, items: Tensor, seed: int) -> Tensor:
    """int64 (B, C) below 2**62, cut from a hash that differs for any two items of a query."""
    start = noise.mix(query.long() * _ODD + noise.key(seed, "ties"))
    return noise.mix(start[:, None] + items.long() * _ODD) >> 1


_ODD = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, odd: multiplying by it is a bijection


def _with_ties(
    scores: Tensor, items: Tensor, kth: Tensor, query: Tensor, seed: int, k: int
) -> Tensor:
    """The k best columns when the k-th score is tied: all columns above it, and the tied columns
    with the largest hash.
    """
    rank = tie_hash(query, items, seed)
    rank[scores > kth] = torch.iinfo(torch.int64).max
    rank[scores < kth] = torch.iinfo(torch.int64).min
    return torch.topk(rank, k).indices


def _padded(scores: Tensor, items: Tensor) -> TopK:
    empty = scores == -torch.inf
    return TopK(items.masked_fill(empty, 0).int(), scores.masked_fill(empty, 0.0).float())


def _refuse_nan(best: Tensor, query: Tensor, model: str) -> None:
    broken = best.isnan().any(dim=1)
    if broken.any():
        raise RecsysError(
            f"scores of {model} for query {int(query[broken][0])}",
            found="NaN",
            expected="numbers",
            remedy="the model has diverged: lower its learning rate, or take an earlier checkpoint",
        )
