"""Bags and the multinomial likelihood beside torch's own operations, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsys_spark.nn import profiles
from tests.models import worlds

# An empty one, padding, an item of several rows, and of none (6)
LISTS = [
    [3, 1],
    [],
    [0, 2, 5],
    [5],
    [4, 0],
]


def leaf(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


@pytest.mark.parametrize("keep", [None, [2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0], [0.0] * 8])
@pytest.mark.parametrize("lists", [LISTS, [[], []], []])
def test_bag_is_a_product_with_the_dense_profile(
    lists: list[list[int]], keep: list[float] | None
) -> None:
    bags, weights = (
        worlds.ragged(lists),
        torch.arange(1.0, 1 + sum(map(len, lists)), dtype=torch.float64),
    )
    kept = None if keep is None else torch.tensor(keep[: len(weights)])
    dense = torch.zeros(len(lists), 7, dtype=torch.float64)
    dense[profiles.rows(bags), bags.values.long()] = weights if kept is None else weights * kept
    ours, theirs, factor = leaf(7, 3), leaf(7, 3), leaf(len(lists), 3, seed=2).detach()
    found, expected = profiles.bag(ours, bags, weights, kept), dense @ theirs
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_multinomial_is_the_sum_over_a_dense_profile() -> None:
    """Padding counts for nothing, a row of padding alone neither; the gradient of a multiple is
    that multiple.
    """
    bags = worlds.ragged([*LISTS, [0]])
    chosen = torch.zeros(6, 7, dtype=torch.float64)
    chosen[profiles.rows(bags), bags.values.long()] = 1.0
    ours, theirs = leaf(6, 7), leaf(6, 7)
    found, expected = (
        profiles.multinomial(ours, bags),
        -(F.log_softmax(theirs[:, 1:], 1) * chosen[:, 1:]).sum(),
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (0.25 * found).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
