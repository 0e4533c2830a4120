"""Windows of histories: what a row reads and predicts, and that nothing of the future is in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.core import columns as c
from recsys_spark.core.errors import CheckpointError, RecsysError, ShardError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import noise, windows
from recsys_spark.scoring import serving
from recsys_spark.train.feed.shared import Shared
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from tests import shardsets, training
from tests.models import worlds

# Of users 1 and 2; user 2's second and third event have one time
HISTORY = worlds.ragged([[], [11, 12, 13, 14, 15], [21, 22, 23, 24]])
LATER = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 1])


def rows(*wanted: tuple[int, int, int]) -> Windows:
    user, first, last = np.array(wanted, np.int32).T.copy()
    return Windows.of({c.QUERY_IDX: user, c.FIRST: first, c.LAST: last})


def test_a_row_reads_what_was_before_its_targets() -> None:
    ages = torch.arange(10.0, 1.0, -1.0)
    batch = rows((1, 3, 5), (1, 1, 3), (2, 1, 4)).reading(HISTORY, LATER, 3, ages)
    # Longer than the window: the last three before the last target
    assert worlds.unragged(batch.items) == [[12, 13, 14], [11, 12], [21, 22, 23]]
    # Of another row's targets none; none of equal time; a window's own events are targets but once
    assert batch.following.tolist() == [0, 14, 15, 12, 13, 22, 0, 24]
    # Each has the age of the event that follows
    assert batch.age.tolist() == [8, 7, 6, 9, 8, 4, 3, 2]
    assert batch.take(torch.tensor([1])).age.tolist() == [9, 8]
    assert "query_idx 1, places 3 to 4 of its history" in batch.describe(0)


def test_shifting_the_future_changes_no_row_of_the_past() -> None:
    """Events at and after a row's last target are not in it; the targets themselves are no input of
    what predicts them.
    """
    changed = HISTORY.values.clone()
    changed[3:5] = 99  # user 1's places 3 and 4
    before, after = (
        rows((1, 1, 3)).reading(HISTORY._replace(values=values), LATER, 200)
        for values in (HISTORY.values, changed)
    )
    assert torch.equal(before.items.values, after.items.values)
    assert torch.equal(before.following, after.following)
    row = rows((1, 1, 5)).reading(HISTORY._replace(values=changed), LATER, 200)
    assert row.items.values.tolist() == [11, 12, 13, 99]
    assert row.following.tolist() == [12, 13, 99, 99]


def test_every_event_but_the_first_is_a_target_once() -> None:
    batch = rows((1, 3, 5), (1, 1, 3)).reading(HISTORY, torch.ones(9), 200)
    assert sorted(batch.following[batch.following > 0].tolist()) == [12, 13, 14, 15]


def test_rows_of_a_batch_are_those_it_takes() -> None:
    batch = rows((1, 3, 5), (1, 1, 3), (2, 1, 4)).reading(HISTORY, LATER, 3)
    batch = batch.beside(torch.arange(8)[:, None]).sharing(torch.tensor([5]), torch.zeros(1))
    part = batch.take(torch.tensor([2, 1]))
    assert worlds.unragged(part.items) == [[21, 22, 23], [11, 12]]
    assert part.following.tolist() == [22, 0, 24, 12, 13]
    assert part.negative[:, 0].tolist() == [5, 6, 7, 3, 4] and part.shared.tolist() == [5]
    places = [(int(row) >> 16, int(row) & 0xFFFF) for row in part.entry_row]
    assert places == [(2, 0), (2, 1), (2, 2), (1, 0), (1, 1)]
    assert part.positives()[0].tolist() == [2, 2, 2, 1, 1]


def test_recent_events() -> None:
    history = worlds.ragged([[5, 0, 6, 7], [], [0], [8]])
    assert worlds.unragged(windows.recent(history, 2)) == [[6, 7], [], [], [8]]


def test_padding_is_behind_the_events() -> None:
    places = windows.Places(worlds.ragged([[3], [], [4, 5]]))
    packed = torch.tensor([[1.0], [2.0], [3.0]])
    spread = places.spread(packed)
    assert spread[:, :, 0].tolist() == [[1, 0], [0, 0], [2, 3]]
    assert places.packed(spread).tolist() == packed.tolist()
    assert places.last(packed).tolist() == [[1], [0], [3]]
    assert places.from_end.tolist() == [0, 1, 0]
    packed = torch.tensor([[3.0], [4], [8], [12]])
    means = windows.Places(worlds.ragged([[3], [], [4, 8, 12]])).mean(packed, 2)
    assert means[:, 0].tolist() == [3, 4, 6, 10]
    assert places.newest(torch.tensor([3, 4, 5]), 2).tolist() == [[0, 3], [0, 4], [4, 5]]


@pytest.fixture(params=["sasrec", "gru4rec", "fpmc", "caser"])
def model(request: pytest.FixtureRequest) -> Any:
    return worlds.stirred(request.param, {"dim": 12, "dropout": 0.5, "length": 8})


def states(model: Any, *lists: list[int]) -> torch.Tensor:
    return model.states(worlds.ragged(list(lists)), lambda name, x: x)


def test_the_future_changes_no_state(model: Any) -> None:
    """What comes after an event, in its row or another one, may be anything."""
    one, other = states(model, [3, 4, 5, 6], [7, 8]), states(model, [3, 4, 9, 2], [1, 8])
    torch.testing.assert_close(one[:2], other[:2], rtol=1e-12, atol=1e-12)
    assert (one[2] - other[2]).abs().max() > 1e-3, "what came before is read"


def test_a_row_ends_with_its_session(model: Any) -> None:
    """No state goes from one row to the next, whatever the rows' lengths."""
    together = states(model, [3, 4, 5], [6], [7, 8])
    for at, alone in ((slice(0, 3), [3, 4, 5]), (slice(3, 4), [6]), (slice(4, 6), [7, 8])):
        torch.testing.assert_close(together[at], states(model, alone), rtol=1e-12, atol=1e-12)


