"""Bootstrap weights, their independence of partitioning, and coverage of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys_spark.metrics.intervals import (
    Part,
    Replicates,
    accelerated,
    order_bounds,
    replicate,
    weights,
)


def means(values: np.ndarray, units: np.ndarray, seed: int = 1, replicas: int = 1000) -> Replicates:
    return Replicates.of(
        ("m",), values[:, None], np.ones((len(values), 1)), units, seed=seed, replicas=replicas
    )


def test_weights_are_poisson_and_unrelated() -> None:
    drawn = weights(np.arange(4000), seed=1, replicas=101)
    assert drawn.shape == (4000, 102) and (drawn[:, 0] == 1).all()
    drawn = drawn[:, 1:]
    for n in range(4):  # 404,000 draws: a share's standard error is below 0.0008
        assert abs((drawn == n).mean() - math.exp(-1) / math.factorial(n)) < 0.004
    assert abs(drawn.mean() - 1) < 0.006 and abs(drawn.var() - 1) < 0.015
    replicas, units = np.corrcoef(drawn.T), np.corrcoef(drawn[:300])
    np.fill_diagonal(replicas, 0)
    np.fill_diagonal(units, 0)
    assert np.abs(replicas).max() < 6 / math.sqrt(4000) and np.abs(units).max() < 6 / math.sqrt(101)


def test_a_units_weight_depends_on_seed_replica_and_unit_alone() -> None:
    whole = weights(np.arange(100), seed=1, replicas=40)
    np.testing.assert_array_equal(
        weights(np.array([77, 3], np.int32), seed=1, replicas=40), whole[[77, 3]]
    )
    np.testing.assert_array_equal(weights(np.arange(100), seed=1, replicas=7), whole[:, :8])
    assert (weights(np.arange(100), seed=2, replicas=40) != whole).any()


def test_partitioning_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    values, units = draw.random(5000), draw.permutation(5000)
    whole = means(values, units, replicas=50)
    order = draw.permutation(5000)
    parts = [means(values[part], units[part], replicas=50) for part in np.array_split(order, 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    np.testing.assert_allclose(merged.sums, whole.sums, rtol=1e-12)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    with pytest.raises(AssertionError, match="do not merge"):
        merged.merge(Replicates(("other",), whole.sums, whole.counts))


def test_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(1).normal(3, 2, 4000)
    found = means(values, np.arange(4000)).intervals()["m"]
    half = 1.96 * values.std() / math.sqrt(4000)
    assert found.value == pytest.approx(values.mean(), abs=1e-12) and found.n == 4000
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(2)
    held = 0
    for sample in range(400):
        found = means(
            (draw.random(300) < 0.3).astype(float), np.arange(300) + 300 * sample, replicas=400
        ).intervals()["m"]
        held += found.low <= 0.3 <= found.high
    assert 0.91 < held / 400 < 0.985  # 95 %, give or take four standard errors


def test_a_ratio_of_sums_by_hand() -> None:
    # Two users with 1 and 3 rows: the mean is over rows, and a replica without any row is left out
    # of the interval.
    made = Replicates.of(
        ("m",),
        np.array([[4.0], [0.0]]),
        np.array([[1.0], [3.0]]),
        np.array([1, 2]),
        seed=1,
        replicas=200,
    )
    found = made.intervals()["m"]
    assert (found.value, found.low, found.high, found.n) == (1.0, 0.0, 4.0, 4)


def test_nothing_counted_has_no_value() -> None:
    found = Replicates.of(
        ("m",), np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, int), seed=1, replicas=10
    ).intervals()["m"]
    assert math.isnan(found.value) and math.isnan(found.low) and found.n == 0


def test_parts_of_the_units_have_the_weights_of_the_whole() -> None:
    draw = np.random.default_rng(3)
    values, units = draw.random((5000, 3)) * [1, 1e6, 1e-6], draw.permutation(5000)
    rows = np.flatnonzero(draw.random(5000) < 0.3)
    names, ones = ("a", "b", "c"), np.ones((5000, 3))
    whole, part = replicate(
        [Part(names, values, ones), Part(names, values[rows], ones[rows], rows)],
        units,
        seed=1,
        replicas=30,
    )
    drawn = weights(units, seed=1, replicas=30)
    np.testing.assert_allclose(whole.sums, drawn.T @ values, rtol=1e-11)
    np.testing.assert_allclose(part.sums, drawn[rows].T @ values[rows], rtol=1e-11)
    np.testing.assert_array_equal(part.counts, drawn[rows].T @ ones[rows])
    np.testing.assert_array_equal(whole.sums[0], values.sum(axis=0))  # the sample as it is


def test_no_digit_depends_on_how_a_product_adds() -> None:
    """Rounded to few enough bits, float64 sums are exact: any order of addition gives the same."""
    draw = np.random.default_rng(4)
    values = draw.random((2048, 2))
    found = replicate(
        [Part(("a", "b"), values, np.ones((2048, 2)))], np.arange(2048), seed=1, replicas=50
    )[0]
    drawn, order = weights(np.arange(2048), seed=1, replicas=50), draw.permutation(2048)
    exact = [
        [math.fsum(drawn[:, r] * (np.rint(values[:, m] * 2**39) / 2**39)) for m in range(2)]
        for r in range(1, 51)
    ]
    np.testing.assert_array_equal(found.sums[1:], exact)
    again = replicate(
        [Part(("a", "b"), values[order], np.ones((2048, 2)))],
        np.arange(2048)[order],
        seed=1,
        replicas=50,
    )[0]
    np.testing.assert_array_equal(found.sums[1:], again.sums[1:])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.98])
def test_a_share_of_users_is_missed_no_more_often_on_one_side(share: float) -> None:
    """With few hits (or few misses) the plain percentiles miss on one side, 5 times in 100 and
    more, as at 98 %, mirrored.
    """
    draw, users, samples = np.random.default_rng(5), 500, 600
    drawn = weights(np.arange(users), seed=1, replicas=400)
    hits = (draw.random((users, samples)) < share).astype(float)
    sums, counts = drawn.T @ hits, np.repeat(drawn.sum(axis=0)[:, None], samples, axis=1)
    found = Replicates(("hit_rate@10",) * samples, sums, counts)
    low, high = accelerated(found.values()[1:])
    above, below = (share < low).mean(), (share > high).mean()
    assert above < 0.042 and below < 0.042  # 2.5 % each, give or take 2.7 standard errors


def test_no_hit_among_n_users_leaves_the_share_that_such_a_sample_has() -> None:
    found = Replicates.of(
        ("hit_rate@10", "gini@10"),
        np.zeros((300, 2)),
        np.ones((300, 2)),
        np.arange(300),
        seed=1,
        replicas=100,
    ).intervals()
    hit = found["hit_rate@10"]
    assert (hit.value, hit.low) == (0.0, 0.0)
    assert (1 - hit.high) ** 300 == pytest.approx(0.025)  # the chance of none, were this the share
    assert (found["gini@10"].low, found["gini@10"].high) == (0.0, 0.0)


def test_a_share_of_items_stays_within_0_and_1() -> None:
    """Coverage comes as values of users whose mean alone is a share."""
    values = np.stack([np.arange(40) / 19.5, np.arange(40) / 19.5 - 0.9], axis=1)
    found = Replicates.of(
        ["coverage@10", "gini@10"],
        values,
        np.ones((40, 2)),
        np.arange(40),
        seed=1,
        replicas=200,
    ).intervals()
    assert found["coverage@10"].value == pytest.approx(1) and found["coverage@10"].high == 1
    assert 0.7 < found["coverage@10"].low < 0.95
    assert found["gini@10"].low == 0 and 0.2 < found["gini@10"].high < 0.5


def test_even_replicas_get_their_plain_percentiles() -> None:
    low, high = accelerated(np.arange(-500.0, 501)[:, None])
    assert low[0] == pytest.approx(-475) and high[0] == pytest.approx(475)


def test_bounds_leave_out_what_no_replica_has() -> None:
    values = np.stack(
        [
            np.arange(101.0),
            np.full(101, np.nan),
            np.where(np.arange(101) < 51, np.arange(101.0), np.nan),
        ],
        axis=1,
    )
    low, high = accelerated(values)
    np.testing.assert_allclose(low, [2.5, np.nan, 1.25], atol=1e-9)
    np.testing.assert_allclose(high, [97.5, np.nan, 48.75], atol=1e-9)
    low, high = order_bounds(values)  # j: 2 of 101, since 2 (1 + 1) / 102 < .05; 1 of 51
    np.testing.assert_array_equal(low, [1, np.nan, 0])
    np.testing.assert_array_equal(high, [99, np.nan, 50])
