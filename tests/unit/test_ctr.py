"""Click metrics: by hand, against scikit-learn, and the part of one user in a value that is of all
rows.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from recsys_spark.metrics import ctr, partials, row_blocks, slices, tasks
from recsys_spark.metrics.blocks import Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.ctr import Curve
from recsys_spark.metrics.intervals import Replicates
from tests.unit.test_intervals import means

SETTINGS = Settings(
    (10,),
    seed=1,
    replicas=200,
    metrics=tasks.CLICK.metrics,
    users=slices.Users((2.0,), False, {}),
    num_users=0,
    catalogue=Catalogue.of(np.array([0, 5, 1, 0]), {}, np.ones(4, int)),
)


def draw(rows: int, seed: int, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, of so many different values if any, and labels that follow them."""
    random = np.random.default_rng(seed)
    p = random.integers(0, levels, rows) / levels if levels else random.random(rows)
    return p, (random.random(rows) < 0.2 + 0.4 * p).astype(float)


def measured(
    users: list[tuple[list[float], list[float]]], settings: Settings = SETTINGS
) -> dict[str, Replicates]:
    """{slice: metrics} of users with (predictions, labels)."""
    settings = dataclasses.replace(settings, num_users=len(users))
    p, labels = (np.concatenate([np.array(user[side]) for user in users]) for side in (0, 1))
    curve = Curve.of_rows(p, labels)
    table = pa.table(
        {
            "query_idx": np.arange(1, len(users) + 1),
            "events": np.arange(len(users)) % 4 + 1,
            "items": [[1] * len(user[0]) for user in users],
            "labels": [list(user[1]) for user in users],
            "predictions": [list(user[0]) for user in users],
            "missing": [0] * len(users),
            "outside": [0] * len(users),
        }
    )
    dealt = np.array_split(np.arange(len(users)), min(3, len(users)))
    parts = [row_blocks.click_block(table.take(part), settings, curve) for part in dealt]
    return {
        label: ctr.finished(made, settings.metrics, label)
        for label, made in partials.merge(parts).slices.items()
    }


def value(found: dict[str, Replicates], metric: str, label: str = "all") -> float:
    return found[label].intervals()[metric].value


def test_by_hand() -> None:
    found = measured([([0.9, 0.2, 0.4], [1, 0, 0]), ([0.4, 0.4], [1, 0]), ([0.5], [0])])
    losses = [-math.log(x) for x in (0.9, 0.8, 0.6, 0.4, 0.6, 0.5)]
    rate = 2 / 6
    constant = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert value(found, "log_loss") == pytest.approx(sum(losses) / 6)
    assert value(found, "rce") == pytest.approx(100 * (1 - sum(losses) / 6 / constant))
    # Clicked .9 beats all four; clicked .4 beats .2, ties with two, loses to .5.
    assert value(found, "auc") == pytest.approx((4 + 1 + 2 / 2) / 8)
    # From the top: .9 (1 of 1), .5, then the three .4 (2 clicks of 5 rows).
    assert value(found, "pr_auc") == pytest.approx((1 + 2 / 5) / 2)
    # Within users: 1 of 3 rows, 1/2 of 2 rows, and the third has no click.
    assert (
        value(found, "auc_per_user") == pytest.approx((1 + 0.5) / 2)
        and found["all"].intervals()["auc_per_user"].n == 2
    )
    assert value(found, "auc_per_impression") == pytest.approx((1 * 3 + 0.5 * 2) / 5)
    assert value(found, "calibration") == pytest.approx(2.8 / 2)


@pytest.mark.parametrize("levels", [0, 7], ids=["all different", "many alike"])
def test_agrees_with_scikit_learn(levels: int) -> None:
    p, label = draw(5000, seed=levels, levels=levels)
    curve = Curve.of_rows(p, label)
    assert curve.value["auc"] == pytest.approx(roc_auc_score(label, p), abs=1e-9)
    assert curve.value["pr_auc"] == pytest.approx(average_precision_score(label, p), abs=1e-9)
    assert ctr.log_loss(label, p).mean() == pytest.approx(log_loss(label, p), abs=1e-9)
    edges = np.array([0.0, 1.0, 0.0, 1.0])
    assert ctr.log_loss(np.array([0.0, 1, 1, 0]), edges).mean() == pytest.approx(
        log_loss([0, 1, 1, 0], edges), abs=1e-9
    )


def test_a_block_has_what_its_rows_have() -> None:
    random = np.random.default_rng(1)
    users = [tuple(map(list, draw(int(random.integers(1, 30)), seed))) for seed in range(80)]
    found = measured(users)
    p, label = (np.concatenate([np.array(user[side]) for user in users]) for side in (0, 1))
    assert value(found, "auc") == pytest.approx(roc_auc_score(label, p), abs=1e-9)
    assert value(found, "pr_auc") == pytest.approx(average_precision_score(label, p), abs=1e-9)
    both = [user for user in users if 0 < sum(user[1]) < len(user[1])]
    aucs, sizes = [roc_auc_score(y, x) for x, y in both], [len(y) for _, y in both]
    assert value(found, "auc_per_user") == pytest.approx(np.mean(aucs), abs=1e-9)
    assert value(found, "auc_per_impression") == pytest.approx(
        np.average(aucs, weights=sizes), abs=1e-9
    )
    some = [user for number, user in enumerate(users) if number % 4 + 1 <= 2]
    assert value(found, "log_loss", "activity:1") == pytest.approx(
        log_loss(*(np.concatenate([u[side] for u in some]) for side in (1, 0)))
    )
    assert "auc" not in found["activity:1"].names and "auc_per_user" in found["activity:1"].names


