"""The model of steps on more ranks, by hand."""

from __future__ import annotations

import math

import pytest

from recsys_spark.train.forecast import Cost, Network, all_reduce_s, fit, forecast

COST = Cost(
    fixed_s=0.002,
    row_s=1e-6,
    read_rows_per_s=1e6,
    exchanged_bytes=8_000_000,
    rank_bytes=100,
    window_bytes=64,
)
NETWORK = Network(latency_s=1e-4, bandwidth=1e9)


def test_an_all_reduce_by_hand() -> None:
    assert all_reduce_s(8_000_000, 2, NETWORK) == pytest.approx(2e-4 + 8e-3)
    assert all_reduce_s(8_000_000, 8, NETWORK) == pytest.approx(6e-4 + 14e-3)
    assert all_reduce_s(0, 512, NETWORK) == pytest.approx(18e-4)


def test_steps_by_hand() -> None:
    one, two = (forecast(COST, NETWORK, ranks, 10_000, 2) for ranks in (1, 2))
    assert (
        one.step_s == pytest.approx(0.012)
        and one.examples_per_s == pytest.approx(20_000 / 0.012)
        and one.efficiency == 1
    )
    assert one.bottleneck == "rows" and one.exchange_share == 0 and one.rank_bytes == 164
    assert (
        two.step_s == pytest.approx(0.002 + 0.005 + 0.0082)
        and two.bottleneck == "exchange"
        and two.rank_bytes == 132
    )
    assert two.efficiency == pytest.approx(
        0.012 / 0.0152 / 2
    ) and two.exchange_share == pytest.approx(0.0082 / 0.0152)
    fast = forecast(COST, NETWORK, 2, 10_000, 2, faster=10.0)
    assert fast.step_s == pytest.approx(0.0002 + 0.0005 + 0.0082)


def test_a_reader_that_is_slower_than_the_steps_bounds_them() -> None:
    slow = forecast(COST._replace(read_rows_per_s=1e5), NETWORK, 2, 10_000, 1)
    assert slow.step_s == pytest.approx(0.05) and slow.bottleneck == "reading"
    assert (
        forecast(
            COST._replace(row_s=0.0), NETWORK._replace(bandwidth=math.inf), 8, 80, 1
        ).bottleneck
        == "weights"
    )


def test_a_line_through_what_was_measured() -> None:
    assert fit({100: 0.003, 200: 0.004, 400: 0.006}) == (pytest.approx(0.002), pytest.approx(1e-5))
    assert fit({100: 0.004, 200: 0.003}) == (pytest.approx(0.0035), 0.0), "never less for more rows"
    fixed, row = fit({100: 0.001, 200: 0.004})
    assert fixed == pytest.approx(0.0, abs=1e-12) and row == pytest.approx(0.0025 / 150)
