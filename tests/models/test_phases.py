"""Phases of a training: what moves, what each hands to the next, and what a resumed run equals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys_spark.core.contracts import Optim, TrainJob, Workers
from recsys_spark.models.base import Context, Gradient
from recsys_spark.models.pointwise.mf_bias import MfBias
from recsys_spark.train import phases
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint, saver
from recsys_spark.train.saves.checkpoint import State
from recsys_spark.train.updates import optim
from recsys_spark.train.validation import make
from tests import shardsets, training

STEPS = 14  # of an epoch: 660 rows in batches of 50


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder)


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """mf_bias in two phases: the biases by plain SGD, then all weights from factors drawn anew. The
    names of the phases begun.
    """
    begun: list[str] = []

    def staged_phases(self: MfBias) -> list[Gradient]:
        biases = [{"params": [self.user_bias.weight, self.item_bias.weight]}]
        return [
            Gradient("biases", biases, epochs=2, optim=Optim(name="sgd", lr=2.0)),
            Gradient("all", self.parameter_groups(), epochs=3),
        ]

    def begin(self: MfBias, phase: str) -> None:
        begun.append(phase)
        if phase == "all":
            with torch.no_grad():
                self.user.weight[1:] = torch.randn(self.user.weight[1:].shape) * 0.1

    monkeypatch.setattr(MfBias, "phases", staged_phases)
    monkeypatch.setattr(MfBias, "begin", begin)
    return begun


@pytest.fixture
def turning(monkeypatch: pytest.MonkeyPatch) -> None:
    def turning_phases(self: MfBias) -> list[Gradient]:
        groups = [
            {"name": "users", "params": [self.user.weight, self.user_bias.weight]},
            {"name": "items", "params": [self.item.weight, self.item_bias.weight], "lr": 0.02},
        ]
        return [Gradient("turns", groups, in_turn=True)]

    monkeypatch.setattr(MfBias, "phases", turning_phases)


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "examples_per_s")}
        for line in lines
    ]


def _stop_at(step: int) -> Any:
    asked = iter([False] * (step - 1) + [True] * 1000)
    return lambda: next(asked)


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """(ctx.phase, the weights) at each step."""
    seen: list[tuple[str, dict[str, torch.Tensor]]] = []
    original = MfBias.loss

    def loss(self: MfBias, batch: Any, output: Any, ctx: Context) -> Any:
        seen.append(
            (ctx.phase, {key: value.detach().clone() for key, value in self.named_parameters()})
        )
        return original(self, batch, output, ctx)

    monkeypatch.setattr(MfBias, "loss", loss)
    return seen


def test_what_a_phase_does_not_train_stands_still(
    staged: list[str], rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _spied(monkeypatch)
    training.train_here(training.job(tmp_path, *rows, optim={"lr": 0.01, "weight_decay": 0.1}))
    assert staged == ["biases", "all"]
    assert [phase for phase, _ in seen] == ["biases"] * 2 * STEPS + ["all"] * 3 * STEPS
    first, last = seen[0][1], seen[2 * STEPS - 1][1]
    assert torch.equal(first["user.weight"], last["user.weight"]) and torch.equal(
        first["item.weight"], last["item.weight"]
    )
    assert not torch.equal(first["user_bias.weight"], last["user_bias.weight"])
    assert all(
        not torch.equal(seen[-1][1][key], value) for key, value in seen[2 * STEPS][1].items()
    ), "then all of them move"
    lines = _lines(tmp_path)
    assert [(line["phase"], line["lr"]) for line in lines] == [("biases", 2.0)] * 2 + [
        ("all", 0.01)
    ] * 3
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]


def test_a_phase_starts_from_the_best_weights_of_the_one_before(
    staged: list[str], rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two epochs, the start of the second phase, three epochs
    values = iter([0.5, 0.8, 0.45, 0.44, 0.46, 0.47])
    monkeypatch.setattr(make, "make", lambda *_: lambda model: {"rmse": next(values), "mae": 0.5})
    seen = _spied(monkeypatch)
    result = training.train_here(training.job(tmp_path, *rows))
    best, start = seen[STEPS][1], seen[2 * STEPS][1]
    for key in ("user_bias.weight", "item_bias.weight", "item.weight"):
        assert torch.equal(best[key], start[key]), "of epoch 0, not of the worse epoch 1"
    assert not torch.equal(best["user.weight"], start["user.weight"]), "begin drew them anew"
    assert result is not None and (result.best_epoch, result.best["rmse"], result.epochs) == (
        2,
        0.44,
        5,
    )
    assert result.checkpoint == checkpoint.name(3 * STEPS)


def test_a_phase_that_never_improves_ends_and_leaves_its_start(
    staged: list[str],
    rows: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "recsys_spark")
    values = iter([0.9, 0.8, 0.5, 0.6, 0.7, 0.8])
    monkeypatch.setattr(make, "make", lambda *_: lambda model: {"rmse": next(values), "mae": 0.5})
    result = training.train_here(training.job(tmp_path, *rows, patience=2, keep=1))
    assert result is not None and (result.epochs, result.best_epoch, result.best["rmse"]) == (
        4,
        1,
        0.5,
    )
    checkpoint.verify(tmp_path / result.checkpoint)
    told = [record for record in caplog.records if "event=phase" in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO", "WARNING"]
    assert (
        "phase=all ended_by=patience epochs=2 improved=False best_epoch=1 rmse=0.5"
        in told[1].getMessage()
    )
    kept = training.load_file(tmp_path / result.checkpoint / "model.safetensors")
    assert training.difference(kept, training.weights(tmp_path)) > 0, "not the last weights"


@pytest.mark.parametrize("stop", [1, STEPS, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS + 5])
@pytest.mark.parametrize("kind", ["staged", "turning"])
def test_stopped_and_resumed_is_the_uninterrupted_run(
    kind: str, stop: int, rows: tuple[Path, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(kind)
    whole = training.job(tmp_path / "whole", *rows, epochs=4, patience=4)
    training.train_here(whole)
    made = training.job(tmp_path / "run", *rows, epochs=4, patience=4)
    training.train_here(made, stop=_stop_at(stop))
    assert training.train_here(made) is not None
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole")
    assert (tmp_path / "run/best.json").read_text() == (tmp_path / "whole/best.json").read_text()


def test_a_run_that_dies_between_two_phases_ends_the_first_one_again(
    staged: list[str], rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.train_here(training.job(tmp_path / "whole", *rows))
    made = training.job(tmp_path / "run", *rows)
    loop = Loop(made, workers.Workers())

    def dies(*_: Any, **__: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        original = saver.write
        patch.setattr(
            saver, "write", lambda job, taken: dies() if taken.state.phase else original(job, taken)
        )
        with pytest.raises(InterruptedError):
            loop.run()
    assert [path.name for path in checkpoint.folders(tmp_path / "run")] == [f"step-{STEPS:08d}"]
    assert training.train_here(made) is not None
    assert (
        training.difference(
            training.weights(tmp_path / "run"), training.weights(tmp_path / "whole")
        )
        == 0.0
    )
    assert staged == ["biases", "all", "biases", "all", "all"]


def test_groups_take_turns(
    turning: None, rows: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _spied(monkeypatch)
    training.train_here(training.job(tmp_path, *rows, epochs=4, patience=4))
    starts = [seen[epoch * STEPS][1] for epoch in range(4)]
    for before, after, moved, still in (
        (0, 1, "user", "item"),
        (1, 2, "item", "user"),
        (2, 3, "user", "item"),
    ):
        for suffix in (".weight", "_bias.weight"):
            assert not torch.equal(starts[before][moved + suffix], starts[after][moved + suffix])
            assert torch.equal(starts[before][still + suffix], starts[after][still + suffix])
    assert [(line["phase"], line["lr"]) for line in _lines(tmp_path)] == [
        ("users", 0.01),
        ("items", 0.02),
    ] * 2


def test_the_optimiser_remembers_a_group_while_others_have_their_turn(
    turning: None, rows: tuple[Path, Any], tmp_path: Path
) -> None:
    loop = Loop(training.job(tmp_path, *rows, epochs=3), workers.Workers())
    loop.run()
    moments, groups = optim.pack(loop.optimiser)
    steps = {group["name"]: int(moments[f"{group['params'][0]}.step"]) for group in groups}
    assert steps == {"users": 2 * STEPS, "items": STEPS}


def test_ranks_exchange_what_moves_alone(
    staged: list[str], rows: tuple[Path, Any], tmp_path: Path
) -> None:
    group = training.Two()
    loop = Loop(training.job(tmp_path, *rows), group)
    loop._freeze()
    group.calls.clear()
    biases = loop.model.user_bias.weight.numel() + loop.model.item_bias.weight.numel()
    loop._rest_of_epoch()
    assert group.calls == [biases + 2 * 5] * STEPS, (
        "with the sums of three terms, their count and the request, each in two numbers"
    )
    assert all(
        parameter.grad is None for parameter in (loop.model.user.weight, loop.model.item.weight)
    )


@pytest.mark.parametrize("kind", ["staged", "turning"])
def test_epochs_that_are_given_are_those_and_nothing_is_validated(
    kind: str, rows: tuple[Path, Any], tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many epochs of each phase as were best, in whichever epoch the choice stopped to look: the
    same weights.
    """
    request.getfixturevalue(kind)
    # Two epochs, the start of the second phase, three epochs; or five epochs.
    values = iter(
        [0.5, 0.8, 0.45, 0.44, 0.46, 0.47] if kind == "staged" else [0.9, 0.8, 0.7, 0.75, 0.8]
    )
    monkeypatch.setattr(make, "make", lambda *_: lambda model: {"rmse": next(values), "mae": 0.5})
    settings = {"epochs": 6, "patience": 2, "optim": {"lr": 0.03, "decay": "linear"}}
    chosen = training.train_here(training.job(tmp_path / "choice", *rows, **settings))
    made = training.job(tmp_path / "again", *rows, **settings).model_copy(
        update={"phase_epochs": chosen.phase_epochs}
    )
    training.train_here(made, stop=_stop_at(STEPS + 3))
    result = training.train_here(made)
    assert (
        result is not None
        and chosen is not None
        and result.epochs < chosen.epochs
        and result.best == {}
    )
    assert result.phase_epochs == chosen.phase_epochs == ((1, 1) if kind == "staged" else (3,))
    both = [
        training.load_file(tmp_path / name / of.checkpoint / "model.safetensors")
        for name, of in (("choice", chosen), ("again", result))
    ]
    # A second phase begins in an earlier epoch, so in another order of the rows.
    assert kind == "staged" or training.difference(*both) == 0.0
    assert (
        "rmse" not in _lines(tmp_path / "again")[0]
        and "train_squared_error" in _lines(tmp_path / "again")[0]
    )


