"""The training loop on one rank: steps by hand, order of events, early stopping, broken losses."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core import columns
from recsys_spark.core.errors import ConfigError, ShardError
from recsys_spark.models.base import Context, Term
from recsys_spark.models.pointwise.mf_bias import MfBias
from recsys_spark.nn.tables import table
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.updates import optim, step
from recsys_spark.train.updates.gradients import Gradients
from recsys_spark.train.updates.lookups import Lookups
from recsys_spark.train.updates.step import NotFinite
from recsys_spark.train.validation import make
from tests import shardsets, training
from tests.models import worlds


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("pairs")
    return folder, shardsets.pairs(folder)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("profiles")
    return folder, shardsets.profile(folder)


class Line(torch.nn.Module):
    """w * x with squared error (w x - y)^2, in the shape of a model; terms may have counts of their
    own.
    """

    def __init__(self, own_counts: bool) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.own_counts = own_counts

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.w]}]

    def forward(self, batch: Any, ctx: Context) -> torch.Tensor:
        return self.w * batch[0]

    def loss(self, batch: Any, output: torch.Tensor, ctx: Context) -> dict[str, Term]:
        count = torch.tensor(float(len(batch[0])))
        return {
            "error": Term((output - batch[1]).square().sum(), count),
            "size": Term(
                self.w.square() * len(batch[0]),
                float(len(batch[0])) if self.own_counts else count,
                0.5,
            ),
        }

    def after_step(self) -> None:
        """Nothing."""


class Root(Line):
    """The loss sqrt(w x) is 0 at x = 0, and its gradient there no number."""

    def loss(self, batch: Any, output: torch.Tensor, ctx: Context) -> dict[str, Term]:
        return {"root": Term(output.sqrt().sum(), 1.0)}


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    root = Root(False)
    sgd = optim.build(training.Train(optim={"name": "sgd"}).optim, root.parameter_groups())  # type: ignore[arg-type]
    stepper = step.Stepper(root, sgd, workers.Workers(), clip_norm=0.0)  # type: ignore[arg-type]
    with pytest.raises(NotFinite, match="gradient of the loss"):
        stepper((_numbers(1, 0), _numbers(0, 0)), Context(), request=step.GO_ON)  # type: ignore[arg-type]
    assert root.w.item() == 1.0


def test_gradients_without_a_row_are_finite() -> None:
    """Of a rank that holds no row of a step."""
    empty = table(2, 2, 1.0)
    by_rows = Lookups(empty, lambda index: empty.weight.detach()[index])
    gradients = Gradients([empty.weight], workers.Workers(), [by_rows])
    gradients.clear()
    gradients.reduce()
    assert gradients.finite()


@pytest.mark.parametrize(
    ("values", "finite"), [((3e38, 3e38), True), ((math.inf, -math.inf), False)]
)
def test_a_sum_that_is_not_finite_is_looked_into(values: tuple[float, ...], finite: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    gradients = Gradients([weight], workers.Workers())
    weight.grad = torch.tensor(values)
    assert weight.grad.sum().isfinite().item() is False
    assert gradients.finite() is finite


def test_counts_stay_exact_beyond_what_float32_holds() -> None:
    """2**24 + 1 rows on each of two ranks, added in the weights' float32."""
    weight = torch.nn.Parameter(torch.zeros(3))
    gradients = Gradients([weight], training.Two())
    gradients.clear()
    sums = gradients.reduce([float(2**24 + 1), 0.25, float("inf")])
    assert sums == [2.0**25 + 2, 0.5, float("inf")]
    assert torch.tensor(2.0**24 + 1, dtype=torch.float32).item() == 2**24, "why it takes two"


def _numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("own_counts", [False, True])
def test_two_steps_by_hand(own_counts: bool) -> None:
    # d/dw mean (w x - y)^2 + w^2 / 2 = mean 2 x (w x - y) + w. Step 1: x = (1, 2), y = (0, 0), w =
    # 1: 5 + 1 = 6, w = 1 - .06 = .94. Step 2: x = 1, y = 3: 2 (.94 - 3) + .94 = -3.18, w = .9718. A
    # gradient left from step 1 would give .9118.
    line = Line(own_counts)
    sgd = optim.build(
        training.Train(optim={"name": "sgd", "lr": 0.01}).optim, line.parameter_groups()
    )  # type: ignore[arg-type]
    stepper = step.Stepper(line, sgd, workers.Workers(), clip_norm=0.0)  # type: ignore[arg-type]
    done = stepper((_numbers(1, 2), _numbers(0, 0)), Context(), request=step.GO_ON)  # type: ignore[arg-type]
    assert line.w.item() == pytest.approx(0.94, abs=1e-12)
    assert (done.sums, done.counts, done.request) == ([5.0, 2.0], [2.0, 2.0], step.GO_ON)
    stepper((_numbers(1), _numbers(3)), Context(), request=step.GO_ON)  # type: ignore[arg-type]
    assert line.w.item() == pytest.approx(0.9718, abs=1e-12)


