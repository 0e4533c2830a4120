"""Paired differences: what they are by hand, that they are right as often as they say, and the file
they come from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_spark.core.errors import DataError
from recsys_spark.metrics import paired
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.metrics.paired import Key, difference, holm


def measured(
    values: np.ndarray, *, replicas: int = 400, name: str = "ndcg@10", first: int = 0
) -> Replicates:
    units = first + np.arange(len(values))
    return Replicates.of(
        (name,), values[:, None], np.ones((len(values), 1)), units, seed=1, replicas=replicas
    )


def test_difference_by_hand() -> None:
    sums = np.array([[6.0], [2.0], [9.0], [8.0]])  # a sample of 10 units and three replicas
    a = Replicates(("m", "only a"), np.hstack([sums, sums]), np.full((4, 2), 10.0))
    b = Replicates(("m",), np.full((4, 1), 5.0), np.full((4, 1), 10.0))
    found = difference(a, b)
    assert set(found) == {"m"} and found["m"].value == pytest.approx(0.1)
    # The replicas differ by -.3, .4, .3; one and the sample's own share of them lie below zero: 2
    # (1 + 1) / 4.
    assert found["m"].p == 1.0
    assert (found["m"].low, found["m"].high) == pytest.approx((-0.3, 0.4))  # too few to leave out


def of_replicas(values: np.ndarray) -> Replicates:
    sums = np.concatenate([[values.mean()], values])[:, None]
    return Replicates(("m",), sums, np.ones_like(sums))


@pytest.mark.parametrize(
    ("below", "at_zero", "p", "low"),
    [
        # Between the 25th and the 26th replica an interpolated bound was .975, and p .0519
        (24, 1, 2 * 26 / 1001, 0.0),
        (24, 0, 2 * 25 / 1001, 1.0),
        (25, 0, 2 * 26 / 1001, -1.0),
    ],
)
def test_p_is_small_exactly_where_the_interval_leaves_out_zero(
    below: int, at_zero: int, p: float, low: float
) -> None:
    values = np.repeat([-1.0, 0.0, 1.0], [below, at_zero, 1000 - below - at_zero])
    found = difference(of_replicas(values), of_replicas(np.zeros(1000)))["m"]
    assert found.p == pytest.approx(p) and (found.low, found.high) == (low, 1.0)
    assert (found.p < 0.05) == (found.low > 0)


def test_p_and_interval_agree_whatever_the_number_of_replicas() -> None:
    draw = np.random.default_rng(4)
    decided = 0
    for replicas in [*range(40, 140), 999, 1000]:
        values = draw.integers(-1, 60, replicas)  # a thirtieth at or below zero
        found = difference(of_replicas(values), of_replicas(np.zeros(replicas)))["m"]
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0), (replicas, found)
        decided += found.p < 0.05
    assert 10 < decided < 90


def test_a_pair_is_told_apart_where_two_intervals_are_not() -> None:
    draw = np.random.default_rng(0)
    hard = draw.random(2000)  # some users are harder than others: that varies, and is shared
    a, b = measured(hard + 0.01 + 0.02 * draw.standard_normal(2000)), measured(hard)
    one, other = a.intervals()["ndcg@10"], b.intervals()["ndcg@10"]
    assert one.low < other.high  # they overlap
    found = difference(a, b)["ndcg@10"]
    assert found.low > 0 and found.p == pytest.approx(2 / 401)
    back = difference(b, a)["ndcg@10"]
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )


def test_a_run_does_not_differ_from_itself() -> None:
    one = measured(np.random.default_rng(1).random(50))
    assert difference(one, one)["ndcg@10"] == paired.Difference(0.0, 0.0, 0.0, 1.0)


def test_under_no_difference_p_is_small_as_often_as_it_says() -> None:
    draw = np.random.default_rng(2)
    ps, inside = [], 0
    for sample in range(300):
        both = draw.standard_normal((2, 200))
        found = difference(*(measured(values, first=200 * sample) for values in both))["ndcg@10"]
        ps.append(found.p)
        inside += found.low <= 0 <= found.high
    assert 0.91 < inside / 300 < 0.985  # 95 %, give or take four standard errors
    assert abs(np.mean(np.array(ps) < 0.5) - 0.5) < 0.12 and np.mean(np.array(ps) < 0.05) < 0.1


def test_an_error_is_a_root_in_every_replica() -> None:
    a, b = measured(np.full(100, 4.0), name="rmse"), measured(np.full(100, 1.0), name="rmse")
    assert difference(a, b)["rmse"].value == difference(a, b)["rmse"].low == 1.0


def test_nothing_counted_has_no_difference() -> None:
    nothing = Replicates(("m",), np.zeros((5, 1)), np.zeros((5, 1)))
    found = difference(nothing, Replicates(("m",), np.ones((5, 1)), np.ones((5, 1))))["m"]
    assert np.isnan([found.value, found.low, found.high, found.p]).all()


def test_other_replicas_are_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"replicates: found 400 and 300 replicas; expected as many in both\. To mend: "
        r"evaluate both",
    ):
        difference(measured(np.ones(5)), measured(np.ones(5), replicas=300))


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .5: times 4, 3, 2, 1, and never below an earlier one.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert (
        holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
        and holm([]) == []
        and holm([0.9, 0.8]) == [1.0, 1.0]
    )
    with_none = holm([0.01, float("nan"), 0.02])
    assert (
        with_none[0] == pytest.approx(0.02)
        and np.isnan(with_none[1])
        and with_none[2] == pytest.approx(0.02)
    )


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    keys = [Key(run, "ranking", label) for run in ("a-1", "b-1") for label in ("all", "activity:1")]
    made = {key: measured(draw.random(20), replicas=50) for key in keys}
    paired.write(tmp_path / paired.FILE, made)
    found = paired.read(tmp_path / paired.FILE)
    assert list(found) == keys
    for key in keys:
        assert found[key].names == made[key].names
        np.testing.assert_array_equal(found[key].sums, made[key].sums)
        np.testing.assert_array_equal(found[key].counts, made[key].counts)
    assert list(paired.read(tmp_path / paired.FILE, task="ranking", slice="all")) == [
        keys[0],
        keys[2],
    ]
    assert paired.read(tmp_path / paired.FILE, task="rating") == {}


def test_a_file_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"replicates\.parquet: found .*To mend: run the evaluate step again"
    ):
        paired.read(tmp_path / paired.FILE)
    (tmp_path / paired.FILE).write_bytes(b"PAR1 cut")
    with pytest.raises(
        DataError, match=r"replicates\.parquet: found .*To mend: run the evaluate step again"
    ):
        paired.read(tmp_path / paired.FILE)
