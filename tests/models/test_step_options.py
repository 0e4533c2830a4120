"""Sparse gradients, parts of a batch, the pace of the learning rate, precision and compilation: by
hand, and beside the plain step.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from recsys_spark.core.contracts import Optim, Train
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.models.pointwise.mf_bias import MfBias
from recsys_spark.nn.tables import table, tables
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.updates import optim, step
from recsys_spark.train.updates.gradients import Gradients
from recsys_spark.train.updates.lookups import Lookups
from recsys_spark.train.updates.step import Stepper
from tests import shardsets, training
from tests.models import worlds
from tests.models.test_loop import Line

Source = tuple[Path, Any]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder, fields=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("pairs")
    return folder, shardsets.pairs(folder)


def sparse_table(settings: Optim) -> tuple[Any, Any]:
    """Three rows of width 2, (1, 2), (3, 4), (5, 6), and what changes them by rows."""
    made = table(3, 2, 1.0).double()
    with torch.no_grad():
        made.weight[1:] = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    optimiser = optim.build(settings, [{"params": [made.weight]}], [made.weight])
    made.fetch = Lookups(made, optimiser.reader(made.weight))
    return made, optimiser


def pull(made: Any, optimiser: Any, index: list[int], factor: list[list[float]]) -> None:
    """A step on sum(rows * factor), whose gradient is `factor`; rows that come twice get the
    sum.
    """
    gradients = Gradients([made.weight], workers.Workers(), [made.fetch])
    gradients.clear()
    (made(torch.tensor(index)) * torch.tensor(factor, dtype=torch.float64)).sum().backward()
    gradients.reduce()
    optimiser.step()


def test_rowwise_adagrad_by_hand() -> None:
    # Step 1: row 1 gets (3, 1) = (1, 1) + (2, 0): a = (9 + 1) / 2 = 5. Row 2 gets (0, 2): a = 2.
    #     Row 3 stays.
    # Step 2: row 1 gets (1, 1): a = 5 + 1 = 6.
    made, optimiser = sparse_table(Optim(name="rowwise_adagrad", lr=0.5))
    pull(made, optimiser, [1, 2, 1, 0], [[1, 1], [0, 2], [2, 0], [7, 7]])
    first = [1 - 0.5 * 3 / math.sqrt(5), 2 - 0.5 / math.sqrt(5)]
    expected = [[0, 0], first, [3, 4 - 0.5 * 2 / math.sqrt(2)], [5, 6]]
    torch.testing.assert_close(
        made.weight.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )
    pull(made, optimiser, [1], [[1, 1]])
    expected[1] = [value - 0.5 / math.sqrt(6) for value in first]
    torch.testing.assert_close(
        made.weight.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_sparse_adam_by_hand() -> None:
    """Moments of a row stand still while it is not met; the correction of their start counts all
    steps (Adam's, with t = 2 here).
    """
    made, optimiser = sparse_table(Optim(name="sparse_adam", lr=0.1))
    pull(made, optimiser, [1], [[2, -1]])
    torch.testing.assert_close(
        made.weight[1].detach(), torch.tensor([0.9, 2.1], dtype=torch.float64), rtol=0, atol=1e-6
    )
    before = made.weight[1].detach().clone()
    pull(made, optimiser, [2], [[4, 4]])
    assert torch.equal(made.weight[1].detach(), before), "dense Adam's momentum would move it"
    step_2 = 0.1 * (0.1 * 4 / (1 - 0.9**2)) / math.sqrt(0.001 * 16 / (1 - 0.999**2))
    torch.testing.assert_close(
        made.weight[2].detach(),
        torch.tensor([3 - step_2, 4 - step_2], dtype=torch.float64),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_sparse_is_dense_where_the_optimiser_leaves_other_rows_alone(
    name: str, pairs: Source, tmp_path: Path
) -> None:
    """Through the loop, clipped: the whole training, whose dense gradients are zero in rows that a
    batch does not meet.
    """
    for folder, sparse in (("dense", False), ("sparse", True)):
        settings = {"name": name, "lr": 0.05, "sparse": sparse, "clip_norm": 0.01}
        training.train_here(
            training.job(tmp_path / folder, *pairs, "bpr_mf", optim=settings, batch_size=20)
        )
    assert (
        training.difference(
            training.weights(tmp_path / "dense"), training.weights(tmp_path / "sparse")
        )
        < 1e-12
    )


@pytest.mark.parametrize("name", ["sparse_adam", "rowwise_adagrad"])
def test_rows_and_layers_come_back_from_a_checkpoint(
    name: str, rows: Source, tmp_path: Path
) -> None:
    """neumf has tables and a dense tower: two optimisers, one state. Stopped in a warm-up, in the
    middle of an epoch.
    """
    settings = {"name": name, "lr": 0.05, "warmup_steps": 30}
    made, whole = (
        training.job(tmp_path / folder, *rows, "neumf", optim=settings, epochs=2)
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


def test_layers_beside_tables_keep_a_dense_optimiser() -> None:
    model = registry.build("neumf", {"dim": 2}, Sizes(5, 5), seed=1)
    made = optim.build(
        Optim(name="sparse_adam"), model.parameter_groups(), [each.weight for each in tables(model)]
    )
    by_rows, dense = (
        [weight for group in part.param_groups for weight in group["params"]] for part in made.parts
    )
    assert {id(weight) for weight in by_rows} == {id(model.user.weight), id(model.item.weight)}
    assert len(by_rows) + len(dense) == len(list(model.parameters())) and isinstance(
        made.parts[1], torch.optim.Adam
    )


def test_rows_that_nobody_can_touch_alone_are_refused(rows: Source, tmp_path: Path) -> None:
    profile = shardsets.profile(tmp_path / "profile")
    with pytest.raises(
        ConfigError, match="sparse_adam, by rows: found a model without embedding tables"
    ):
        Loop(
            training.job(
                tmp_path / "vae",
                tmp_path / "profile",
                profile,
                "multi_vae",
                optim={"name": "sparse_adam"},
            ),
            workers.Workers(),
        )
    with pytest.raises(ConfigError, match="a model whose loss reaches every row of a table"):
        training.train_here(
            training.job(
                tmp_path / "prior", *rows, "mf_variational", optim={"name": "rowwise_adagrad"}
            )
        )
    for settings, message in (
        ({"name": "adamw", "sparse": True}, "use adam"),
        ({"sparse": True}, "auto chooses which tables"),
        ({"name": "sgd", "sparse": True, "momentum": 0.5}, "momentum moves"),
        ({"name": "sparse_adam", "weight_decay": 0.1}, "weight_decay moves"),
    ):
        with pytest.raises(ValidationError, match=message):
            Optim(**settings)


MODELS = ["mf_bias", "neumf", "bpr_mf", "multi_vae", "mf_variational", "rbm_cf"]


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_in_parts_is_the_same_step(model: str) -> None:
    """Three steps on batches in 1, 3 and more parts than rows; terms that share a count and others,
    noise by row.
    """
    found = []
    for parts in (1, 3, 99):
        made = worlds.stirred(model, training.small(model))
        optimiser = optim.build(Optim(lr=0.05), made.parameter_groups())
        stepper = Stepper(made.train(), optimiser, workers.Workers(), 0.5, accumulate=parts)
        done = [
            stepper(
                worlds.batch(made.layout, seed=seed),
                Context(seed=3, step=seed, total_steps=9, training=True),
                False,
            )
            for seed in (2, 4, 6)
        ]
        found.append((made.state_dict(), done))
    for weights, done in found[1:]:
        assert training.difference(weights, found[0][0]) < 1e-11
        for mine, whole in zip(done, found[0][1], strict=True):
            assert mine.counts == whole.counts and mine.sums == pytest.approx(whole.sums, rel=1e-11)


def test_parts_of_a_batch_whose_rows_need_each_other_are_refused(
    rows: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MfBias, "couples_rows", True)
    with pytest.raises(
        ConfigError,
        match="train.accumulate: found 2; expected 1: a "
        "row's loss in mf_bias depends on the rows beside it",
    ):
        Loop(training.job(tmp_path, *rows, accumulate=2), workers.Workers())


def test_warm_up_scale_and_decay_by_hand() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    made = optim.build(Optim(name="sgd", lr=0.1), [{"params": [weight]}])

    def rates(settings: Optim, ranks: int) -> list[float]:
        found = []
        for number in range(5):
            optim.pace(made, settings, number, 8, ranks)
            found.append(made.param_groups[0]["lr"])
        return found

    assert rates(Optim(warmup_steps=4), 4) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates(Optim(warmup_steps=2, scale_lr="linear"), 4) == pytest.approx(
        [0.2, 0.4, 0.4, 0.4, 0.4]
    )
    assert rates(Optim(scale_lr="sqrt"), 4) == pytest.approx([0.2] * 5)
    assert rates(Optim(decay="linear"), 1) == pytest.approx([0.1, 0.0875, 0.075, 0.0625, 0.05])
    assert rates(Optim(decay="cosine"), 1) == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(5)]
    )
    assert rates(Optim(decay="linear", warmup_steps=2), 1) == pytest.approx(
        [0.05, 0.0875, 0.075, 0.0625, 0.05]
    )
    assert rates(Optim(), 4) == pytest.approx([0.1] * 5), "what was set before does not add up"


def test_the_loop_warms_up(rows: Source, tmp_path: Path) -> None:
    """14 steps an epoch. SGD from the same start: a first step of a quarter of the rate moves a
    quarter as far.
    """
    moved = []
    for name, settings in (("cold", {"warmup_steps": 4}), ("plain", {})):
        job = training.job(tmp_path / name, *rows, optim={"name": "sgd", "lr": 0.04, **settings})
        loop = Loop(job, workers.Workers(), stop=lambda: True)
        start = {key: value.clone() for key, value in loop.model.state_dict().items()}
        loop.run()
        moved.append(training.difference(loop.model.state_dict(), start))
    assert moved[0] == pytest.approx(moved[1] / 4, rel=1e-9)


@pytest.mark.parametrize(
    ("precision", "model"),
    [("bf16", "neumf"), ("bf16", "bpr_mf"), ("fp16", "neumf"), ("medium", "neumf")],
)
def test_half_precision_is_nearly_as_good(
    precision: str, model: str, rows: Source, pairs: Source, tmp_path: Path
) -> None:
    """Validation within .03 of float32's NDCG@10, after a training that reaches well above its
    start; weights stay float32.
    """
    best = {}
    for name in ("float32", precision):
        result = training.train_here(
            training.job(
                tmp_path / name,
                *(rows if model == "neumf" else pairs),
                model,
                dtype="float32",
                epochs=8,
                patience=8,
                batch_size=30,
                precision=name,
                config={"dim": 16, "num_negatives": 4},
            )
        )
        assert result is not None
        best[name] = result.best["ndcg@10"]
    assert best[precision] == pytest.approx(best["float32"], abs=0.03)
    assert {value.dtype for value in training.weights(tmp_path / precision).values()} == {
        torch.float32
    }
    if model == "neumf" and precision != "medium":  # which is float32 on a CPU that has no bfloat16
        assert (
            training.difference(
                training.weights(tmp_path / precision), training.weights(tmp_path / "float32")
            )
            > 1e-5
        ), "it took part"


class Told(Line):
    """It keeps how torch took float32 products in its last forward pass."""

    def forward(self, batch: Any, ctx: Context) -> dict[str, Tensor]:
        self.products = torch.get_float32_matmul_precision()
        return super().forward(batch, ctx)


@pytest.mark.parametrize("x", [1.0, math.inf])
def test_medium_holds_for_the_steps_alone(x: float) -> None:
    told = Told(False).float()
    stepper = Stepper(
        told,
        optim.build(Optim(name="sgd", lr=0.01), told.parameter_groups()),  # type: ignore[arg-type]
        workers.Workers(),
        0.0,
        precision="medium",
    )
    with contextlib.nullcontext() if math.isfinite(x) else pytest.raises(step.NotFinite):
        stepper((torch.tensor([x]), torch.zeros(1)), Context(), step.GO_ON)  # type: ignore[arg-type]
    assert told.products == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_scale_of_fp16_comes_back(rows: Source, tmp_path: Path) -> None:
    made, whole = (
        training.job(tmp_path / name, *rows, "neumf", dtype="float32", precision="fp16", epochs=2)
        for name in ("run", "whole")
    )
    training.train_here(whole)
    stopper = iter([False] * 17 + [True] * 100)
    assert training.train_here(made, stop=lambda: next(stopper)) is None
    loop = Loop(made, workers.Workers())
    assert (
        loop.optimiser.scaler is not None
        and loop.optimiser.scaler.state_dict()["_growth_tracker"] > 0
    )
    loop.run()
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )


def test_fp16_skips_a_step_that_overflows() -> None:
    line = Line(False).float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    made = optim.build(Optim(name="sgd", lr=0.01), line.parameter_groups(), scaler=scaler)
    stepper = Stepper(line, made, workers.Workers(), 0.0)  # type: ignore[arg-type]
    x = torch.tensor([1e15])
    stepper((x, torch.zeros(1)), Context(), False)  # type: ignore[arg-type]
    assert line.w.item() == 1.0 and scaler.get_scale() == 2.0**39, (
        "2e30 times 2**40 is more than float32 holds"
    )
    stepper((torch.ones(1), torch.zeros(1)), Context(), False)  # type: ignore[arg-type]
    assert line.w.item() == pytest.approx(0.97, abs=1e-6)


def test_half_precision_needs_float32() -> None:
    with pytest.raises(ValidationError, match="precision bf16 is for dtype float32"):
        Train(precision="bf16", dtype="float64")


def test_without_a_compiler_the_option_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError,
        match=r"train\.compile: found no C\+\+ compiler no-such-compiler .* set "
        r"train\.compile=false",
    ):
        step.compiled(torch.nn.Linear(1, 1))


@pytest.mark.soak  # most of a minute of compiling
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("sparse", [False, True])
def test_compiled_is_as_good(sparse: bool, rows: Source, tmp_path: Path) -> None:
    """The same training to rounding, in float64."""
    settings = {"name": "adam", "lr": 0.01, "sparse": sparse}
    for name, compiled in (("plain", False), ("compiled", True)):
        training.train_here(
            training.job(
                tmp_path / name, *rows, "neumf", epochs=1, compile=compiled, optim=settings
            )
        )
    assert (
        training.difference(
            training.weights(tmp_path / "plain"), training.weights(tmp_path / "compiled")
        )
        < 1e-9
    )
