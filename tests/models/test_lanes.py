"""Order `lanes` and the state that outlives a batch, on a toy layout and model (tests/toys)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.batches import registry as batches
from recsys_spark.core import artifacts, columns, shardset
from recsys_spark.core.contracts import MANIFEST, Column, TrainJob
from recsys_spark.core.errors import CheckpointError, ConfigError, ShardError
from recsys_spark.models import registry
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from recsys_spark.train.saves import checkpoint
from tests import shardsets, toys, training

SHARDS, LANES, STEPS = 4, 8, 12
COLUMNS = tuple(
    Column(name=name, dtype=dtype)
    for name, dtype in (
        (columns.QUERY_IDX, "int32"),
        (columns.ITEM_IDX, "int32"),
        ("lane", "int32"),
        ("first", "int32"),
        (columns.LABEL, "float32"),
        (columns.WEIGHT, "float32"),
    )
)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    toys.install()
    yield
    toys.remove()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("lanes")
    return folder, write(folder)


def world() -> dict[str, np.ndarray]:
    """(LANES, STEPS) of every column; sessions begin at random, the last places are padding."""
    rng = np.random.default_rng(3)
    shape = (LANES, STEPS)
    first = rng.random(shape) < 0.3
    first[:, 0] = True
    weight = np.ones(shape, np.float32)
    weight[::2, -2:] = 0
    return {
        columns.QUERY_IDX: rng.integers(1, 6, shape).astype(np.int32),
        columns.ITEM_IDX: rng.integers(1, 5, shape).astype(np.int32),
        "lane": np.broadcast_to(np.arange(LANES, dtype=np.int32)[:, None], shape),
        "first": first.astype(np.int32),
        columns.LABEL: rng.integers(1, 6, shape).astype(np.float32),
        columns.WEIGHT: weight,
    }


def write(folder: Path, lanes: int = LANES) -> Any:
    cells = world()
    tables = [
        # Lane l lies in shard l % SHARDS; a shard's rows are in the order (step, lane)
        pa.table({name: cell[shard::SHARDS].T.ravel() for name, cell in cells.items()})
        for shard in range(SHARDS)
    ]
    made = shardsets.write(
        folder,
        "lanes",
        COLUMNS,
        {columns.TRAIN: tables},
        num_users=5,
        num_items=4,
        virtual_shards=SHARDS,
        row_group=5,
        labels=cells[columns.LABEL],
    )
    made = shardset.sealed(made.model_copy(update={"order": "lanes", "num_lanes": lanes}))
    artifacts.write_model(folder / MANIFEST, made)
    return made


def job(run_dir: Path, shards: tuple[Path, Any], **more: Any) -> TrainJob:
    settings = {"batch_size": LANES, "epochs": 2, "optim": {"name": "sgd", "lr": 0.005}, **more}
    made = training.job(run_dir, *shards, "running_mean", config={"": 0}, **settings)
    return made.model_copy(update={"config": {}, "phase_epochs": (2,)})


def expected(epochs: int = 2, lr: float = 0.005) -> list[float]:
    """The weights after training, by numpy, a step at a time."""
    cells = {name: cell.astype(float) for name, cell in world().items()}
    mix = np.array([0.5, 0.5])
    for _ in range(epochs):
        session, item = np.zeros((LANES, 2)), np.zeros(5)
        for step in range(STEPS):
            at = {name: cell[:, step] for name, cell in cells.items()}
            session[at["first"] > 0] = 0
            ids = at[columns.ITEM_IDX].astype(int)
            inputs = np.stack([session[:, 0] / np.maximum(session[:, 1], 1), item[ids]])
            label, weight = at[columns.LABEL], at[columns.WEIGHT]
            error = mix @ inputs - label
            mix = mix - lr * 2 * (inputs * (weight * error)).sum(1) / weight.sum()
            session += np.stack([weight * label, weight], 1)
            before = item.copy()
            # By row number v * 2**32 + p: shard by shard, and in it lane by lane
            for lane in sorted(range(LANES), key=lambda lane: (lane % SHARDS, lane)):
                changed = 0.5 * before[ids[lane]] + label[lane]
                item[ids[lane]] = changed if weight[lane] else before[ids[lane]]
    return [float(value) for value in mix]


def test_a_toy_layout_and_model_are_found_and_nothing_was_edited() -> None:
    assert "lanes" in batches.names() and registry.find("running_mean").layout == "lanes"
    toys.remove()
    assert "lanes" not in batches.names() and "running_mean" not in registry.names()
    with pytest.raises(
        ShardError, match="found 'lanes'; expected one of pairs, pointwise, profile"
    ):
        batches.find("lanes")


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_step_takes_a_row_of_each_lane_in_time_order(
    shards: tuple[Path, Any], num_ranks: int
) -> None:
    cells = world()
    for engine in ("arrow", "memory"):
        steps: list[dict[int, float]] = [{} for _ in range(STEPS)]
        for rank in range(num_ranks):
            reader = Reader(
                shards[0],
                "train",
                batch_size=LANES,
                seed=1,
                rank=rank,
                num_ranks=num_ranks,
                settings=training.Train(reader={"engine": engine}).reader,
            )
            for epoch in (0, 1):
                for step, batch in enumerate(reader.epoch(epoch)):
                    assert set(batch["lane"] % SHARDS % num_ranks) == {rank}
                    steps[step] |= dict(
                        zip(batch["lane"].tolist(), batch["label"].tolist(), strict=True)
                    )
        assert [[steps[s][lane] for s in range(STEPS)] for lane in range(LANES)] == cells[
            columns.LABEL
        ].tolist()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_is_the_hand_computed_one(
    shards: tuple[Path, Any], tmp_path: Path, accumulate: int
) -> None:
    """In one part or three: a part that goes forward twice commits its state once."""
    made = job(tmp_path, shards, accumulate=accumulate)
    assert training.train_here(made) is not None
    assert training.weights(tmp_path)["mix"].tolist() == pytest.approx(expected(), abs=1e-12)


@pytest.mark.parametrize(("engine", "number"), [("torch", 4), ("horovod", 2)])
def test_any_number_of_ranks_takes_up_what_another_saved(
    shards: tuple[Path, Any], tmp_path: Path, engine: str, number: int
) -> None:
    """Stopped in mid-epoch on one number of ranks, ended on another: the numbers of one run."""
    made = job(tmp_path, shards, engine=engine, num_workers=number, checkpoint_steps=STEPS + 5)
    asked = iter([False] * (STEPS + 5) + [True] * 99)
    assert training.train_here(made, stop=lambda: next(asked)) is None
    state = checkpoint.folders(tmp_path)[-1]
    assert state.name == f"step-{STEPS + 6:08d}"
    assert training.train_on_ranks(made, with_toys=True) == [0] * number
    assert training.weights(tmp_path)["mix"].tolist() == pytest.approx(expected(), abs=1e-10)


def test_ranks_save_what_one_rank_goes_on_from(shards: tuple[Path, Any], tmp_path: Path) -> None:
    made = job(tmp_path, shards, engine="torch", num_workers=2, epochs=1)
    made = made.model_copy(update={"phase_epochs": (1,)})
    assert training.train_on_ranks(made, with_toys=True) == [0, 0]
    assert training.weights(tmp_path)["mix"].tolist() == pytest.approx(expected(1), abs=1e-10)


def test_a_state_of_another_width_is_refused(shards: tuple[Path, Any], tmp_path: Path) -> None:
    loop = Loop(job(tmp_path, shards), workers.Workers())
    with pytest.raises(CheckpointError, match=r"carry session.*shape \(9, 3\).*shape \(9, 2\)"):
        loop.parts.carried.load({"session": torch.zeros(9, 3), "item": torch.zeros(5)})
    with pytest.raises(CheckpointError, match="carry item of the checkpoint: found none"):
        loop.parts.carried.load({"session": torch.zeros(9, 2)})


def test_a_batch_must_have_a_row_of_each_lane(shards: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: found 16; expected 8"):
        Loop(job(tmp_path, shards, batch_size=16), workers.Workers())
    folder = tmp_path / "odd"
    write(folder, lanes=20)
    with pytest.raises(ShardError, match="lanes: found virtual shards of"):
        Reader(folder, "train", batch_size=20, seed=1)