def test_a_phase_that_improved_nothing_is_begun_where_epochs_are_given(
    staged: list[str], rows: tuple[Path, Any], tmp_path: Path
) -> None:
    for number, epochs in enumerate(((2, 0), (1, 2))):
        staged.clear()
        made = training.job(tmp_path / str(number), *rows).model_copy(
            update={"phase_epochs": epochs}
        )
        result = training.train_here(made)
        assert (
            result is not None
            and result.epochs == sum(epochs)
            and staged == ["biases", "all"]
            and result.phase_epochs == epochs
        )


def test_a_joint_model_that_joint_training_did_not_improve_is_what_it_begins_with(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    """A refit of such a choice once ended before the two parts were joined: a joint model at
    random.
    """
    made = training.job(
        tmp_path,
        *rows,
        "neumf",
        config={"dim": 4, "num_layers": 2, "num_negatives": 1, "pretrain_epochs": 2},
    )
    result = training.train_here(made.model_copy(update={"phase_epochs": (1, 1, 0)}))
    assert result is not None and result.phase_epochs == (1, 1, 0) and result.epochs == 2
    weights = training.weights(tmp_path)
    for side in ("user", "item"):
        parts = [weights[f"{part}.{side}.weight"] for part in ("gmf", "mlp")]
        assert torch.equal(weights[f"{side}.weight"], torch.cat(parts, 1)) and all(
            part.any() for part in parts
        )


def test_when_a_phase_is_over() -> None:
    train = training.Train(epochs=5, patience=3)
    job = TrainJob(
        run_id="",
        run_dir="",
        shards="",
        shard_fingerprint="",
        model="",
        config={},
        train=train,
        workers=Workers(),
        seed=1,
    )
    own, jobs = Gradient("own", [], epochs=2, patience=1), Gradient("jobs", [])
    assert phases.planned([own, jobs], train) == 7
    assert (
        phases.end(own, State(phase_epoch=4, epoch=5), job) == ""
        and phases.end(own, State(phase_epoch=4, epoch=6), job) == "epochs"
    )
    assert phases.end(own, State(phase_epoch=4, epoch=5, stale=1), job) == "patience"
    assert (
        phases.end(jobs, State(epoch=4, stale=2), job) == ""
        and phases.end(jobs, State(epoch=4, stale=3), job) == "patience"
    )
    assert phases.end(jobs, State(phase_epoch=2, epoch=7), job) == "epochs"
    given = job.model_copy(update={"phase_epochs": (4, 0, 1)})
    assert (
        phases.end(jobs, State(epoch=3), given) == ""
        and phases.end(jobs, State(epoch=4), given) == "epochs"
    )