def test_dropout_is_for_training_alone(model: Any) -> None:
    batch = worlds.batch("sequence")
    outputs = [model(batch, Context(seed=1, step=step))["loss"] for step in (1, 2)]
    assert torch.equal(*outputs)
    dropped = model(batch, Context(seed=1, step=1, training=True))["loss"]
    assert not torch.allclose(dropped, outputs[0])
    assert torch.equal(model.encode(worlds.query()), model.train().encode(worlds.query()))


def test_a_list_is_made_from_the_last_state(model: Any) -> None:
    """Of the last `length` events; an item that training did not know is skipped."""
    history = [[2, 3, 4], list(range(1, 12)), [2, 0, 3, 4]]
    query = worlds.Query(torch.tensor([1, 2, 0], dtype=torch.int32), worlds.ragged(history))
    expected = [states(model, read)[-1] for read in ([2, 3, 4], list(range(4, 12)), [2, 3, 4])]
    expected = model.queries(torch.stack(expected), query.user, torch.zeros(3))
    torch.testing.assert_close(model.encode(query), expected)


def test_one_history_is_ranked_from_every_event(model: Any, tmp_path: Path) -> None:
    """Without Spark too, as in lists; an empty history gets the fallback."""
    name = type(model).__name__.lower()
    store.save(tmp_path / serving.MODEL, model.float(), name)
    np.save(tmp_path / "counts.npy", np.arange(26, dtype=np.float32))
    serving.write(
        tmp_path,
        ids=[f"i{item}" for item in range(1, 26)],
        numbers=np.arange(1, 26, dtype=np.int32),
        model=name,
        run_id="score-1",
        seed=1,
        fallback=tmp_path / "counts.npy",
    )
    recommender = serving.load(tmp_path)
    query = worlds.Query(torch.zeros(1, dtype=torch.int32), worlds.ragged([[3, 4, 3, 5]]))
    scores = model.score(query).detach()[0]
    scores[[0, 3, 4, 5]] = -torch.inf
    best = recommender.recommend(["i3", "i4", "i3", "i5"], 3)
    assert [row.item_id for row in best] == [f"i{int(item)}" for item in scores.topk(3).indices]
    assert best[0].score == pytest.approx(float(scores.max()), rel=1e-5)
    assert [row.item_id for row in recommender.recommend([], 2)] == ["i25", "i24"]
    assert recommender.is_cold([]) and not recommender.is_cold(["i3"])


