"""Random numbers by (key, row): reproducible, independent of order and of how many are drawn, and
distributed as they say.
"""

from __future__ import annotations

import math

import pytest
import torch

from recsys_spark.nn import noise

ROWS = torch.arange(4000)


def test_bits_are_splitmix64():
    """The published outputs of SplitMix64 for seed 0: an independent implementation's numbers."""
    drawn = noise.bits(0, torch.tensor([0]), 4)[0].tolist()
    assert [value & (2**64 - 1) for value in drawn] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
        0xF88BB8A8724C81EC,
    ]


@pytest.mark.parametrize(
    "draw",
    [
        noise.bits,
        noise.uniform,
        noise.normal,
        lambda key, row, *shape: noise.integers(key, row, 1000, *shape),
    ],
)
def test_a_row_draws_the_same_in_any_company(draw):
    whole = draw(9, ROWS, 3, 2)
    assert whole.shape == (4000, 3, 2)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(9, ROWS[order], 3, 2), whole[order])
    assert torch.equal(draw(9, ROWS[5:6], 3, 2), whole[5:6])
    assert torch.equal(draw(9, ROWS, 9)[:, :6], whole.view(4000, 6))  # and the same in a wider draw
    assert draw(9, ROWS[:0], 3).shape == (0, 3) and draw(9, ROWS).shape == (4000,)


def test_both_ways_to_the_bits_give_the_same_numbers():
    """By numpy, as on a CPU, and from the bits that torch draws, as on a GPU."""
    row = torch.tensor([0, 1, 2**40, 7])
    drawn = noise.bits(5, row, 9)
    upper, lower = (
        [[(value & (2**64 - 1)) >> 40 for value in values] for values in drawn.tolist()],
        drawn & 0xFFFFFF,
    )
    assert torch.equal(noise.uniform(5, row, 9), torch.tensor(upper) * 2.0**-24)
    first, second = (torch.tensor(upper).float() + 1.0) * 2.0**-24, lower.float() * 2.0**-24
    assert torch.equal(
        noise.normal(5, row, 9),
        torch.sqrt(-2.0 * torch.log(first)) * torch.cos((2.0 * math.pi) * second),
    )


def test_single_cells():
    column = torch.tensor([4, 0, 8, 8])
    row = torch.tensor([2**40, 1, 1, 7])
    assert torch.equal(
        noise.uniform_at(5, row, column), noise.uniform(5, row, 9).gather(1, column[:, None])[:, 0]
    )


def test_key_row_and_name_matter():
    drawn = [
        noise.uniform(noise.key(seed, name, epoch), ROWS, 2)
        for seed, name, epoch in [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]
    ]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert (a == b).float().mean() < 0.001
            assert abs(
                torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
            ) < 4 / math.sqrt(8000)


def test_uniform():
    drawn = noise.uniform(1, ROWS, 50).double().flatten()
    n = len(drawn)
    assert drawn.min() >= 0 and drawn.max() < 1
    gaps = (drawn.sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert gaps < 1.95 / math.sqrt(n)  # Kolmogorov and Smirnov at 0.001


def test_normal():
    drawn = noise.normal(1, ROWS, 50).double().flatten()
    n = len(drawn)
    assert drawn.isfinite().all()
    ideal = torch.special.ndtr(drawn.sort().values)
    assert (ideal - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / math.sqrt(n)
    assert abs(drawn.mean()) < 4 / math.sqrt(n) and abs(drawn.var() - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_rows_and_columns_are_unrelated(draw):
    cells = draw(1, ROWS, 20)
    limit = 5 / math.sqrt(cells.numel())
    for a, b in [
        (cells[1:], cells[:-1]),
        (cells[:, 1:], cells[:, :-1]),
        (cells[1:, 1:], cells[:-1, :-1]),
    ]:
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < limit


@pytest.mark.parametrize("high", [1, 7, 3706, 2**31 - 1])
def test_integers(high):
    drawn = noise.integers(1, ROWS, high, 50).flatten()
    assert drawn.min() >= 0 and drawn.max() < high
    assert abs(drawn.double().mean() / high - (high - 1) / (2 * high)) < 4 / math.sqrt(
        12 * len(drawn)
    )
    if high == 7:
        expected = len(drawn) / 7
        assert (
            (drawn.bincount() - expected).square() / expected
        ).sum() < 22.5  # chi-square, 6 degrees of freedom, 0.001


def test_integers_refuse_a_range_too_wide():
    with pytest.raises(AssertionError, match="high is 2147483648"):
        noise.integers(1, ROWS, 2**31)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("high", [1, 3417, 2**31 - 1])
def test_integers_scale_the_upper_half_of_the_bits(shape, high):
    rows = ROWS * 2**33 - 7  # numbers as of far virtual shards, and one below zero
    upper = (noise.bits(2**62 + 5, rows, *shape) >> 32) & 0xFFFFFFFF
    drawn = noise.integers(2**62 + 5, rows, high, *shape)
    assert drawn.dtype == torch.int64 and torch.equal(drawn, (upper * high) >> 32)
