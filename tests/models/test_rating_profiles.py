"""Rating profiles in training: what is read, what is validated on, and who is not forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.query import Query
from recsys_spark.models import store
from recsys_spark.scoring import model_scorer, scorer, worker
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks.workers import Workers
from tests import shardsets, training
from tests.models import worlds


@pytest.fixture(scope="module", params=["user", "item"])
def shards(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, shardsets.ratings(folder, request.param)


def entries(
    shards: tuple[Path, Any], part: str
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """{(row's own index, entry): value} of the profiles and of what is held, as batches bring
    them.
    """
    known: dict[tuple[int, int], float] = {}
    held: dict[tuple[int, int], float] = {}
    for numbers in Reader(shards[0], part, batch_size=7, seed=1).epoch(0):
        batch = Profile.of(numbers)
        assert isinstance(batch, Profile)
        for found, lists, values in (
            (known, batch.items, batch.values),
            (held, batch.held, batch.held_values),
        ):
            row = torch.repeat_interleave(batch.user, lists.offsets.diff())
            for mine, other, value in zip(
                row.tolist(), lists.values.tolist(), values.tolist(), strict=True
            ):
                assert (mine, other) not in found
                found[mine, other] = value
    return known, held


def test_a_held_out_rating_is_in_no_input(shards: tuple[Path, Any]) -> None:
    """Training profiles are the same in both parts, hold nothing of what is held, and valid has
    every held rating, those of user 1 too.
    """
    planted = shardsets.planted()
    train, held = shardsets.leave_last_out(planted)
    turn = (
        (lambda user, item: (user, item))
        if shards[1].by == "user"
        else (lambda user, item: (item, user))
    )
    expected = [
        {turn(u, i): v for u, i, v in zip(*(column.tolist() for column in events), strict=True)}
        for events in (
            train.where(train.user != 1),
            shardsets.Events(
                *(
                    np.concatenate(both)
                    for both in zip(held, train.where(train.user == 1), strict=True)
                )
            ),
        )
    ]
    known, nothing = entries(shards, "train")
    again, asked = entries(shards, "valid")
    assert known == expected[0] and asked == expected[1] and nothing == {}
    assert not set(known) & set(asked) and again.items() <= known.items()


def test_validation_is_the_error_over_every_held_rating(
    shards: tuple[Path, Any], tmp_path: Path
) -> None:
    """Also of those without a training profile: user 1, or an item that only user 1 met."""
    loop = Loop(training.job(tmp_path, *shards, f"autorec_{shards[1].by}"), Workers())
    _, asked = entries(shards, "valid")
    loop.model.predict = lambda batch: {"rating": torch.full_like(batch.held_values, 3.25)}  # type: ignore[method-assign]
    found = loop.parts.validate(loop.model)
    errors = np.array(list(asked.values())) - 3.25
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-12)


def test_it_learns(shards: tuple[Path, Any], tmp_path: Path) -> None:
    result = training.train_here(
        training.job(
            tmp_path,
            *shards,
            f"autorec_{shards[1].by}",
            config={"hidden_dim": 8, "l2": 1.0, "centred": shards[1].by == "user"},
            epochs=10,
            batch_size=16,
            optim={"lr": 0.05},
        )
    )
    train, held = shardsets.leave_last_out(shardsets.planted())
    assert result is not None and result.best["rmse"] < 0.95 * np.sqrt(
        ((held.value - train.value.mean()) ** 2).mean()
    )


def test_rows_of_a_batch_are_taken_with_what_is_held() -> None:
    batch = Profile(
        torch.tensor([4, 5]),
        Ragged(torch.tensor([0, 2, 3]), torch.tensor([7, 8, 9])),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([10, 11]),
        Ragged(torch.tensor([0, 1, 3]), torch.tensor([1, 2, 3])),
        torch.tensor([4.0, 5.0, 6.0]),
    )
    second = batch.take(torch.tensor([1]))
    assert isinstance(second, Profile)
    assert (second.user.tolist(), second.items.values.tolist(), second.values.tolist()) == (
        [5],
        [9],
        [3.0],
    )
    assert (
        second.held.offsets.tolist(),
        second.held.values.tolist(),
        second.held_values.tolist(),
    ) == ([0, 2], [2, 3], [5.0, 6.0])
    assert Profile(batch.user, batch.items, batch.values, batch.row).held.offsets.tolist() == [
        0,
        0,
        0,
    ]


def arrow(**columns: list[Any]) -> pa.RecordBatch:
    """Indices are int32, or lists of them; values lists of float32, keys lists of strings."""
    kinds = {"value": pa.float32(), "row_key": pa.string()}
    arrays = []
    for name, values in columns.items():
        kind = kinds.get(name, pa.int32())
        arrays.append(pa.array(values, pa.list_(kind) if isinstance(values[0], list) else kind))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


@pytest.mark.parametrize(
    ("name", "own"),
    [("autorec_user", "query_idx"), ("autorec_item", "item_idx"), ("rbm_cf", "query_idx")],
)
def test_a_worker_gives_a_row_for_each_held_entry(
    name: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in blocks of any size; a row without history, and entries that came after the
    training (99), among them.
    """
    model = worlds.stirred(name, {}).float()
    store.save(tmp_path, model, name)
    batch = arrow(
        **{
            own: [4, 9, 90],
            ("query_idx" if own == "item_idx" else "item_idx"): [[3, 99, 7], [], [2]],
            "value": [[5.0, 1.0, 2.0], [], [4.0]],
            "held_idx": [[1, 2], [99], [3]],
            "row_key": [["a", "b"], ["c"], ["d"]],
        }
    )
    settings = worker.Settings(str(tmp_path), k=1, seed=1, passed=("row_key",))
    made = []
    for cells in (model_scorer.CELLS, 1):
        monkeypatch.setattr(model_scorer, "CELLS", cells)
        made.append(next(worker.predict_batches(settings, iter([batch]))))
    one, other = (batch.column("prediction").to_pylist() for batch in made)
    assert one == pytest.approx(other, abs=1e-4) and made[0].column("row_key").to_pylist() == [
        "a",
        "b",
        "c",
        "d",
    ]
    profile = Profile(
        torch.tensor([4, 9, 90]),
        worlds.ragged([[3, 0, 7], [], [2]]),
        torch.tensor([5.0, 1.0, 2.0, 4.0]),
        torch.arange(3),
        worlds.ragged([[1, 2], [0], [3]]),
        torch.zeros(4),
    )
    assert made[0].column("prediction").to_pylist() == pytest.approx(
        model.predict(profile)["rating"].tolist(), abs=1e-4
    )


def test_a_list_is_ranked_with_what_was_thought_of_the_history(tmp_path: Path) -> None:
    model = worlds.stirred("autorec_user", {}).float()
    store.save(tmp_path, model, "autorec_user")
    liked, disliked = (
        arrow(query_idx=[4], history=[[3, 7]], history_values=[values])
        for values in ([5.0, 5.0], [1.0, 1.0])
    )
    made = scorer.load(tmp_path, k=3, seed=1)
    for batch, values in ((liked, [5.0, 5.0]), (disliked, [1.0, 1.0])):
        scores = model.score(
            Query(torch.tensor([4]), worlds.ragged([[3, 7]]), torch.tensor(values))
        )[0]
        scores[[0, 3, 7]] = -torch.inf
        with torch.inference_mode():
            assert made.rank(batch).column("item_idx").to_pylist() == [
                scores.topk(3).indices.tolist()
            ]
