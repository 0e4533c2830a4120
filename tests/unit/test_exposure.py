"""Coverage and Gini: by hand, by another formula, and intervals that hold the truth as often as
they say.
"""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.metrics import exposure
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.intervals import Replicates


def catalogue(num_items: int, cold: int = 0) -> Catalogue:
    events = np.array([0] + [1] * (num_items - cold) + [0] * cold)
    return Catalogue.of(events, {}, np.ones(num_items + 1, int))


def test_by_hand() -> None:
    # Item 5 is cold, item 4 shown to one user alone
    items = np.array([[1, 2], [1, 3], [1, 5], [4, 0]])
    counts = exposure.count(items, (1, 2), 5)
    assert counts.tolist() == [[0, 3, 0, 0, 1, 0], [0, 3, 1, 1, 1, 1]]
    parts = exposure.parts(counts, catalogue(5, cold=1), 4)
    assert [part.value for part in parts["coverage"]] == [2 / 4, 1.0]
    # At 2: sorted 1 1 1 3, sum of (2 place - 5) x = -3 - 1 + 1 + 9 over 4 * 6; at 1: 0 0 1 3.
    assert [part.value for part in parts["gini"]] == pytest.approx([(1 + 9) / 16, 6 / 24])
    values = exposure.values(items, parts["coverage"], (1, 2), 4)
    # Without user 4 item 4 is gone at 1; at 2 each of users 1, 2 and 4 has one item alone. No item
    # is shown twice: the standard error is the root of 3/4 of the jackknife's.
    narrowed = np.sqrt(12) * np.sqrt(3 / 4)
    assert values[0] - 0.5 == pytest.approx(narrowed * np.array([-1, -1, -1, 3]) / 16)
    assert values[1] - 1.0 == pytest.approx(narrowed * np.array([1, 1, -3, 1]) / 16)


def test_the_sample_has_its_value_and_its_variance_follows_from_the_jackknifes() -> None:
    draw = np.random.default_rng(0)
    items = np.minimum(draw.geometric(0.08, (60, 5)), 40)
    items = exposure.without_repeats(items)
    known = catalogue(40)
    counts_of_all = exposure.count(items, (5,), 40)
    parts = exposure.parts(counts_of_all, known, 60)
    for name in exposure.METRICS:
        counts = [exposure.count(np.delete(items, user, axis=0), (5,), 40) for user in range(60)]
        left_out = [exposure.parts(count, known, 59)[name][0].value for count in counts]
        found = exposure.values(items, parts[name], (5,), 60)[0]
        assert found.mean() == pytest.approx(parts[name][0].value, abs=1e-12)
        jackknife = 59 / 60 * np.square(left_out - np.mean(left_out)).sum()
        if name == "coverage":
            once, twice = ((counts_of_all == times).sum() for times in (1, 2))
            jackknife *= max(1 / 4, (3 * once - twice) / (4 * once))
        assert found.var() / 60 == pytest.approx(
            jackknife, rel=1e-9 if name == "coverage" else 0.15
        ), name


def test_gini_is_half_the_relative_mean_difference() -> None:
    draw = np.random.default_rng(1)
    counts = np.concatenate([[[0]], draw.integers(0, 9, (1, 50))], axis=1)
    shown = counts[0, 1:]
    expected = np.abs(shown[:, None] - shown).mean() / (2 * shown.mean())
    assert exposure.parts(counts, catalogue(50), 100)["gini"][0].value == pytest.approx(
        expected, abs=1e-12
    )


def test_gini_of_equal_and_of_single_exposure() -> None:
    equal = exposure.parts(np.array([[0, 3, 3, 3, 3]]), catalogue(4), 3)
    single = exposure.parts(np.array([[0, 9, 0, 0, 0]]), catalogue(4), 9)
    assert (
        equal["gini"][0].value == 0
        and single["gini"][0].value == 3 / 4
        and equal["coverage"][0].value == 1
    )
    nothing = exposure.parts(np.zeros((1, 5), int), catalogue(4), 9)
    assert np.isnan(nothing["gini"][0].value) and nothing["coverage"][0].value == 0


def samples(num_items: int, users: int, tastes: float, count: int) -> np.ndarray:
    """(count, users, 5) lists of one population: popular items more often, and those of the user's
    own of ten tastes.
    """
    draw = np.random.default_rng(2)
    weight = np.log(1 / np.arange(1, num_items + 1))
    kind, taste = draw.integers(0, 10, num_items), draw.integers(0, 10, (count, users, 1))
    keys = weight + tastes * (kind == taste) + draw.gumbel(size=(count, users, num_items))
    return np.argpartition(-keys, 5, axis=2)[:, :, :5] + 1


@pytest.mark.parametrize(
    ("num_items", "users", "tastes"), [(300, 200, 0), (300, 200, 4), (60, 99, 0)]
)
def test_the_standard_error_is_that_of_repeated_samples(
    num_items: int, users: int, tastes: float
) -> None:
    """300 samples of users from one population: the spread of the values is what a single sample's
    interval says, and 95 % of the intervals hold the population's value.
    """
    known = catalogue(num_items)
    values, errors = [], []
    for items in samples(num_items, users, tastes, 300):
        parts = exposure.parts(exposure.count(items, (5,), num_items), known, users)
        values.append([parts[name][0].value for name in exposure.METRICS])
        errors.append(
            [
                exposure.values(items, parts[name], (5,), users)[0].std() / np.sqrt(users)
                for name in exposure.METRICS
            ]
        )
    ratio = np.mean(errors, axis=0) / np.std(values, axis=0)
    apart = np.abs(np.array(values) - np.mean(values, axis=0)) < 1.96 * np.array(errors)
    for name, wide, held in zip(exposure.METRICS, ratio, apart.mean(axis=0), strict=True):
        assert 0.85 < wide < 1.2, (name, wide)  # the jackknife of coverage: 1.3 to 1.7
        assert 0.9 < held <= 0.99, (name, held)  # give or take four standard errors


def test_the_bootstrap_of_a_users_part_has_the_standard_error() -> None:
    items = samples(300, 200, 0, 1)[0]
    part = exposure.parts(exposure.count(items, (5,), 300), catalogue(300), 200)["coverage"]
    per_user = exposure.values(items, part, (5,), 200)[0]
    interval = Replicates.of(
        ("m",), per_user[:, None], np.ones((200, 1)), np.arange(200), seed=1, replicas=500
    ).intervals()["m"]
    error = per_user.std() / np.sqrt(200)
    assert (interval.high - interval.low) / 3.92 == pytest.approx(error, rel=0.15)


def test_an_item_that_stands_twice_is_shown_once() -> None:
    items = np.array([[7, 3, 7, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 2, 1]])
    assert exposure.without_repeats(items).tolist() == [
        [7, 3, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 2, 0],
    ]
    assert exposure.count(exposure.without_repeats(items), (5,), 7)[0].tolist() == [
        0,
        1,
        1,
        1,
        0,
        0,
        0,
        1,
    ]
