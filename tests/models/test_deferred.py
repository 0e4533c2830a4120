"""Adam by rows: beside torch's dense Adam, through the loop, from a checkpoint; which tables
`optim.name: auto` gives it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from recsys_spark.core.contracts import Feature, Optim, Train, TrainJob
from recsys_spark.models import registry
from recsys_spark.models.base import Sizes
from recsys_spark.models.pairs.bpr_mf import BprMf
from recsys_spark.models.pointwise.fm import Fm
from recsys_spark.train import forecast
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.updates import choice, optim
from recsys_spark.train.updates.deferred import DeferredAdam
from tests import shardsets, training
from tests.logs import logged

Source = tuple[Path, Any]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("pairs")
    return folder, shardsets.pairs(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """With a width of 1,200, its tables are large beside a step of 50 rows."""
    folder = tmp_path_factory.mktemp("large")
    return folder, shardsets.pairs(folder, num_users=3000, num_items=3100, per_user=3)


def side_by_side(scale: float, eps: float, steps: int = 1500) -> tuple[Tensor, Tensor, Tensor]:
    """(start, dense Adam's weights, ours) of 300 rows after steps that meet five of them, some rows
    often and some hardly ever, at a falling rate, with gradients of that size.
    """
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(300, 3, generator=draw, dtype=torch.float64)
    dense, rows = (torch.nn.Parameter(start.clone()) for _ in range(2))
    adam = torch.optim.Adam([dense], lr=0.01, eps=eps)
    ours = DeferredAdam([{"params": [rows]}], lr=0.01, eps=eps)
    for step in range(steps):
        index = (torch.rand(5, generator=draw).square() * 300).long().unique()
        if eps < 1e-20:
            torch.testing.assert_close(
                ours.read(rows, index), dense.detach()[index], atol=1e-12, rtol=0
            )
        gradient = scale * torch.randn(len(index), 3, generator=draw, dtype=torch.float64)
        dense.grad = torch.zeros_like(dense).index_copy_(0, index, gradient)
        rows.grad = torch.sparse_coo_tensor(
            index.unsqueeze(0), gradient, rows.shape, is_coalesced=True, check_invariants=False
        )
        for optimiser in (adam, ours):
            optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
            optimiser.step()
    ours.settle()
    return start, dense.detach(), rows.detach()


def test_every_row_that_is_read_is_where_dense_adam_has_it() -> None:
    start, dense, ours = side_by_side(scale=1.0, eps=1e-30)
    assert (dense - start).abs().max() > 0.5
    torch.testing.assert_close(ours, dense, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("scale", "tolerance"), [(1e-4, 1e-4), (1e-6, 1e-3), (1e-8, 0.02)])
def test_eps_of_missed_steps_is_taken_at_their_middle(scale: float, tolerance: float) -> None:
    """Beside the way that all weights went, with Adam's own eps of 1e-8."""
    start, dense, ours = side_by_side(scale, eps=1e-8)
    assert 0 < (ours - dense).norm() / (dense - start).norm() < tolerance


def test_one_row_by_hand() -> None:
    """Met in step 1 alone, gradient 2: m = .2, v = .004. At a rate of .1 step t moves it by
    .1 m_t / sqrt(v_t) with m_t = .2 * .9^(t-1) / (1 - .9^t) and v_t likewise: .1 in step 1; in step
    2 by .1 (.18 / .19) / sqrt(.003996 / .001999).
    """
    weight = torch.nn.Parameter(torch.tensor([[0.0], [5.0], [7.0]], dtype=torch.float64))
    ours = DeferredAdam([{"params": [weight]}], lr=0.1)
    for row in (1, 2):
        weight.grad = torch.sparse_coo_tensor(
            [[row]], torch.tensor([[2.0]], dtype=torch.float64), (3, 1), is_coalesced=True
        )
        ours.step()
    assert weight[1].item() == pytest.approx(4.9, abs=1e-8), "not yet"
    second = 0.1 * (0.18 / 0.19) / (0.003996 / 0.001999) ** 0.5
    both = ours.read(weight, torch.tensor([1, 2]))
    assert both[0].item() == pytest.approx(4.9 - second, abs=1e-7)
    # Row 2 in step 2: (.2 / .19) / sqrt(.004 / .001999), of a gradient that came late
    late = 0.1 * (0.2 / 0.19) / (0.004 / 0.001999) ** 0.5
    assert both[1].item() == pytest.approx(7 - late, abs=1e-7)
    assert weight[0].item() == 0.0
    ours.settle()
    assert torch.equal(weight[1:], both)


def test_a_training_by_rows_is_dense_adams(pairs: Source, tmp_path: Path) -> None:
    """Epochs with validation, clipped, in 500 steps that meet a few rows at a rate of .02."""
    best = {}
    for name, sparse in (("dense", False), ("rows", True)):
        settings = {
            "name": "adam",
            "lr": 0.02,
            "sparse": sparse,
            "clip_norm": 0.05,
            "decay": "linear",
        }
        job = training.job(tmp_path / name, *pairs, "bpr_mf", optim=settings, batch_size=4)
        result = training.train_here(job)
        assert result is not None
        best[name] = result.best
    moved = training.difference(*(training.weights(tmp_path / name) for name in best))
    assert 0 < moved < 1e-3
    assert best["rows"] == pytest.approx(best["dense"], rel=1e-9)


def auto(folder: Path, source: Source, **more: Any) -> TrainJob:
    settings = {
        "config": {"dim": 1200},
        "epochs": 1,
        "optim": {"lr": 0.01, "warmup_steps": 40},
        "validate_users": 100,
    }
    return training.job(folder, *source, "bpr_mf", **{**settings, **more})


def test_auto_goes_by_rows_where_tables_are_large_and_says_so(
    large: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And stops in the middle of the epoch, to go on from there: bit for bit."""
    whole, made = auto(tmp_path / "whole", large), auto(tmp_path / "run", large)
    with caplog.at_level(logging.INFO, "recsys_spark"):
        training.train_here(whole)
    assert (
        'event=updates phase="" '
        'tables_by_rows="user (100 of 3,001 rows), item (100 of 3,101 rows)" '
        'tables_whole="item_bias (100 of 3,101 rows)"'
    ) in logged(caplog)
    stopper = iter([False] * 33 + [True] * 100)
    assert training.train_here(made, stop=lambda: next(stopper)) is None
    loop = Loop(made, workers.Workers())
    assert [type(part).__name__ for part in loop.optimiser.parts] == ["DeferredAdam", "Adam"]
    loop.run()
    weights = [training.weights(tmp_path / name) for name in ("whole", "run")]
    assert training.difference(*weights) == 0.0


def test_a_forecast_measures_the_updates_of_the_whole_batch(
    large: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = auto(tmp_path, large, batch_size=500)
    with caplog.at_level(logging.INFO, "recsys_spark"):
        assert forecast.step_s(job, 50) > 0
    assert "tables_by_rows=none" in logged(caplog) and "user (1,000 of 3,001 rows)" in logged(
        caplog
    )


def test_auto_is_the_same_on_two_ranks_and_on_another_number_of_them(
    large: Source, tmp_path: Path
) -> None:
    alone, two, moved = (auto(tmp_path / name, large) for name in ("alone", "two", "moved"))
    training.train_here(alone)
    stopper = iter([False] * 33 + [True] * 100)
    assert training.train_here(moved, stop=lambda: next(stopper)) is None
    for job in (two, moved):
        ranks = job.workers.model_copy(update={"engine": "torch", "num_workers": 2})
        job = job.model_copy(update={"workers": ranks})
        assert training.train_on_ranks(job) == [0, 0]
        here = training.weights(Path(job.run_dir))
        assert training.difference(here, training.weights(tmp_path / "alone")) < 1e-10


def test_auto_on_small_tables_is_dense_adam(pairs: Source, tmp_path: Path) -> None:
    for name in ("auto", "adam"):
        settings = {"name": name, "lr": 0.02}
        training.train_here(training.job(tmp_path / name, *pairs, "bpr_mf", optim=settings))
    weights = [training.weights(tmp_path / name) for name in ("auto", "adam")]
    assert training.difference(*weights) == 0.0


def test_a_checkpoint_within_an_epoch_holds_what_rows_have_yet_to_move(
    large: Source, tmp_path: Path
) -> None:
    """At the end of an epoch nothing: the weights there are those that were validated."""
    job = auto(tmp_path, large, checkpoint_steps=60, keep=9)
    loop = Loop(job, workers.Workers())
    loop.run()
    middle, end = checkpoint.folders(tmp_path)[0], checkpoint.folders(tmp_path)[-1]
    steps = loop.state.step
    for folder, settled in ((middle, False), (end, True)):
        optimiser = optim.build(
            job.train.optim, loop.phases[0].groups, [loop.model.user.weight, loop.model.item.weight]
        )
        resumed = checkpoint.load_file(folder / checkpoint.OPTIM)
        groups = checkpoint.StateFile.model_validate_json((folder / checkpoint.STATE).read_text())
        optim.unpack(optimiser, resumed, groups.groups)
        last = optimiser.parts[0].state[loop.model.user.weight]["last"]
        assert bool((last == steps).all()) is settled


SIZES = Sizes(138_000, 27_000)


def by_rows(model: Any, settings: dict[str, Any] | None = None, **train: Any) -> list[str]:
    made = choice.updates(
        model, model.parameter_groups(), Optim(**(settings or {})), Train(**train)
    )
    return [update.name for update in made if update.by_rows]


@pytest.mark.parametrize(
    ("users", "items", "batch", "expected"),
    [
        (6_040, 3_706, 4096, []),  # ML-1M
        (6_040, 3_706, 256, []),
        (138_000, 27_000, 4096, ["user"]),  # 8,192 look-ups in 27,001 rows
        (138_000, 27_000, 512, ["user"]),
        (138_000, 60_000, 512, ["user", "item"]),
        (138_000, 60_000, 2048, ["user"]),
        (138_000, 27_000, 65_536, []),
        (10_000_000, 1_000_000, 4096, ["user", "user_bias", "item"]),
    ],
)
def test_sizes_choose(users: int, items: int, batch: int, expected: list[str]) -> None:
    with torch.device("meta"):
        model = BprMf(BprMf.Config(loss="bce"), Sizes(users, items))
    assert sorted(by_rows(model, batch_size=batch)) == sorted(expected)


CONFIGS: dict[str, Any] = {
    path.stem: OmegaConf.to_container(OmegaConf.load(path))
    for path in sorted((Path(__file__).parents[2] / "conf" / "models").glob("*.yaml"))
    if "name: auto" in path.read_text()
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tables_of_ml_1m_stay_whole(name: str) -> None:
    """As each model is configured, so that its results do not depend on the choice."""
    job = CONFIGS[name]
    statistics = {"label_count": 1e6, "label_mean": 3.6, "label_min": 1.0, "label_max": 5.0}
    time = Feature(name="ts", side="event", kind="time", low=0.0, high=1.0)
    kind = registry.find(job["model"])
    with torch.device("meta"):
        model = kind(kind.Config(**job["config"]), Sizes(6040, 3706, statistics, (time,)))
    for batch in (1, job["train"]["batch_size"]):
        assert by_rows(model, batch_size=batch) == []


def test_what_does_not_fit_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = BprMf(BprMf.Config(), SIZES)
    assert by_rows(model) == ["user"]
    assert by_rows(model, {"name": "adam"}) == [] == by_rows(model, {"name": "sgd"})
    assert by_rows(model, {"name": "adam", "sparse": True}) == ["user", "item", "item_bias"]
    assert by_rows(model, {"weight_decay": 0.1}) == []
    decayed = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    monkeypatch.setattr(model, "parameter_groups", lambda: decayed)
    assert by_rows(model) == []
    monkeypatch.undo()
    monkeypatch.setattr(BprMf, "whole_tables", True)
    assert by_rows(model) == []


def test_more_negatives_and_slots_look_up_more_rows() -> None:
    with torch.device("meta"):
        model = BprMf(BprMf.Config(num_negatives=9), SIZES)
        fields = Fm(Fm.Config(), SIZES)
    assert by_rows(model) == [], "40,960 rows of 138,001"
    (update,) = choice.updates(fields, fields.parameter_groups(), Optim(), Train(batch_size=100))
    assert update.looked_up == 2 * 100, "a user and an item"


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.01}])
def test_models_of_whole_tables_and_decayed_ones_train_under_auto(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    shards = shardsets.pointwise(tmp_path / "shards", fields=True)
    model = "mf_bias" if settings else "mf_variational"
    for name in ("auto", "adam"):
        optimiser = {"name": name, "lr": 0.02, **settings}
        config = {"dim": 40_000} if settings else None
        job = training.job(
            tmp_path / name,
            tmp_path / "shards",
            shards,
            model,
            optim=optimiser,
            config=config,
            epochs=1,
        )
        training.train_here(job)
    weights = [training.weights(tmp_path / name) for name in ("auto", "adam")]
    assert training.difference(*weights) == 0.0
