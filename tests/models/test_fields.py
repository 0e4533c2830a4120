"""Fields of users, items and events: from shards to features, from raw columns to the same
features, and what is unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core import shardset
from recsys_spark.core.errors import ConfigError, ShardError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.nn.fields import FeatureTable, Fields, Slots, pooled
from recsys_spark.scoring import events, scorer
from recsys_spark.train.data.reader import Reader
from recsys_spark.train.feed import features
from tests import shardsets, training
from tests.models import worlds


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("rows")
    return folder, shardsets.pointwise(folder, fields=True)


@pytest.fixture(scope="module")
def model(rows: tuple[Path, Any]) -> Any:
    folder, made = rows
    model = registry.build(
        "fm", {}, Sizes(made.num_users, made.num_items, made.statistics, made.features), seed=1
    )
    features.fill(model, str(folder), made)
    return model


def test_side_files_become_features(rows: tuple[Path, Any], model: Any) -> None:
    """Features: 60 users, 40 items, then age (3 values), income, genres (3), hour (3), position; 0
    is unknown.
    """
    folder, made = rows
    age, income = (np.load(folder / name) for name in ("user.age.indices.npy", "user.income.npy"))
    assert model.fields.num_features == 60 + 40 + 3 + 1 + 3 + 3 + 1
    slots = model.fields.user(torch.tensor([0, 1, 2, 3]))
    assert slots.feature.tolist() == [
        [0, 0, 0],
        [1, 0, 104],
        [2, 100 + age[0], 0],
        [3, 100 + age[1], 104],
    ]
    np.testing.assert_allclose(slots.weight[3], [1, 1, (income[3] - 50) / 9], rtol=1e-6)
    assert slots.weight[2].tolist() == [1, 1, 0] and slots.weight[1, 1] == 0
    indptr, genres = (np.load(folder / f"item.genres.{name}.npy") for name in ("indptr", "indices"))
    for item in (2, 3, 17):
        tags = genres[indptr[item] : indptr[item + 1]]
        slots = model.fields.item(torch.tensor(item))
        assert slots.feature.tolist() == [60 + item, *(104 + tags), *[0] * (3 - len(tags))]
        assert slots.weight.tolist() == pytest.approx(
            [1, *[1 / len(tags)] * len(tags), *[0] * (3 - len(tags))]
        )
    assert model.fields.item(torch.tensor([[0], [1]])).feature.tolist() == [
        [[0, 0, 0, 0]],
        [[61, 0, 0, 0]],
    ]


def test_columns_of_the_event_become_features(rows: tuple[Path, Any], model: Any) -> None:
    numbers = next(Reader(rows[0], "train", batch_size=50, seed=1).epoch(0))
    batch = Rows.of(numbers)
    assert isinstance(batch, Rows) and batch.ts.tolist() == numbers["ts"].tolist()
    slots = model.fields.event(batch.codes, batch.numbers)
    hour = numbers["event_hour"]
    assert slots.feature.tolist() == [[code + 107 if code else 0, 111] for code in hour]
    assert (
        slots.weight[:, 0].tolist() == (hour > 0).tolist()
        and slots.weight[:, 1].tolist() == numbers["event_position"].tolist()
    )
    bare = Rows(batch.user, batch.item, batch.label, batch.weight, batch.row)
    unknown = model.fields.event(bare.codes, bare.numbers)
    assert (
        unknown.feature.tolist() == [[0, 111]] * len(batch)
        and not unknown.weight.any()
        and not bare.ts.any()
    )


def encoded(raw: pa.RecordBatch, fields: Any) -> tuple[torch.Tensor, ...]:
    """(codes, numbers, ts) as layout pointwise has them."""
    index = {name: [1] * raw.num_rows for name in ("query_idx", "item_idx")}
    rows = Rows.of(
        events.columns_of(pa.record_batch({**index, **raw.to_pydict()}, schema=None), fields)
    )
    return rows.codes, rows.numbers, rows.ts


def test_raw_values_mean_at_scoring_what_they_meant_in_training() -> None:
    fields = worlds.FIELDS
    raw = pa.record_batch(
        {
            "event_hour": ["2", "0", "23", None],
            "event_position": [1.5, None, float("nan"), -2.0],
            "ts": pa.array([1500, None, 5000, 0]),
        }
    )
    codes, numbers, ts = encoded(raw, fields)
    assert codes.tolist() == [[3], [1], [0], [0]], (
        "the 23 of no training row, and none at all, are out of vocabulary"
    )
    assert numbers.tolist() == [[1.5], [0], [0], [-2]] and ts.tolist() == [1500, 2000, 5000, 0]
    scaled = (fields[4].model_copy(update={"mean": 1.0, "std": 2.0}),)
    assert encoded(raw, scaled)[1].tolist() == [[0.25], [0], [0], [-1.5]]
    codes, numbers, ts = encoded(pa.record_batch({"query_idx": [1, 2]}), fields)
    assert (codes.tolist(), numbers.tolist(), ts.tolist()) == ([[0], [0]], [[0], [0]], [2000, 2000])
    assert [part.shape for part in encoded(raw, ())] == [(4, 0), (4, 0), (4,)]


def test_a_scorer_knows_the_fields_without_the_shards(
    rows: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, made = rows
    result = training.train_here(training.job(tmp_path, folder, made, "fm", epochs=2))
    assert result is not None
    loaded = store.load(tmp_path / result.checkpoint)
    assert loaded.sizes.fields == made.features
    one = scorer.load(tmp_path / result.checkpoint, k=5, seed=1)
    raw = pa.record_batch(
        {
            "query_idx": pa.array([3, 3, 99, 3], pa.int32()),
            "item_idx": pa.array([4, 4, 4, 99], pa.int32()),
            "event_hour": ["1", "nine", "1", "1"],
            "event_position": [0.3] * 4,
            "ts": [1500] * 4,
        }
    )
    with torch.no_grad():
        predicted = one.predict(raw).to_numpy()
    codes = torch.tensor([[2], [0], [2], [2]], dtype=torch.int32)
    user, item, nothing = torch.tensor([3, 3, 0, 3]), torch.tensor([4, 4, 4, 0]), torch.zeros(4)
    expected = loaded.predict(
        Rows(user, item, nothing, nothing, user, codes, torch.full((4, 1), 0.3)).to(
            "cpu", torch.float64
        )
    )["rating"]
    np.testing.assert_allclose(predicted, expected.detach().numpy(), rtol=1e-6)
    assert len(set(predicted)) == 4 and np.isfinite(predicted).all()


def test_a_user_with_fields_needs_no_history(tmp_path: Path) -> None:
    """Ranked by the model, not by the fallback; one whom the model has no index for is cold all the
    same.
    """
    query = pa.record_batch(
        {
            "query_idx": pa.array([3, 99], pa.int32()),
            "history": pa.array([[], []], pa.list_(pa.int32())),
        }
    )
    for name, sizes, cold in (
        ("fm", worlds.SIZES, [False, True]),
        ("fm", Sizes(30, 25), [True, True]),
        ("mf_bias", worlds.SIZES, [True, True]),
    ):
        place = tmp_path / f"{name}{len(sizes.fields)}"
        store.save(place, worlds.stirred(name, {}, sizes), name)
        with torch.no_grad():
            assert scorer.load(place, k=5, seed=1).rank(query).column("cold").to_pylist() == cold


def test_clicks_are_learned_and_judged_by_their_log_loss(tmp_path: Path) -> None:
    made = shardsets.pointwise(tmp_path / "clicks", fields=True, clicks=True)
    result = training.train_here(
        training.job(
            tmp_path / "run", tmp_path / "clicks", made, "logistic", epochs=4, batch_size=30
        )
    )
    assert result is not None and set(result.best) == {"log_loss"}
    _, held = shardsets.leave_last_out(shardsets.planted())
    loaded = store.load(tmp_path / "run" / result.checkpoint)
    rows = Reader(tmp_path / "clicks", "valid", batch_size=999, seed=1).epoch(0)
    batch = Rows.of(next(rows)).to("cpu", torch.float64)
    p = loaded.predict(batch)["click"].detach().numpy()
    expected = -np.where(batch.label.numpy() > 0, np.log(p), np.log1p(-p)).mean()
    assert len(batch) == len(held.user) and result.best["log_loss"] == pytest.approx(
        expected, rel=1e-9
    )


def test_ratings_are_no_clicks(rows: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ShardError, match=r"labels: found 1 to 5; expected 0 and 1, for logistic predicts clicks"
    ):
        training.train_here(training.job(tmp_path, *rows, "logistic"))
    with pytest.raises(ConfigError, match=r"train.monitor: found 'rmse'; expected one of log_loss"):
        training.train_here(training.job(tmp_path, *rows, "logistic", monitor="rmse"))


def test_a_user_is_known_by_its_fields_alone() -> None:
    """Two users that training never met: what differs between their predictions is the field."""
    model = worlds.stirred("mf_side", {})
    with torch.no_grad():
        # No user was ever met
        model.table.table.weight[1:31] = torch.tensor([0.0] + [5.0] * 32)[
            : model.table.table.weight.shape[1]
        ]
    both = [model.fields.get_buffer("user_index")[user, 0] for user in range(1, 31)]
    one, other = both.index(max(both)) + 1, both.index(min(both)) + 1
    assert both[one - 1] != both[other - 1]
    scores = model.score(worlds.Query(torch.tensor([one, other]), worlds.ragged([[], []])))
    own = FeatureTable.forward(model.table, model.fields.user(torch.tensor([one, other])), False)
    assert (
        not own.factors[:, 0].any()
        and not own.linear[:, 0].any()
        and (scores[0] - scores[1]).abs().min() > 0
    )


def test_what_training_never_met_adds_nothing() -> None:
    table = FeatureTable(4, 3, 0.1)
    with torch.no_grad():
        table.table.weight[2, 0] = 0.5
    slots = Slots(torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 1.0, 2.0]]))
    found, training_found = table(slots, False), table(slots, True)
    assert not found.factors[0, :2].any() and torch.equal(
        found.factors[0, 2], 2 * table.table.weight[2, 1:]
    )
    assert not training_found.factors[0, 0].any() and training_found.factors[0, 1].any(), (
        "in training it must be able to move"
    )
    assert found.linear.tolist() == [[0, 0, 1]]


def test_tags_are_averaged() -> None:
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert (
        pooled(vectors, [1, 2]).tolist() == [[[1, 2], [8, 10]]]
        and pooled(vectors, [1, 1, 1]) is vectors
    )


def test_a_set_without_fields_needs_none() -> None:
    fields = Fields(3, 2, ())
    assert fields.num_features == 5 and not list(fields.buffers())
    assert fields.user(torch.tensor([0, 3])).feature.tolist() == [[0], [3]] and fields.item(
        torch.tensor([2])
    ).feature.tolist() == [[5]]


def test_a_spoilt_side_file_is_named(rows: tuple[Path, Any], tmp_path: Path) -> None:
    made = shardsets.pointwise(tmp_path, fields=True)
    shardset.load(tmp_path, digests=True)
    path = tmp_path / "user.income.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ShardError, match=r"user.income.npy: found \d+ bytes; expected \d+ bytes"):
        shardset.load(tmp_path)
    path.write_bytes(path.read_bytes() + b"\1\2\3\4")
    with pytest.raises(ShardError, match=r"user.income.npy: found SHA-256"):
        shardset.load(tmp_path, digests=True)
    assert {feature.name for feature in made.features} == {
        "age",
        "income",
        "genres",
        "hour",
        "ts",
        "position",
    }
