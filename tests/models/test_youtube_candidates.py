"""youtube_candidates by hand; example age and log-Q where they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.core.errors import ShardError
from recsys_spark.models.base import Context, Sizes
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks import workers
from tests import shardsets, training
from tests.models import order_worlds, worlds


def test_scores_by_hand() -> None:
    """A tower over the mean of the last two items, in any order, and an age of zero."""
    model: Any = worlds.stirred("youtube_candidates", {"dim": 3, "last": 2, "age": True})
    parts = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    histories = [[9, 7, 2], [2, 7], [6]]
    query = worlds.Query(torch.zeros(3).int(), worlds.ragged(histories))
    scores = model.score(query).detach().numpy()
    for row, read in zip(scores, ([7, 2], [7, 2], [6]), strict=True):
        x = np.append(parts["item.weight"][read].mean(0), 0.0)
        for layer in (0, 1):
            x = parts[f"tower.{layer}.weight"] @ x + parts[f"tower.{layer}.bias"]
            x = x if layer else np.maximum(x, 0)
        np.testing.assert_allclose(row, parts["predicted.weight"] @ x, rtol=1e-10)


def test_users_have_equal_numbers_of_examples() -> None:
    """Three of each row's targets, others in another epoch, whoever is in the batch."""
    model: Any = worlds.stirred("youtube_candidates", {"dim": 3, "examples": 3})
    batch = worlds.batch("sequence")
    lengths = batch.items.offsets.diff()
    row = torch.repeat_interleave(torch.arange(len(batch)), lengths)
    all_targets = torch.bincount(row[batch.following > 0], minlength=len(batch))
    drawn = []
    for epoch in (1, 2):
        state, target = model.targets(batch, Context(seed=1, epoch=epoch))
        assert torch.equal(state, target) and bool((batch.following[target] > 0).all())
        counts = torch.bincount(row[target], minlength=len(batch))
        assert torch.equal(counts, all_targets.clamp(max=3)) and len(target.unique()) == len(target)
        drawn.append(set(target.tolist()))
    assert drawn[0] != drawn[1]
    (whole,) = worlds.terms(model, batch, Context()).values()
    assert float(whole.count) == float(all_targets.clamp(max=3).sum())
    halves = [
        worlds.terms(model, worlds.take(batch, rows), Context())["sampled"].sum.item()
        for rows in (list(range(5)), list(range(5, 12)))
    ]
    assert whole.sum.item() == pytest.approx(sum(halves), rel=1e-10)


@pytest.mark.parametrize("age", [True, False])
def test_example_age_tells_the_hits_of_today(age: bool) -> None:
    """Items 1 to 4 were the hits two years ago, 5 to 8 are now; most events are old. Item 9 is met
    first, at any time.
    """
    rng = np.random.default_rng(1)
    old = np.arange(100) % 10 < 7
    hits = rng.integers(1, 5, (100, 4)) + 4 * ~old[:, None]
    histories = [[9, *row] for row in hits]
    days = np.repeat(np.where(old, rng.uniform(600, 800, 100), rng.uniform(0, 30, 100)), 5)
    train = order_worlds.events(histories)._replace(value=days.astype(np.float32))
    config = {"dim": 8, "age": age, "shared_negatives": 32, "last": 5, "layers": [16]}
    model = worlds.fit("youtube_candidates", config, train, Sizes(100, 9), steps=100, lr=0.01)
    query = worlds.Query(torch.zeros(1).int(), worlds.ragged([[9]]))
    best = 1 + model.score(query)[0, 1:].detach().argsort(descending=True)[:4]
    now = float((best >= 5).float().mean())
    assert now == 1.0 if age else now <= 0.5


@pytest.mark.parametrize("log_q", [True, False])
def test_log_q_finds_the_popular_items(log_q: bool) -> None:
    """Three in ten of what follows item 1 are item 2, the others 3 to 16. Negatives are drawn as
    items are popular: without log-Q all seem alike.
    """
    rng = np.random.default_rng(1)
    follows = np.where(rng.random(400) < 0.3, 2, rng.integers(3, 17, 400))
    train = order_worlds.events(np.stack([np.ones(400, int), follows], 1))
    config = {"dim": 8, "shared_negatives": 64, "power": 1.0, "log_q": log_q, "layers": []}
    model = worlds.fit("youtube_candidates", config, train, Sizes(400, 16), steps=80, lr=0.03)
    query = worlds.Query(torch.zeros(1).int(), worlds.ragged([[1]]))
    share = model.score(query)[0, 2:].detach().softmax(0)[0]
    assert abs(float(share) - 0.3) < 0.06 if log_q else float(share) < 0.15


def job(folder: Path, ages: np.ndarray | None) -> Any:
    shards = shardsets.sequence(folder / "shards", ages=ages)
    config = {"dim": 4, "age": True, "shared_negatives": 8}
    run, place = folder / "run", folder / "shards"
    return training.job(run, place, shards, "youtube_candidates", config=config)


def test_ages_are_those_of_the_shards(tmp_path: Path) -> None:
    """Sixty users with eleven training events each."""
    ages = np.arange(660.0)
    loop = Loop(job(tmp_path, ages), workers.Workers())
    _, batch = next(iter(loop._batches()))
    place = (batch.entry_row & 0xFFFF).float()
    first = (batch.user.repeat_interleave(batch.items.offsets.diff()) - 1) * 11
    assert torch.equal(batch.age.float(), first + place + 1)


def test_shards_without_ages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no ages of events.*`ages: true`"):
        Loop(job(tmp_path, None), workers.Workers())
