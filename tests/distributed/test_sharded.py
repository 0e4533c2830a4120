"""Tables that lie on the ranks in parts: the same numbers as whole ones, a rank that holds its part
alone, ordinary checkpoints.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.core import columns
from recsys_spark.core.contracts import TrainJob
from recsys_spark.core.errors import ConfigError
from recsys_spark.nn.tables import table
from recsys_spark.train import entry
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.saves import checkpoint
from recsys_spark.train.updates import sharded
from recsys_spark.train.updates.gradients import Gradients
from recsys_spark.train.updates.sharded import Shard
from tests import shardsets, training

Source = tuple[Path, Any]
LEAST = 41  # rows: the tables of 60 users and of 40 items, with their row 0; nothing smaller is one


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("pointwise", "pairs", "profile")}
    return {kind: (folder, getattr(shardsets, kind)(folder)) for kind, folder in folders.items()}


def in_parts(job: TrainJob, engine: str, num_workers: int, least: int = LEAST) -> TrainJob:
    settings = {"engine": engine, "num_workers": num_workers, "shard_tables": least}
    return job.model_copy(update={"workers": job.workers.model_copy(update=settings)})


# Its tables move in turn with its network
CASES: list[tuple[str, str, dict[str, Any], str, int, dict[str, Any]]] = [
    ("bpr_mf", "pairs", {"name": "adam", "clip_norm": 0.5}, "horovod", 2, {}),
    # Some ranks have no row in a step
    (
        "bpr_mf",
        "pairs",
        {"name": "rowwise_adagrad", "clip_norm": 0.5},
        "torch",
        4,
        {"batch_size": 3},
    ),
    (
        "bpr_mf",
        "pairs",
        {"name": "adam", "sparse": True, "decay": "cosine"},
        "torch",
        2,
        {"batch_size": 5, "epochs": 2},
    ),
    ("neumf", "pointwise", {"name": "sparse_adam", "warmup_steps": 9}, "horovod", 4, {}),
    ("mf_bias", "pointwise", {"name": "adagrad"}, "torch", 2, {"epochs": 2}),
    ("mf_bias", "pointwise", {"name": "sgd", "sparse": True, "clip_norm": 0.5}, "torch", 2, {}),
    ("fm", "pointwise", {"name": "sgd", "momentum": 0.5, "weight_decay": 0.01}, "horovod", 2, {}),
    ("nnmf", "pointwise", {"name": "adamw"}, "torch", 2, {"epochs": 2}),
]


@pytest.mark.parametrize(("model", "layout", "optimiser", "engine", "num_workers", "train"), CASES)
def test_the_same_numbers_as_whole_tables(
    model: str,
    layout: str,
    optimiser: dict[str, Any],
    engine: str,
    num_workers: int,
    train: dict[str, Any],
    sources: dict[str, Source],
    tmp_path: Path,
) -> None:
    settings = {"epochs": 1, "optim": {"lr": 0.05, **optimiser}, **train}
    alone, parts = (
        training.job(tmp_path / name, *sources[layout], model, **settings)
        for name in ("alone", "parts")
    )
    training.train_here(alone)
    assert (
        training.train_on_ranks(in_parts(parts, engine, num_workers)) == [entry.DONE] * num_workers
    )
    assert (
        training.difference(
            training.weights(tmp_path / "alone"), training.weights(tmp_path / "parts")
        )
        < 1e-10
    )
    one, two = ((tmp_path / name / "best.json").read_text() for name in ("alone", "parts"))
    assert _numbers(one) == pytest.approx(_numbers(two), rel=1e-9), "the metrics of validation"


def test_phases_hand_on_the_best_weights(sources: dict[str, Source], tmp_path: Path) -> None:
    """Both pre-trainings get worse from epoch to epoch at this rate: their first epoch's weights
    are read again, by each rank its own.
    """
    config = {"dim": 4, "pretrain_epochs": 3, "joint_lr": 0.5}
    alone, parts = (
        training.job(
            tmp_path / name,
            *sources["pointwise"],
            "neumf",
            config=config,
            epochs=1,
            optim={"lr": 0.3},
            keep=9,
        )
        for name in ("alone", "parts")
    )
    result = training.train_here(alone)
    assert result is not None and min(result.phase_epochs[:2]) < 3, (
        "some phase went back to its best"
    )
    assert training.train_on_ranks(in_parts(parts, "torch", 2)) == [entry.DONE] * 2
    assert (
        training.difference(
            training.weights(tmp_path / "alone"), training.weights(tmp_path / "parts")
        )
        < 1e-8
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_any_number_of_ranks_goes_on_in_parts_or_whole(
    sparse: bool, sources: dict[str, Source], tmp_path: Path
) -> None:
    """Two ranks write in parts; one rank goes on from the middle of an epoch, then four in parts
    from where that one stood.
    """
    alone, run = (
        training.job(
            tmp_path / name,
            *sources["pointwise"],
            "neumf",
            checkpoint_steps=10,
            keep=9,
            optim={"name": "adam", "lr": 0.01, "sparse": sparse},
        )
        for name in ("alone", "run")
    )
    training.train_here(alone)

    def back_to(step: int) -> None:
        for folder in checkpoint.folders(tmp_path / "run"):
            if int(folder.name[-8:]) > step:
                shutil.rmtree(folder)

    for job, left in ((in_parts(run, "torch", 2), 20), (run, 30), (in_parts(run, "torch", 4), 0)):
        if job.workers.num_workers == 1:
            assert training.train_here(job) is not None
        else:
            assert training.train_on_ranks(job) == [entry.DONE] * job.workers.num_workers
        assert (
            training.difference(
                training.weights(tmp_path / "run"), training.weights(tmp_path / "alone")
            )
            < 1e-10
        )
        back_to(left)


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    """Each rank looks for it among its own rows, with look-ups of its own."""
    user, item = (column.ravel().astype(np.int32) for column in np.mgrid[1:11, 1:7])
    labels = np.where((user == 5) & (item == 6), np.nan, 3.0).astype(np.float32)
    rows = pa.table({columns.QUERY_IDX: user, columns.ITEM_IDX: item, columns.LABEL: labels})
    parts = {"train": shardsets.deal(rows, 64), "valid": shardsets.deal(rows.slice(0, 10), 64)}
    made = shardsets.write(
        tmp_path / "rows", "pointwise", shardsets.POINTWISE, parts, num_users=10, num_items=6
    )
    made = shardsets.seal(
        tmp_path / "rows",
        made.model_copy(
            update={
                "statistics": {
                    "label_count": 60.0,
                    "label_mean": 3.0,
                    "label_min": 1.0,
                    "label_max": 5.0,
                }
            }
        ),
    )
    job = in_parts(
        training.job(tmp_path / "run", tmp_path / "rows", made, batch_size=10), "torch", 2, least=7
    )
    assert training.train_on_ranks(job) == [entry.USER_ERROR] * 2
    told = sorted(json.loads(entry.error_file(job, rank).read_text())["thing"] for rank in range(2))
    assert "query_idx 5, item_idx 6, label nan" in told[0] and "rows of another rank" in told[1]


def test_a_rank_holds_its_rows_and_their_moments_alone(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    job = training.job(tmp_path, *sources["pointwise"], "mf_bias", optim={"name": "adagrad"})
    whole = Loop(job, Workers()).model
    loop = Loop(in_parts(job, "torch", 2, least=50), training.Two())
    assert [
        tuple(part.shape) for part in (loop.model.user.weight, loop.model.user_bias.weight)
    ] == [(31, 4), (31, 1)]
    assert torch.equal(loop.model.user.weight, whole.user.weight[::2]) and torch.equal(
        loop.model.item.weight, whole.item.weight
    )
    moments = {tuple(value["sum"].shape) for value in loop.optimiser.parts[0].state.values()}
    assert moments == {(31, 4), (31, 1), (41, 4), (41, 1)}


@pytest.mark.parametrize(
    ("model", "train", "least", "told"),
    [
        (
            "cdae",
            {},
            LEAST,
            r"shard_tables of cdae: found 41; expected a model whose steps reach the rows of "
            r"their batch alone",
        ),
        (
            "multi_dae",
            {},
            2,
            r"expected a table with so many rows; the largest has 0.*leave it out",
        ),
        (
            "mf_bias",
            {},
            62,
            r"expected a table with so many rows; the largest has 61.*lower workers\.shard_tables",
        ),
        ("mf_bias", {"accumulate": 2}, LEAST, r"train\.accumulate: found 2; expected 1"),
        (
            "mf_bias",
            {"dtype": "float32", "precision": "fp16"},
            LEAST,
            r"train\.precision: found fp16; expected float32 or bf16",
        ),
        ("mf_bias", {"compile": True}, LEAST, r"train\.compile: found True; expected false"),
    ],
)
def test_what_cannot_lie_in_parts_is_refused(
    model: str,
    train: dict[str, Any],
    least: int,
    told: str,
    sources: dict[str, Source],
    tmp_path: Path,
) -> None:
    source = sources["pointwise" if model == "mf_bias" else "profile"]
    with pytest.raises(ConfigError, match=told):
        Loop(
            in_parts(training.job(tmp_path, *source, model, **train), "single", 1, least), Workers()
        )


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_several_look_ups_and_a_step_without_any(sparse: bool) -> None:
    made = table(6, 2, 1.0).double()
    made.sparse = sparse
    shard = Shard(made, Workers())
    gradients = Gradients([made.weight], Workers(), shards=[shard])
    factor = torch.tensor([[1.0, 2.0], [8.0, 8.0], [10.0, 20.0]], dtype=torch.float64)
    rows, squares = made.with_squares(torch.tensor([[4], [5]], dtype=torch.int32))
    assert torch.equal(rows[:, 0], made.weight[4:6]) and torch.equal(squares, rows.square().sum(-1))
    ((made(torch.tensor([3, 0, 3])) * factor).sum() + 100.0 * rows[0].sum()).backward()
    gradients.reduce()
    expected = torch.zeros(7, 2, dtype=torch.float64)
    expected[3], expected[4] = torch.tensor([11.0, 22.0]), 100.0
    assert made.weight.grad is not None and torch.equal(
        made.weight.grad.to_dense() if sparse else made.weight.grad, expected
    )
    gradients.clear()
    gradients.reduce()
    assert made.weight.grad.is_sparse is sparse and not made.weight.grad.to_dense().any()


class Thread(Workers):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: threading.Barrier, said: list[Any]) -> None:
        super().__init__(rank, len(said))
        self.meeting, self.said = meeting, said

    def _sum(self, flat: torch.Tensor) -> None:
        flat.copy_(sum(self._all(flat.clone())))

    def _gather(self, mine: torch.Tensor, lengths: Any) -> list[torch.Tensor]:
        return self._all(mine.clone())

    def _all(self, mine: Any) -> list[Any]:
        self.said[self.rank] = mine
        self.meeting.wait(10)
        every = list(self.said)
        self.meeting.wait(10)
        return every


@pytest.mark.parametrize("rows", [6, 7, 12])
def test_a_table_is_put_together_from_blocks(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ranks, two rows of each at a time."""
    monkeypatch.setattr(sharded, "BLOCK_BYTES", 2 * 3 * 4 * 5)
    made = table(rows - 1, 5, 1.0)
    whole, meeting, said = made.weight.detach().clone(), threading.Barrier(3), [None] * 3
    found: dict[int, torch.Tensor] = {}

    def go(rank: int) -> None:
        other = table(rows - 1, 5, 1.0)
        other.weight.data.copy_(whole)
        shard = Shard(other, Thread(rank, meeting, said))
        assert len(other.weight) == -(-rows // 3)
        found[rank] = shard.whole(other.weight, tmp_path / "table")

    ranks = [threading.Thread(target=go, args=(rank,)) for rank in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(20)
    assert len(found) == 3 and all(torch.equal(one, whole) for one in found.values())


def _numbers(text: str) -> dict[str, float]:
    return {key: value for key, value in json.loads(text).items() if isinstance(value, float)}