def test_calibration_by_tenth() -> None:
    p = np.arange(100) / 100
    label = (np.arange(100) % 10 < np.arange(100) // 10).astype(float)
    found = measured([(list(p), list(label))])
    for tenth in range(1, 11):
        label_of = f"decile:{tenth}"
        assert value(found, "predicted", label_of) == pytest.approx(
            p[10 * (tenth - 1) : 10 * tenth].mean()
        )
        assert (
            value(found, "observed", label_of) == pytest.approx((tenth - 1) / 10)
            and found[label_of].intervals()["observed"].n == 10
        )
    assert set(found["decile:2"].names) == {"predicted", "observed", "calibration"}
    alike = measured([([0.3] * 50, [1.0] * 20 + [0.0] * 30)])
    # Equal predictions are not torn apart
    assert [name for name in alike if name.startswith("decile")] == ["decile:5"]


@pytest.mark.parametrize("name", ctr.ORDERED)
def test_what_a_user_adds_is_what_is_lost_without_them(name: str) -> None:
    random = np.random.default_rng(2)
    users = [draw(int(random.integers(5, 15)), seed=100 + seed, levels=20) for seed in range(150)]
    rows = [np.concatenate([user[side] for user in users]) for side in (0, 1)]
    curve = Curve.of_rows(*rows)
    lost, added = [], []
    for out in range(150):
        rest = [
            np.concatenate([user[side] for number, user in enumerate(users) if number != out])
            for side in (0, 1)
        ]
        lost.append(curve.value[name] - Curve.of_rows(*rest).value[name])
        added.append(curve.loss[name][users[out][1].astype(int), curve.place(users[out][0])].sum())
    assert abs(np.sum(added)) < 1e-9  # rows that all count double change nothing
    assert np.corrcoef(lost, added)[0, 1] > 0.999 and np.std(added) == pytest.approx(
        np.std(lost), rel=0.03
    )


@pytest.mark.parametrize("name", ctr.ORDERED)
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(name: str) -> None:
    truth = Curve.of_rows(*draw(400_000, seed=9)).value[name]
    held = 0
    for sample in range(200):
        p, label = draw(300, seed=1000 + sample)
        curve = Curve.of_rows(p, label)
        loss = curve.loss[name][label.astype(int), curve.place(p)]
        found = means(
            curve.value[name] + math.sqrt(300 * 299) * loss,
            np.arange(300) + 300 * sample,
            replicas=300,
        ).intervals()["m"]
        held += found.low <= truth <= found.high
    assert 0.89 < held / 200 < 0.99  # 95 %, give or take four standard errors


def test_constant_predictions_earn_what_chance_earns() -> None:
    label = np.array([1.0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    found = measured([([0.2] * 10, list(label))])
    assert (
        value(found, "auc") == 0.5
        and value(found, "auc_per_user") == 0.5
        and value(found, "pr_auc") == pytest.approx(0.2)
    )
    assert value(found, "rce") == pytest.approx(0, abs=1e-12) and value(
        found, "calibration"
    ) == pytest.approx(1)


def test_perfect_predictions_earn_one() -> None:
    found = measured([([0.9, 0.1, 0.8], [1, 0, 1]), ([0.0, 1.0], [0, 1])])
    assert [
        value(found, name) for name in ("auc", "pr_auc", "auc_per_user", "auc_per_impression")
    ] == [1, 1, 1, 1]


def test_one_label_alone_has_no_order() -> None:
    found = measured([([0.2, 0.3], [0, 0])])
    assert all(
        math.isnan(value(found, name))
        for name in ("auc", "pr_auc", "auc_per_user", "rce", "calibration")
    )
    assert value(found, "log_loss") > 0


def test_too_many_values_are_rounded_alike_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    p, label = draw(20_000, seed=3)
    exact = Curve.of_rows(p, label)
    monkeypatch.setattr(ctr, "MOST_SCORES", 9000)
    coarse = Curve.of_rows(p, label)
    assert exact.bits == 53 and coarse.bits == 12 and 4000 < len(coarse.scores) <= 9000
    assert coarse.value["auc"] == pytest.approx(exact.value["auc"], abs=1e-4)
    assert (
        np.abs(ctr.rounded(p, 24) / p - 1).max() <= 2.0**-24
        and (ctr.rounded(p, 24).astype(np.float32) == ctr.rounded(p, 24)).all()
    )


def test_only_chosen_metrics_are_kept() -> None:
    found = measured([([0.2, 0.3], [0, 1])], dataclasses.replace(SETTINGS, metrics=("auc",)))
    assert (
        found["all"].names == ("auc",)
        and found["pairs:warm"].names == ()
        and found["decile:1"].names == ()
    )
