"""Random numbers that depend on a key and a row number alone: a row draws the same numbers on any
rank.

A counter-based generator: the bits are a mix of (key, row, column), so there is no state between
calls and their order does not matter. Mixing function: the finaliser of SplitMix64 (Steele, Lea,
Flood, OOPSLA 2014), with the variant-13 constants of D. Stafford.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recsys_spark.core import seeds

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def key(seed: int, name: str, *counters: int) -> int:
    return seeds.derive(seed, name, *counters)


def _shift_right(x: Tensor, n: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def mix(x: Tensor) -> Tensor:
    """int64 -> int64, a bijection whose output bits look independent."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def bits(key: int, row: Tensor, *shape: int) -> Tensor:
    """64 random bits per cell, int64 (B, *shape)."""
    width = math.prod(shape)
    start = mix((row.long() + key) * _GAMMA)  # (B,)
    columns = torch.arange(1, width + 1, device=row.device) * _GAMMA  # (width,)
    return mix(start[:, None] + columns).view(len(row), *shape)


def uniform(key: int, row: Tensor, *shape: int) -> Tensor:
    """float32 (B, *shape) in [0, 1), from 24 bits, the resolution of float32."""
    if row.device.type != "cpu":
        return _shift_right(bits(key, row, *shape), 40).to(torch.float32) * 2.0**-24
    return _upper(_cells(key, row, shape)).mul_(2.0**-24).view(len(row), *shape)


def uniform_at(key: int, row: Tensor, column: Tensor) -> Tensor:
    """Single cells, float32 (E,): `uniform(key, row, width)[e, column[e]]` for any width, without
    drawing the other cells.
    """
    if row.device.type != "cpu":
        drawn = mix(mix((row.long() + key) * _GAMMA) + (column.long() + 1) * _GAMMA)
        return _shift_right(drawn, 40).to(torch.float32) * 2.0**-24
    columns = column.long().numpy().view(np.uint64) + np.uint64(1)
    columns *= _STEP
    columns += _starts(key, row)
    return _upper(_mix_in_place(columns)).mul_(2.0**-24)


def kept(key: int, row: Tensor, rate: float, width: int) -> Tensor:
    """float32 (B, width): 0 with probability `rate` (to 2**-16), else 1 / (1 - rate).

    A draw of 64 bits gives four cells: dropout needs many, and few bits of each.
    """
    assert 0 < rate < 1, f"rate is {rate}"
    draws, least = -(-width // 4), round(rate * 2**16)
    if row.device.type != "cpu":
        drawn = bits(key, row, draws).view(torch.int16)[:, :width]
        kept = (drawn.int() & 0xFFFF) >= least
        return kept.to(torch.float32).mul_(1.0 / (1.0 - rate))
    quarters = _cells(key, row, (draws,)).view("<u2").reshape(len(row), -1)[:, :width]
    return torch.from_numpy((quarters >= least).astype(np.float32)).mul_(1.0 / (1.0 - rate))


def normal(key: int, row: Tensor, *shape: int) -> Tensor:
    """float32 (B, *shape), standard normal (Box and Muller 1958; two 32-bit halves of one draw)."""
    if row.device.type != "cpu":
        drawn = bits(key, row, *shape)
        first = _shift_right(drawn, 40).to(torch.float32)
        second = (drawn & 0xFFFFFF).to(torch.float32)
    else:
        cells = _cells(key, row, shape)
        first = _upper(cells)
        second = torch.from_numpy((cells & np.uint64(0xFFFFFF)).astype(np.float32))
    first = first.add_(1.0).mul_(2.0**-24)  # (0, 1]: its logarithm is finite
    second = second.mul_(2.0**-24).mul_(2.0 * math.pi)
    return first.log_().mul_(-2.0).sqrt_().mul_(second.cos_()).view(len(row), *shape)


def integers(key: int | np.ndarray, row: Tensor, high: int, *shape: int) -> Tensor:
    """int64 (B, *shape) uniform in [0, high), high < 2**31 (Lemire's multiply-shift; bias below
    high / 2**32).

    key: one for all rows, or uint64 (B,), one per row; the latter only for rows on the CPU.
    """
    assert 0 < high < 2**31, f"high is {high}"
    if row.device.type != "cpu":
        assert isinstance(key, int), "keys of rows are for the CPU"
        return (_shift_right(bits(key, row, *shape), 32) * high) >> 32
    cells = _cells(key, row, shape)
    cells >>= np.uint64(32)
    cells *= np.uint64(high)
    cells >>= np.uint64(32)
    return torch.from_numpy(cells.view(np.int64)).view(len(row), *shape)


# On a CPU numpy computes the same numbers: it shifts unsigned integers and works in place, in a
# third of the time.
_STEP = np.uint64(_GAMMA % 2**64)


def _cells(key: int | np.ndarray, row: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """`bits`, as uint64 (B, width)."""
    columns = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * _STEP
    return _mix_in_place(_starts(key, row)[:, None] + columns)


def _starts(key: int | np.ndarray, row: Tensor) -> np.ndarray:
    """Start of each row's stream, uint64 (B,)."""
    start = row.long().numpy().view(np.uint64) + (np.uint64(key) if isinstance(key, int) else key)
    start *= _STEP
    return _mix_in_place(start)


def _upper(cells: np.ndarray) -> Tensor:
    """The upper 24 bits of each cell, float32."""
    return torch.from_numpy((cells >> np.uint64(40)).astype(np.float32))


def _mix_in_place(y: np.ndarray) -> np.ndarray:
    """`mix` of uint64 numbers."""
    y ^= y >> np.uint64(30)
    y *= np.uint64(_MIX1 % 2**64)
    y ^= y >> np.uint64(27)
    y *= np.uint64(_MIX2 % 2**64)
    y ^= y >> np.uint64(31)
    return y