def test_many_queries_are_encoded_in_parts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.encode(worlds.query())
    monkeypatch.setattr("recsys_spark.models.sequence._next_item.QUERIES", 2)
    torch.testing.assert_close(model.encode(worlds.query()), whole, rtol=1e-12, atol=1e-12)


LOSSES: tuple[dict[str, Any], ...] = (
    {"loss": "softmax"},
    {"loss": "sampled", "shared_negatives": 5},
    {"loss": "bce"},
    {"loss": "gbce", "shared_negatives": 5, "calibration": 1.0},
)


@pytest.mark.parametrize("config", LOSSES, ids=lambda config: config["loss"])
def test_losses_by_hand(config: dict[str, Any]) -> None:
    """On the model's own states, over its own items."""
    model: Any = worlds.stirred("gru4rec", {"dim": 4, "dropout": 0.0, **config})
    batch = worlds.batch("sequence")
    h = states(model, *worlds.unragged(batch.items)).detach().numpy()
    items = model.item.weight.detach().numpy()
    target, total = batch.following.numpy(), 0.0
    for entry in np.flatnonzero(target):
        positive = items[target[entry]] @ h[entry]
        if config["loss"] == "softmax":
            total += np.log(np.exp(items[1:] @ h[entry]).sum()) - positive
            continue
        drawn = batch.negative[entry] if config["loss"] == "bce" else batch.shared
        counted = drawn.numpy() != target[entry]
        negative = items[drawn.numpy()] @ h[entry]
        if config["loss"] == "sampled":
            others = np.exp(negative - batch.log_expected.numpy())[counted]
            total += np.log(np.exp(positive) + others.sum()) - positive
        else:
            beta = 5 / 24 if config["loss"] == "gbce" else 1.0
            total += beta * np.log1p(np.exp(-positive)) + np.log1p(np.exp(negative))[counted].sum()
    (term,) = worlds.terms(model, batch, Context()).values()
    assert float(term.sum.detach()) == pytest.approx(total, rel=1e-12)
    assert float(term.count) == (target > 0).sum()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "sampled"}, "shared_negatives of at least 1"),
        ({"loss": "bce", "num_negatives": 0}, "bce needs num_negatives or shared_negatives"),
    ],
)
def test_settings_that_do_not_fit(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RecsysError, match=message):
        registry.build("sasrec", config, worlds.SIZES, 1)


def test_shared_negatives_follow_the_popularity() -> None:
    """To the power 1/2, counts 1, 4, 25 are drawn as 1, 2, 5; the same on every rank, new in each
    step.
    """
    shared = Shared(np.array([7, 1, 4, 25]), 80_000, 0.5, seed=3)
    items, log_expected = shared.draw(epoch=1, step=4)
    counts = np.bincount(items, minlength=4)
    assert counts[0] == 0 and np.abs(counts[1:] - [10_000, 20_000, 50_000]).max() < 500
    assert log_expected[items == 2][0] == pytest.approx(math.log(20_000))
    assert torch.equal(items, shared.draw(1, 4)[0]) and not torch.equal(items, shared.draw(1, 5)[0])


def test_dropout_keeps_its_share_and_draws_by_row() -> None:
    row = torch.arange(4000) + (3 << 40)
    kept = noise.kept(noise.key(1, "x", 2), row, 0.3, 7)
    assert kept.shape == (4000, 7) and kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (kept > 0).float().mean(0).sub(0.7).abs().max() < 0.03
    assert torch.equal(noise.kept(noise.key(1, "x", 2), row[5:9], 0.3, 7), kept[5:9])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("sequence")
    later = (np.random.default_rng(2).random(60 * 11) < 0.8).astype(float)
    return folder, shardsets.sequence(folder, virtual_shards=8, row_group=4, later=later)


