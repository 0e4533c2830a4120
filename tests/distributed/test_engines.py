"""Three engines, one, two and four ranks: the same numbers on the same global batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys_spark.models import registry
from recsys_spark.train import entry
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.updates.gradients import Gradients
from tests import shardsets, training


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder, fields=True)


@pytest.fixture(scope="module")
def shards(
    rows: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Any]]:
    """A shard set of each layout, and of users' and items' rating profiles."""
    folders = {layout: tmp_path_factory.mktemp(layout) for layout in ("profile", "pairs")}
    clicks = tmp_path_factory.mktemp("click")
    made = {
        "pointwise": rows,
        "click": (clicks, shardsets.pointwise(clicks, fields=True, clicks=True)),
        **{
            layout: (folder, getattr(shardsets, layout)(folder))
            for layout, folder in folders.items()
        },
    }
    for by in ("user", "item"):
        folder = tmp_path_factory.mktemp(by)
        made[by] = folder, shardsets.ratings(folder, by)
    return made


def shards_of(model: str) -> str:
    kind = registry.find(model)
    if kind.task == "click":
        return "click"
    return kind.by_of({}) if kind.layout == "profile" and kind.task == "rating" else kind.layout


MODELS = [
    ("mf_bias", "horovod", 1),
    ("mf_bias", "horovod", 2),
    ("mf_bias", "torch", 2),
    ("mf_bias", "torch", 4),
    ("neumf", "horovod", 4),
    ("bpr_mf", "torch", 2),
    ("bpr_mf", "horovod", 4),
    ("fm", "horovod", 2),
    ("mf_side", "torch", 2),
    ("mf_variational", "torch", 2),
    ("multi_dae", "horovod", 2),
    ("cdae", "torch", 2),
    ("gmf", "torch", 2),
    ("ncf_mlp", "torch", 2),
    ("nnmf", "horovod", 2),
    ("autorec_item", "horovod", 2),
    ("rbm_cf", "torch", 2),
    ("logistic", "torch", 2),
    ("deepfm", "horovod", 2),
    ("wide_deep", "torch", 2),
    ("mf_temporal", "torch", 2),
]


@pytest.fixture(scope="module")
def alone(
    shards: dict[str, tuple[Path, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Run folders of one rank, by model."""
    folders = {model: tmp_path_factory.mktemp(model) for model in {name for name, *_ in MODELS}}
    for model, folder in folders.items():
        training.train_here(
            training.job(
                folder, *shards[shards_of(model)], model, optim={"lr": 0.01, "clip_norm": 0.5}
            )
        )
    return folders


@pytest.mark.parametrize(("model", "engine", "num_workers"), MODELS)
def test_the_same_numbers(
    model: str,
    engine: str,
    num_workers: int,
    shards: dict[str, tuple[Path, Any]],
    alone: dict[str, Path],
    tmp_path: Path,
) -> None:
    job = training.job(
        tmp_path,
        *shards[shards_of(model)],
        model,
        engine=engine,
        num_workers=num_workers,
        optim={"lr": 0.01, "clip_norm": 0.5},
    )
    assert training.train_on_ranks(job) == [entry.DONE] * num_workers
    assert training.difference(training.weights(tmp_path), training.weights(alone[model])) < 1e-10
    for mine, theirs in zip(_lines(tmp_path), _lines(alone[model]), strict=True):
        assert mine.pop("phase", None) == theirs.pop("phase", None)
        # Sums of a step travel in the gradients' buffer: float64 here.
        assert mine == pytest.approx(theirs, rel=1e-10)


BY_ROWS: list[tuple[str, dict[str, Any], str, int, dict[str, Any]]] = [
    ("neumf", {"name": "sparse_adam", "warmup_steps": 9}, "horovod", 2, {}),
    ("neumf", {"name": "sparse_adam", "warmup_steps": 9}, "torch", 4, {"sparse_as_dense": True}),
    ("neumf", {"name": "adam", "sparse": True, "decay": "linear"}, "horovod", 4, {}),
    ("bpr_mf", {"name": "adam", "sparse": True}, "torch", 2, {"sparse_as_dense": True}),
    ("fm", {"name": "adam", "sparse": True}, "torch", 2, {"accumulate": 3}),
    # Some ranks have no row in a step
    ("bpr_mf", {"name": "adam", "sparse": True}, "torch", 4, {"batch_size": 3}),
    (
        "bpr_mf",
        {"name": "rowwise_adagrad"},
        "torch",
        4,
        {"batch_size": 3},
    ),
    ("bpr_mf", {"name": "rowwise_adagrad"}, "horovod", 2, {"sparse_as_dense": True}),
    ("fm", {"name": "adagrad", "sparse": True}, "torch", 2, {"accumulate": 3}),
    ("fm", {"name": "sgd", "sparse": True}, "horovod", 4, {}),
]