def test_clipping_by_hand() -> None:
    line = Line(False)
    sgd = optim.build(
        training.Train(optim={"name": "sgd", "lr": 0.01}).optim, line.parameter_groups()
    )  # type: ignore[arg-type]
    step.Stepper(line, sgd, workers.Workers(), clip_norm=2.0)(  # type: ignore[arg-type]
        (_numbers(1, 2), _numbers(0, 0)), Context(), request=step.GO_ON
    )  # type: ignore[arg-type]
    assert line.w.item() == pytest.approx(0.98, abs=1e-6), "the gradient of 6 is cut to 2"


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_every_optimiser_comes_back_from_its_state(
    name: str, rows: tuple[Path, Any], tmp_path: Path
) -> None:
    settings = {
        "name": name,
        "lr": 0.05,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "momentum": 0.9 if name == "sgd" else 0.0,
    }
    made, whole = (
        training.job(tmp_path / folder, *rows, optim=settings, epochs=2)
        for folder in ("run", "whole")
    )
    training.train_here(whole)
    stopper = iter([False] * 17 + [True] * 100)
    assert training.train_here(made, stop=lambda: next(stopper)) is None
    assert training.train_here(made) is not None
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )


def test_asked_to_stop_in_the_last_step_of_an_epoch(rows: tuple[Path, Any], tmp_path: Path) -> None:
    """Epochs of one step have no other: the epoch is ended, and the training goes on later."""
    made, whole = (
        training.job(tmp_path / folder, *rows, epochs=4, patience=4, batch_size=100_000)
        for folder in ("run", "whole")
    )
    training.train_here(whole)
    stopper = iter([False, True])
    assert training.train_here(made, stop=lambda: next(stopper)) is None
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2
    assert training.train_here(made) is not None
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )


def test_momentum_by_hand() -> None:
    """As in test_two_steps_by_hand, half of the first step's gradient of 6 goes into the second: w
    = .94 - .01 (-3.18 + 3).
    """
    line = Line(False)
    settings = training.Train(optim={"name": "sgd", "lr": 0.01, "momentum": 0.5}).optim  # type: ignore[arg-type]
    stepper = step.Stepper(
        line, optim.build(settings, line.parameter_groups()), workers.Workers(), clip_norm=0.0
    )  # type: ignore[arg-type]
    stepper((_numbers(1, 2), _numbers(0, 0)), Context(), request=step.GO_ON)  # type: ignore[arg-type]
    stepper((_numbers(1), _numbers(3)), Context(), request=step.GO_ON)  # type: ignore[arg-type]
    assert line.w.item() == pytest.approx(0.9418, abs=1e-12)
    with pytest.raises(ValidationError, match="momentum is a setting of sgd, not of auto"):
        training.Train(optim={"momentum": 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "layout"),
    [("mf_bias", "rows"), ("neumf", "rows"), ("multi_vae", "profiles"), ("bpr_mf", "pairs")],
)
def test_learns_and_writes_what_it_says(
    model: str, layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(layout)
    result = training.train_here(
        training.job(tmp_path, *source, model, epochs=4, patience=4, dtype="float32", batch_size=30)
    )
    assert result is not None
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    losses = [line[next(key for key in line if key.startswith("train_"))] for line in lines]
    assert losses[-1] < losses[0]
    metric = "rmse" if model == "mf_bias" else "ndcg@10"
    values = [line[metric] for line in lines]
    best = min(values) if metric == "rmse" else max(values)
    assert result.best[metric] == best == values[result.best_epoch]
    assert result.steps == lines[-1]["step"] and result.epochs == 4
    checkpoint.verify(tmp_path / result.checkpoint)
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == result.checkpoint
    assert json.loads((tmp_path / "last.json").read_text())["checkpoint"] == checkpoint.name(
        result.steps
    )


def test_training_sees_every_row_once_an_epoch(
    rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    original = MfBias.loss

    def spy(self: MfBias, batch: Any, output: Any, ctx: Context) -> Any:
        seen.extend(zip(batch.user.tolist(), batch.item.tolist(), strict=True))
        return original(self, batch, output, ctx)

    monkeypatch.setattr(MfBias, "loss", spy)
    training.train_here(training.job(tmp_path, *rows, epochs=2))
    train, _ = shardsets.leave_last_out(shardsets.planted())
    expected = sorted(zip(train.user.tolist(), train.item.tolist(), strict=True))
    assert sorted(seen[: len(expected)]) == expected == sorted(seen[len(expected) :])
    assert seen[: len(expected)] != seen[len(expected) :], (
        "the second epoch has an order of its own"
    )


def test_early_stopping_keeps_the_best(
    rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([1.0, 0.8, 0.9, 0.8 - 1e-12, 0.85, 0.1])
    monkeypatch.setattr(make, "make", lambda *_: lambda model: {"rmse": next(values), "mae": 0.5})
    result = training.train_here(training.job(tmp_path, *rows, epochs=10, patience=3, keep=1))
    assert result is not None
    assert (result.epochs, result.best_epoch, result.best["rmse"]) == (5, 1, 0.8), (
        "a gain below rounding is none"
    )
    assert [path.name for path in checkpoint.folders(tmp_path)] == [
        "step-00000028",
        "step-00000070",
    ], "the best and the last"


def test_the_last_epoch_can_be_chosen_whatever_it_is_worth(
    rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(make, "make", lambda *_: lambda model: {"rmse": next(values)})
    result = training.train_here(training.job(tmp_path, *rows, epochs=5, patience=1, choose="last"))
    assert result is not None and (result.epochs, result.best_epoch, result.best) == (
        5,
        4,
        {"rmse": 4.0},
    )


def test_rating_metrics_by_hand(rows: tuple[Path, Any], tmp_path: Path) -> None:
    loop = Loop(training.job(tmp_path, *rows), workers.Workers())
    _, held = shardsets.leave_last_out(shardsets.planted())
    with torch.no_grad():
        query = torch.from_numpy(held.user), torch.from_numpy(held.item)
        model = loop.model
        labels = torch.from_numpy(held.value).double()
        predicted = model.predict(Rows(*query, labels, labels, query[0]))["rating"]
    metrics = loop.parts.validate(model)
    assert metrics["rmse"] == pytest.approx(
        float((predicted - labels).square().mean().sqrt()), rel=1e-12
    )
    assert metrics["mae"] == pytest.approx(float((predicted - labels).abs().mean()), rel=1e-12)


def test_ranking_metrics_by_hand(rows: tuple[Path, Any], tmp_path: Path) -> None:
    loop = Loop(training.job(tmp_path, *rows, "neumf"), workers.Workers())
    train, held = shardsets.leave_last_out(shardsets.planted())
    wanted = dict(zip(held.user.tolist(), held.item.tolist(), strict=True))

    def perfect(query: Any, items: Any = None) -> torch.Tensor:
        scores = torch.zeros(len(query.user), 41)
        for row, user in enumerate(query.user.tolist()):
            scores[row, train.item[train.user == user]] = 9.0  # seen: must be left out
            scores[row, wanted[user]] = 2.0
            if user == 7:  # two better ones: place 3, 1 / log2(4) = .5
                scores[
                    row,
                    [
                        item
                        for item in range(1, 41)
                        if item not in train.item[train.user == 7] and item != wanted[7]
                    ][:2],
                ] = 3.0
        return scores

    loop.model.score = perfect  # type: ignore[method-assign]
    metrics = loop.parts.validate(loop.model)
    assert metrics["ndcg@10"] == pytest.approx((59 + 0.5) / 60, rel=1e-12)
    assert metrics["recall@10"] == metrics["recall@20"] == 1.0
    loop = Loop(training.job(tmp_path / "keep", *rows, "neumf", seen="keep"), workers.Workers())
    loop.model.score = perfect  # type: ignore[method-assign]
    # What was met comes first then, each of it
    met = Counter(train.user.tolist())
    places = {user: 1 + met[user] + 2 * (user == 7) for user in wanted}
    gains = [1 / math.log2(place + 1) for place in places.values() if place <= 20]
    kept = loop.parts.validate(loop.model)
    assert kept["ndcg@20"] == pytest.approx(sum(gains) / len(wanted), rel=1e-12)
    assert 0 < kept["ndcg@20"] < metrics["ndcg@20"]


def _with_label(folder: Path, label: float) -> Any:
    """60 rows; the row of user 5 and item 6 has this label."""
    user, item = (
        np.repeat(np.arange(1, 11, dtype=np.int32), 6),
        np.tile(np.arange(1, 7, dtype=np.int32), 10),
    )
    labels = np.where((user == 5) & (item == 6), label, 3.0).astype(np.float32)
    table = pa.table({columns.QUERY_IDX: user, columns.ITEM_IDX: item, columns.LABEL: labels})
    parts = {"train": shardsets.deal(table, 64), "valid": shardsets.deal(table.slice(0, 10), 64)}
    made = shardsets.write(
        folder, "pointwise", shardsets.POINTWISE, parts, num_users=10, num_items=6
    )
    return made.model_copy(
        update={
            "statistics": {
                "label_count": 100.0,
                "label_mean": 3.0,
                "label_min": 1.0,
                "label_max": 5.0,
            }
        }
    )


@pytest.mark.parametrize("label", [math.nan, math.inf])
def test_broken_label_is_named_and_the_last_checkpoint_stays(label: float, tmp_path: Path) -> None:
    made = shardsets.seal(tmp_path / "shards", _with_label(tmp_path / "shards", label))
    job = training.job(
        tmp_path / "run",
        tmp_path / "shards",
        made,
        batch_size=10,
        checkpoint_steps=1,
        keep=9,
        seed=4,
    )
    with pytest.raises(NotFinite) as told:
        training.train_here(job)
    stopped_at = len(checkpoint.folders(tmp_path / "run"))
    assert stopped_at > 0, "the seed is chosen so that a good step comes first"
    message = str(told.value)
    assert f"in step {stopped_at} of epoch 0" in message and "query_idx 5, item_idx 6" in message
    assert "label nan" in message or "label inf" in message
    assert f"step-{stopped_at:08d} stays" in message and "train.optim.lr" in message
    assert all(
        bool(value.isfinite().all()) for value in training.weights(tmp_path / "run").values()
    )


def test_a_pair_to_blame_is_named_with_its_negatives() -> None:
    model, batch = worlds.stirred("bpr_mf", {"dim": 2, "l2": 0.0}), worlds.batch("pairs")
    with torch.no_grad():
        # Their product is infinite
        model.user.weight[batch.user[5]], model.item.weight[batch.negative[5, 1]] = (
            1e200,
            1e200,
        )
    others = [
        row
        for row in range(12)
        if bool(
            (batch.user[row] == batch.user[5]) & (batch.negative[row] == batch.negative[5, 1]).any()
        )
    ]
    assert others == [5], "the seed is chosen so that no other row has both"
    said = step.blame(model, batch, Context(training=True))
    assert said == (
        f"row {int(batch.row[5])} (query_idx {int(batch.user[5])}, item_idx {int(batch.item[5])}, "
        f"negatives {', '.join(map(str, batch.negative[5].tolist()))})"
    )


def test_diverging_weights_are_not_saved(rows: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"train\.optim\.lr"):
        training.train_here(
            training.job(tmp_path, *rows, optim={"name": "sgd", "lr": 1e30}, checkpoint_steps=1)
        )
    for folder in checkpoint.folders(tmp_path):
        checkpoint.verify(folder)
        assert all(bool(value.isfinite().all()) for value in training.weights(tmp_path).values())


def test_batches_smaller_than_the_shards(rows: tuple[Path, Any], tmp_path: Path) -> None:
    """A rank may have no row in a step; the loss of nobody is nothing."""
    small = shardsets.pointwise(tmp_path / "shards", num_users=6, per_user=4)
    result = training.train_here(
        training.job(tmp_path / "run", tmp_path / "shards", small, batch_size=1, epochs=1)
    )
    assert result is not None and result.steps == 18


def test_unknown_metric_names_the_nearest(rows: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        training.train_here(training.job(tmp_path, *rows, "neumf", monitor="ndgc@10"))
    assert (
        "train.monitor" in str(told.value)
        and "'ndgc@10'" in str(told.value)
        and "did you mean 'ndcg@10'" in str(told.value)
    )


def test_a_ranking_is_watched_at_any_number_of_items(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    result = training.train_here(training.job(tmp_path, *rows, "neumf", monitor="ndcg@7"))
    assert (
        result is not None
        and result.best["ndcg@7"] < result.best["ndcg@10"] < result.best["ndcg@20"]
    )
    with pytest.raises(
        ConfigError,
        match=r"found 'ndcg@0'; expected one of ndcg@10, .*another of recall, .* at any number "
        r"of items",
    ):
        training.train_here(training.job(tmp_path / "none", *rows, "neumf", monitor="ndcg@0"))


def test_nothing_to_validate_on(tmp_path: Path) -> None:
    made = shardsets.pointwise(tmp_path / "shards")
    bare = shardsets.seal(
        tmp_path / "shards",
        made.model_copy(update={"side": {}, "parts": {"train": made.parts["train"]}}),
    )
    for model, missing in (("mf_bias", "part valid"), ("neumf", "side file targets")):
        with pytest.raises(ShardError) as told:
            training.train_here(training.job(tmp_path / model, tmp_path / "shards", bare, model))
        assert missing in str(told.value) and "split that has validation events" in str(told.value)
        assert not checkpoint.folders(tmp_path / model)
