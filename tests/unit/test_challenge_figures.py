"""Figures of the RecSys Challenges 2019 and 2020: worked out by hand, and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve
from sklearn.metrics import log_loss as sklearn_log_loss

from recsys_spark.metrics.challenge import clickouts, engagements

CLICKED = ["a", "a", "a", "a", "a", "a"]
ANSWERS = [["a", "b"], ["b", "c", "d", "a"], ["b", "a", "a"], ["b"], [], ["b", "c", "a"]]


def test_click_outs_as_the_organisers_count_them() -> None:
    """1, 1/4, twice: 0, not there: 0, no answer: 0, 1/3; among the first three: 1, no, yes (they
    look there before they count), no, no, yes.
    """
    values = clickouts.values(*clickouts.places(CLICKED, ANSWERS))
    assert values["official_mrr"].tolist() == pytest.approx([1, 1 / 4, 0, 0, 0, 1 / 3])
    assert values["official_map3"].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3])


def test_click_outs_by_step_and_by_what_came_before() -> None:
    place, times = clickouts.places(CLICKED, ANSWERS)
    step, before = np.array([1, 2, 5, 7, 26, 11]), np.array([0, 1, 1, 0, 1, 1], bool)
    measured = clickouts.measure(
        place, times, step, before, units=np.arange(6), seed=1, replicas=200
    )
    mean = {label: each.values()[0, 0] for label, each in measured.items()}
    assert mean == pytest.approx(
        {
            "all": (1 + 1 / 4 + 1 / 3) / 6,
            "before:item": (1 / 4 + 1 / 3) / 4,
            "before:none": 1 / 2,
            "step:1": 1.0,
            "step:2-5": 1 / 8,
            "step:6-10": 0.0,
            "step:11-25": 1 / 3,
            "step:26+": 0.0,
        }
    )
    interval = measured["all"].intervals()["official_mrr"]
    assert interval.low < interval.value < interval.high and interval.n == 6


def test_engagements_by_hand() -> None:
    """p .9 (yes), .6 (no), .6 (yes), .1 (no): (recall, precision) goes through (0, 1), (1/2, 1),
    (1, 2/3), (1, 1/2).
    """
    label, p = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.6, 0.6, 0.1])
    values = engagements.values(label, p)
    assert values["official_pr_auc"] == pytest.approx(1 / 2 * 1 + 1 / 2 * (1 + 2 / 3) / 2)
    assert values["average_precision"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    loss = -(math.log(0.9) + math.log(0.4) + math.log(0.6) + math.log(0.9)) / 4
    assert values["official_rce"] == pytest.approx(100 * (1 - loss / math.log(2)))
    assert values["official_calibration"] == pytest.approx(2.2 / 2)


def test_a_certain_mistake_costs_what_the_clip_says() -> None:
    label, p = np.array([1.0, 0.0]), np.array([0.0, 0.0])
    loss = -(math.log(1e-15) + math.log1p(-1e-15)) / 2
    rce = engagements.values(label, p)["official_rce"]
    assert rce == pytest.approx(100 * (1 - loss / math.log(2)))


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_one_kind_of_label_has_no_figure(same: float) -> None:
    label, p = np.full(5, same), np.linspace(0.1, 0.9, 5)
    assert all(math.isnan(value) for value in engagements.values(label, p).values())
    measured = engagements.measure(label, p, np.arange(5), seed=1, replicas=20)
    assert np.isnan(measured["all"].values()).all()


@pytest.mark.parametrize("digits", [1, 3, 12])  # ties, many values, more than there are bins
def test_engagements_agree_with_scikit_learn(digits: int) -> None:
    draw = np.random.default_rng(5)
    truth = draw.random(5000) ** 3
    label = (draw.random(5000) < truth).astype(float)
    p = np.clip(np.round(truth + 0.1 * draw.normal(size=5000), digits), 0.001, 0.999)
    values = engagements.values(label, p)
    precision, recall, _ = precision_recall_curve(label, p)
    constant = sklearn_log_loss(label, np.full(5000, label.mean()))
    assert values["official_pr_auc"] == pytest.approx(auc(recall, precision), abs=1e-12)
    assert values["average_precision"] == pytest.approx(
        average_precision_score(label, p), abs=1e-12
    )
    assert values["official_rce"] == pytest.approx(
        100 * (1 - sklearn_log_loss(label, p) / constant), abs=1e-9
    )
    users = draw.integers(0, 1000, 5000)
    measured = engagements.measure(label, p, users, seed=3, replicas=300)["all"]
    intervals = measured.intervals()
    for name, value in values.items():
        interval = intervals[name]
        assert interval.value == pytest.approx(value) and interval.low < value < interval.high
    # Against the plain bootstrap of users, drawn otherwise
    rows_of = [np.flatnonzero(users == user) for user in range(1000)]
    plain = []
    for _ in range(200):
        rows = np.concatenate([rows_of[user] for user in draw.integers(0, 1000, 1000)])
        plain.append(engagements.values(label[rows], p[rows])["official_pr_auc"])
    spread = measured.values()[1:, 1].std()
    assert spread == pytest.approx(np.std(plain), rel=0.25)
