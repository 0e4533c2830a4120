"""xxHash64 as Spark's function `xxhash64` has it, for orders made with and without Spark."""

from __future__ import annotations

from functools import reduce

_MASK = 2**64 - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SPARK_SEED = 42


def of(*columns: str | int) -> int:
    """What Spark's `xxhash64(columns)` gives: a signed 64-bit number. An int counts as a long.

    >>> of("u1", "i7") == of("u1", "i7") != of("i7", "u1")
    True
    """
    value = reduce(lambda seed, column: _hash(_bytes(column), seed), columns, SPARK_SEED)
    return value - 2**64 if value >> 63 else value


def _bytes(column: str | int) -> bytes:
    return column.encode() if isinstance(column, str) else column.to_bytes(8, "little", signed=True)


def _hash(data: bytes, seed: int) -> int:
    size, at = len(data), 0
    if size >= 32:
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while at + 32 <= size:
            lanes = [
                _round(lane, _word(data, at + 8 * place, 8)) for place, lane in enumerate(lanes)
            ]
            at += 32
        value = sum(_turned(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        value = seed + _P5
    value = (value + size) & _MASK
    while at + 8 <= size:
        value = (_turned(value ^ _round(0, _word(data, at, 8)), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= size:
        value = (_turned(value ^ (_word(data, at, 4) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        value = _turned(value ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32


def _round(lane: int, word: int) -> int:
    return _turned(lane + word * _P2, 31) * _P1 & _MASK


def _turned(value: int, by: int) -> int:
    value &= _MASK
    return (value << by | value >> (64 - by)) & _MASK


def _word(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