@pytest.mark.parametrize(("model", "optimiser", "engine", "num_workers", "more"), BY_ROWS)
def test_sparse_gradients_give_the_same_numbers(
    model: str,
    optimiser: dict[str, Any],
    engine: str,
    num_workers: int,
    more: dict[str, Any],
    shards: dict[str, tuple[Path, Any]],
    tmp_path: Path,
) -> None:
    """Gathered by rows or added as whole tables, clipped, and with a batch in parts; one rank alone
    takes it whole.
    """
    settings = {
        "epochs": 1,
        "optim": {"lr": 0.05, "clip_norm": 0.5, **optimiser},
        "batch_size": more.get("batch_size", 50),
    }
    alone, made = (
        training.job(tmp_path / name, *shards[shards_of(model)], model, **settings, **train)
        for name, train in (("alone", {}), ("ranks", {"accumulate": more.get("accumulate", 1)}))
    )
    made = made.model_copy(
        update={
            "workers": made.workers.model_copy(
                update={
                    "engine": engine,
                    "num_workers": num_workers,
                    "sparse_as_dense": more.get("sparse_as_dense", False),
                }
            )
        }
    )
    training.train_here(alone)
    assert training.train_on_ranks(made) == [entry.DONE] * num_workers
    assert (
        training.difference(
            training.weights(tmp_path / "alone"), training.weights(tmp_path / "ranks")
        )
        < 1e-10
    )


def test_resumed_on_another_number_of_ranks(
    rows: tuple[Path, Any], alone: dict[str, Path], tmp_path: Path
) -> None:
    job = training.job(
        tmp_path,
        *rows,
        "neumf",
        engine="torch",
        num_workers=2,
        optim={"lr": 0.01, "clip_norm": 0.5},
    )
    asked = iter([False] * 19 + [True] * 100)
    one = job.model_copy(
        update={"workers": job.workers.model_copy(update={"engine": "single", "num_workers": 1})}
    )
    assert training.train_here(one, stop=lambda: next(asked)) is None
    assert [path.name for path in checkpoint.folders(tmp_path)][-1] == "step-00000020", (
        "in the middle of an epoch"
    )
    assert training.train_on_ranks(job) == [entry.DONE] * 2
    assert training.difference(training.weights(tmp_path), training.weights(alone["neumf"])) < 1e-10


def test_phases_are_the_same_on_any_number_of_ranks(rows: tuple[Path, Any], tmp_path: Path) -> None:
    """Pre-training, the copy and the joint training; then the same, stopped in the second phase on
    one rank and gone on with by two.
    """
    config = {"dim": 4, "pretrain_epochs": 2, "joint_lr": 0.5}
    alone, two, moved = (
        training.job(
            tmp_path / name,
            *rows,
            "neumf",
            engine=engine,
            num_workers=number,
            epochs=2,
            config=config,
        )
        for name, engine, number in (
            ("alone", "single", 1),
            ("two", "torch", 2),
            ("moved", "torch", 2),
        )
    )
    training.train_here(alone)
    asked = iter([False] * 34 + [True] * 100)
    one = moved.model_copy(update={"workers": alone.workers})
    assert training.train_here(one, stop=lambda: next(asked)) is None
    assert [line["phase"] for line in _lines(tmp_path / "moved")] == ["gmf", "gmf"], (
        "the second phase has begun"
    )
    for job in (two, moved):
        assert training.train_on_ranks(job) == [entry.DONE] * 2
        assert (
            training.difference(
                training.weights(Path(job.run_dir)), training.weights(tmp_path / "alone")
            )
            < 1e-10
        )
        assert [line["phase"] for line in _lines(Path(job.run_dir))] == [
            "gmf",
            "gmf",
            "mlp",
            "mlp",
            "joint",
            "joint",
        ]


def test_a_rank_needs_no_spark() -> None:
    blocked = (
        "import sys; sys.modules['pyspark'] = None; sys.modules['py4j'] = None; import "
        "recsys_spark.train.entry"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", blocked], capture_output=True, text=True, check=False
        ).stderr
        == ""
    )


class Doubling(training.Two):
    def _copy(self, flat: torch.Tensor) -> None:
        super()._copy(flat)
        flat.fill_(7)


def test_one_collective_for_each_dtype() -> None:
    group = Doubling()
    tensors = [torch.ones(2, 3), torch.ones(4).double(), torch.tensor(5.0), torch.ones(2, 2).t()]
    group.all_reduce_sum(tensors)
    assert [tensor.sum().item() for tensor in tensors] == [12, 8, 10, 8]
    assert sorted(group.calls) == [4, 11]
    group.broadcast(tensors[:1])
    assert tensors[0].tolist() == [[7] * 3] * 2


def test_gradients_travel_together_and_a_missing_one_is_zero() -> None:
    one, two = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))
    group = Doubling()
    gradients = Gradients([one, two], group)
    for _ in range(2):
        gradients.clear()
        (one * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert gradients.reduce([10.0, torch.tensor(1.5)]) == [20.0, 3.0]
        assert one.grad is not None and one.grad.tolist() == [2, 4, 6], (
            "nothing of the step before is left"
        )
        assert two.grad is not None and two.grad.tolist() == [[0, 0], [0, 0]]
    assert group.calls == [7 + 2 * 2] * 2, "each number travels as two"
    gradients.scale(0.5)
    assert one.grad is not None and one.grad.tolist() == [1, 2, 3]


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "examples_per_s")}
        for line in lines
    ]