def job(run_dir: Path, shards: tuple[Path, Any], model: str = "sasrec", **train: Any) -> Any:
    config = train.pop("config", {"dim": 4, "length": 6})
    return training.job(
        run_dir, *shards, model, config=config, **{"batch_size": 20, "epochs": 2, **train}
    )


CASES = [("gru4rec", LOSSES[1]), ("sasrec", LOSSES[2])]


@pytest.mark.parametrize(("name", "loss"), CASES, ids=lambda case: str(case)[:8])
def test_two_ranks_and_a_resume_give_the_numbers_of_one_run(
    shards: tuple[Path, Any], tmp_path: Path, name: str, loss: dict[str, Any]
) -> None:
    """One run ends on one rank; the other stops in mid-epoch and goes on on two."""
    config = {"dim": 4, "length": 6, **loss}
    whole = job(tmp_path / "one", shards, name, config=config)
    assert training.train_here(whole) is not None
    parted = job(tmp_path / "two", shards, name, config=config, engine="torch", num_workers=2)
    answers = iter([False] * 11 + [True] * 9)
    assert training.train_here(parted, stop=lambda: next(answers)) is None
    assert training.train_on_ranks(parted) == [0, 0]
    apart = training.difference(
        training.weights(tmp_path / "one"), training.weights(tmp_path / "two")
    )
    assert apart < 1e-10


def test_validation_reads_histories_in_order(shards: tuple[Path, Any], tmp_path: Path) -> None:
    """Its lists are those of the histories as they were, less what was met."""
    loop = Loop(job(tmp_path, shards), workers.Workers())
    reported = loop.parts.validate(loop.model)["ndcg@10"]
    train, held = shardsets.leave_last_out(shardsets.planted())
    histories = [train.item[train.user == user].tolist() for user in range(1, 61)]
    query = worlds.Query(torch.arange(1, 61, dtype=torch.int32), worlds.ragged(histories))
    scores = loop.model.score(query).detach()
    scores[:, 0] = -torch.inf
    for row, met in enumerate(histories):
        scores[row, met] = -torch.inf
    rank = (scores > scores.gather(1, torch.from_numpy(held.item).long()[:, None])).sum(1).numpy()
    assert reported == pytest.approx(np.where(rank < 10, 1 / np.log2(rank + 2.0), 0).mean())


def test_rows_of_more_targets_than_the_model_reads(
    shards: tuple[Path, Any], tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match="rows of up to 4 events.*at most 3.*row_targets=3"):
        Loop(job(tmp_path, shards, config={"dim": 4, "length": 3}), workers.Workers())


def test_a_state_of_another_width_is_refused(shards: tuple[Path, Any], tmp_path: Path) -> None:
    stopped = job(tmp_path, shards)
    answers = iter([False] * 3 + [True] * 9)
    assert training.train_here(stopped, stop=lambda: next(answers)) is None
    other = stopped.model_copy(update={"config": {**stopped.config, "dim": 8}})
    with pytest.raises(CheckpointError, match="job_digest.*resume with the job"):
        Loop(other, workers.Workers())


def test_it_learns_what_follows_what() -> None:
    """Items follow each other in a ring: order alone says what comes next."""
    rng = np.random.default_rng(1)
    starts = rng.integers(0, 20, 40)
    items = (starts[:, None] + np.arange(9)) % 20 + 1
    events = shardsets.Events(
        np.repeat(np.arange(1, 41, dtype=np.int32), 9),
        items.ravel().astype(np.int32),
        np.ones(360, np.float32),
    )
    for name in ("sasrec", "gru4rec"):
        model = worlds.fit(name, {"dim": 16, "dropout": 0.1}, events, Sizes(40, 20), steps=60)
        asked = worlds.ragged([[(3 + place) % 20 + 1 for place in range(5)]])
        best = model.score(worlds.Query(torch.zeros(1, dtype=torch.int32), asked))[0, 1:].argmax()
        assert int(best) + 1 == (3 + 5) % 20 + 1, name
