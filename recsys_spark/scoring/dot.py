"""Top k of dot products over a large catalogue, exact, without sorting the catalogue for every
query.

Scores are computed for one block of queries and one block of items at a time (the product fits the
cache), and only the maximum of each group of 8 items is kept. The best k items lie in the groups
with the largest maxima, so slightly more than k groups per query are scored again, in float32, and
sorted. The first product uses bfloat16 where the processor supports it (twice as fast). Its error
is bounded by norms (Cauchy-Schwarz inequality). A query whose chosen groups are not proved
sufficient is computed again by the next, more exact method: bfloat16, float32, then all scores. So
the result equals that of `top_k` over all scores, whatever the block sizes. Memory in addition to
the factors (stored two and a half times): at most 512 * items + 70 MB; 120 MB for 100,000 items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_spark.batches.base import Ragged
from recsys_spark.core.errors import RecsysError
from recsys_spark.scoring.topk import TopK, select, top_k, top_k_of

# items per group, represented by their maximum: a smaller group means more maxima to sort, a larger
# one more items to score again
_GROUP = 8
# items per block, a multiple of _GROUP: 512 queries x 2048 items x 4 bytes stream through a 1 MB
# cache
_BLOCK = 2048
_ROWS = 512  # queries per block
_CELLS = 1 << 23  # elements of a temporary tensor: 32 MB (fewer queries per block when k is large)
_DENSE = (
    8192  # catalogues up to this size are scored whole: sorting is cheaper than choosing groups
)


class DotIndex:
    """score(query, i) = vector . items[i] + bias[i]; `items` (I + 1, D) float32, row 0 is
    padding.
    """

    def __init__(self, items: Tensor, bias: Tensor | None = None, model: str = "model") -> None:
        # (I + 1, D or D + 1)
        items = items if bias is None else torch.cat([items, bias[:, None]], dim=1)
        if not items.isfinite().all():
            raise RecsysError(
                f"item vectors of {model}",
                found=f"a value that is not finite at item {_first_bad(items)}",
                expected="numbers",
                remedy="train it again with more regularisation or a lower learning rate",
            )
        self.model, self.biased, self.num_columns = model, bias is not None, len(items)
        self.items = items.float().contiguous()
        if self.num_columns > _DENSE:
            self._prepare()

    def _prepare(self) -> None:
        blocks = -(-self.num_columns // _BLOCK)
        self.items = torch.nn.functional.pad(
            self.items, (0, 0, 0, blocks * _BLOCK - self.num_columns)
        )
        # Column order inside a block: j * (groups of the block) + group, so that the maximum over j
        # reads contiguous memory.
        dim = self.items.shape[1]
        self.blocked = (
            self.items.view(blocks, _BLOCK // _GROUP, _GROUP, dim)
            .transpose(1, 2)
            .reshape(blocks, _BLOCK, dim)
        )
        self.norm = float(self.items.norm(dim=1).max())
        self.half = _has_bfloat16()
        if self.half:
            self.blocked_half = self.blocked.bfloat16()
            self.rounding = float((self.blocked - self.blocked_half.float()).norm(dim=2).max())

    def top_k(self, vectors: Tensor, query: Tensor, seen: Ragged | None, k: int, seed: int) -> TopK:
        """Args: vectors (B, D); query (B,), the query numbers that break ties; seen, B rows of
        item indices to leave out.
        """
        if self.biased:
            vectors = torch.cat([vectors, torch.ones(len(vectors), 1)], dim=1)
        rows = max(1, min(_ROWS, _CELLS // (2 * k * _GROUP * self.items.shape[1])))
        blocks = [
            self._block(
                vectors[start : start + rows],
                query[start : start + rows],
                _part(seen, start, start + rows),
                k,
                seed,
            )
            for start in range(0, len(vectors), rows)
        ]
        return TopK(
            torch.cat([part.items for part in blocks]), torch.cat([part.scores for part in blocks])
        )

    def _block(
        self, vectors: Tensor, query: Tensor, seen: Ragged | None, k: int, seed: int
    ) -> TopK:
        if not vectors.isfinite().all():
            raise RecsysError(
                f"vectors of {self.model}",
                found=f"a value that is not finite for query {int(query[_first_bad(vectors)])}",
                expected="numbers",
                remedy="train it again with more regularisation or a lower learning rate",
            )
        methods = (
            ["dense"]
            if self.num_columns <= _DENSE
            else ["half", "single", "dense"][0 if self.half else 1 :]
        )
        best = TopK(torch.empty(len(query), k, dtype=torch.int32), torch.empty(len(query), k))
        pending = torch.arange(len(query))
        for method in methods:
            if not len(pending):
                break
            arguments = (
                vectors[pending],
                query[pending],
                None if seen is None else select(seen, pending),
            )
            if method == "dense":
                result, proved = self._dense(*arguments, k, seed), None
            else:
                result, proved = self._grouped(*arguments, k, seed, half=method == "half")
            best.items[pending], best.scores[pending] = result
            pending = pending[:0] if proved is None else pending[~proved]
        return best

    def _dense(
        self, vectors: Tensor, query: Tensor, seen: Ragged | None, k: int, seed: int
    ) -> TopK:
        rows, items = max(1, _CELLS // self.num_columns), self.items[: self.num_columns].T
        blocks = [
            top_k(
                vectors[i : i + rows] @ items,
                query[i : i + rows],
                _part(seen, i, i + rows),
                k,
                seed,
                self.model,
            )
            for i in range(0, len(vectors), rows)
        ]
        return TopK(
            torch.cat([part.items for part in blocks]), torch.cat([part.scores for part in blocks])
        )

    def _grouped(
        self, vectors: Tensor, query: Tensor, seen: Ragged | None, k: int, seed: int, half: bool
    ) -> tuple[TopK, Tensor]:
        """Returns the top k, and (B,) bool: the rows for which it is proved exact."""
        blocks, rows = (self.blocked_half if half else self.blocked), len(vectors)
        maxima = self._maxima(vectors.to(blocks.dtype), blocks, seen)  # (B, G)
        chosen = min(2 * k, maxima.shape[1] - 1) if half else min(k + 2, maxima.shape[1] - 1)
        tops, groups = torch.topk(maxima, chosen + 1)  # (B, chosen + 1)
        groups = groups[:, :chosen]
        # (B, chosen * 8)
        candidates = (groups[:, :, None] * _GROUP + torch.arange(_GROUP)).view(rows, -1)
        candidate_vectors = (
            self.items.view(len(self.items) // _GROUP, -1)
            .index_select(0, groups.reshape(-1))
            .view(rows, -1, vectors.shape[1])
        )
        scores = torch.bmm(candidate_vectors, vectors[:, :, None])[:, :, 0]
        scores[(candidates == 0) | (candidates >= self.num_columns)] = -torch.inf
        if seen is not None:
            chosen_at = torch.full(maxima.shape, -1, dtype=torch.int16)
            chosen_at.scatter_(1, groups, torch.arange(chosen, dtype=torch.int16).expand(rows, -1))
            row, item = _row_numbers(seen), seen.values.long()
            column = chosen_at[row, item // _GROUP].long()
            hit = column >= 0
            scores[row[hit], column[hit] * _GROUP + item[hit] % _GROUP] = -torch.inf
        best = top_k_of(scores, candidates, query, k, seed, self.model)
        # Items outside the chosen groups score at most `beyond`: the result is proved when its k-th
        # score is above that.
        beyond = tops[:, -1].float() + self._error(vectors, tops[:, -1].float(), half)
        kth = best.scores[:, -1]
        return best, (kth > beyond) | (tops[:, -1] == -torch.inf)

    def _error(self, vectors: Tensor, threshold: Tensor, half: bool) -> Tensor:
        """Upper bound, (B,), on how far a score of the first product lies below the true score:
        rounding of both factors and of the sums.
        """
        norms = vectors.norm(dim=1)
        sums = 2.0**-23 * vectors.shape[1] * norms * self.norm
        if not half:
            return 2 * sums
        query_rounding = (vectors - vectors.bfloat16().float()).norm(dim=1)
        return (
            query_rounding * (self.norm + self.rounding)
            + norms * self.rounding
            + 2.0**-8 * threshold.abs()
            + 2 * sums
        )

    def _maxima(self, vectors: Tensor, blocks: Tensor, seen: Ragged | None) -> Tensor:
        rows, per_block = len(vectors), _BLOCK // _GROUP
        maxima = torch.empty(rows, len(blocks) * per_block, dtype=vectors.dtype)
        scores = torch.empty(rows, _BLOCK, dtype=vectors.dtype)
        seen_cells = _by_block(seen, len(blocks))
        for number, items in enumerate(blocks):
            torch.mm(vectors, items.T, out=scores)
            if number == 0:
                scores[:, 0] = -torch.inf
            if number == len(blocks) - 1:
                scores[
                    :, _columns(torch.arange(self.num_columns - number * _BLOCK, _BLOCK))
                ] = -torch.inf
            if seen_cells is not None:
                scores.view(-1).index_fill_(0, seen_cells[number], -torch.inf)
            maxima[:, number * per_block : (number + 1) * per_block] = scores.view(
                rows, _GROUP, per_block
            ).amax(dim=1)
        return maxima


def _columns(within: Tensor) -> Tensor:
    """Column of a block that holds its item number `within`."""
    return within % _GROUP * (_BLOCK // _GROUP) + within // _GROUP


def _by_block(seen: Ragged | None, blocks: int) -> tuple[Tensor, ...] | None:
    """For each block of items, the flat positions (row * _BLOCK + column) of the seen items."""
    if seen is None:
        return None
    block, order = (seen.values // _BLOCK).sort()
    flat = _row_numbers(seen) * _BLOCK + _columns(seen.values.long() % _BLOCK)
    return flat[order].split(torch.bincount(block, minlength=blocks).tolist())


def _row_numbers(seen: Ragged) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(seen.offsets) - 1), seen.offsets.diff())


def _part(seen: Ragged | None, start: int, stop: int) -> Ragged | None:
    if seen is None:
        return None
    offsets = seen.offsets[start : stop + 1]
    return Ragged(offsets - offsets[0], seen.values[offsets[0] : offsets[-1]])


def _first_bad(values: Tensor) -> int:
    return int((~values.isfinite()).any(dim=1).nonzero()[0, 0])


def _has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
