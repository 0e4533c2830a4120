"""A planted world of what users like, and how much of the way from popularity to the truth a
model's recommendations go.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from recsys_spark.batches.query import Query
from recsys_spark.models.base import Model, Sizes
from tests.models import worlds
from tests.shardsets import Events


class World(NamedTuple):
    train: Events
    sizes: Sizes
    # (U + 1, I + 1): how much a user likes an item; users meet what they like more often
    liking: np.ndarray


def make(num_users: int = 200, num_items: int = 60, per_user: int = 15, seed: int = 5) -> World:
    """Users and items lie on a circle, and some items are liked by all; a user likes what lies
    near.
    """
    rng = np.random.default_rng(seed)
    user, item = rng.uniform(0, 2 * np.pi, num_users), rng.uniform(0, 2 * np.pi, num_items)
    liking = 2.0 * np.cos(user[:, None] - item) + 0.5 * rng.normal(size=num_items)
    met = np.argsort(-(liking + rng.gumbel(size=liking.shape)), axis=1)[:, :per_user]
    train = Events(
        np.repeat(np.arange(1, num_users + 1, dtype=np.int32), per_user),
        (met + 1).ravel().astype(np.int32),
        np.ones(num_users * per_user, np.float32),
    )
    return World(train, Sizes(num_users, num_items), np.pad(liking, ((1, 0), (1, 0))))


def share(model: Model, world: World, k: int = 5) -> float:
    """Of the liking of k unseen items: 0 is as popularity, 1 as if the liking were known."""
    users, met = np.arange(1, world.sizes.num_users + 1), worlds.seen(world.train, world.sizes)
    with torch.no_grad():
        scores = model.score(
            Query(torch.from_numpy(users.astype(np.int32)), worlds.ragged([[]] * len(users)))
        ).numpy()
    mine, popular, oracle = (
        _liked(order, world, met, k)
        for order in (scores, np.tile(met.sum(0), (len(users), 1)), world.liking[1:])
    )
    return (mine - popular) / (oracle - popular)


def _liked(scores: np.ndarray, world: World, met: np.ndarray, k: int) -> float:
    unseen = np.where(met[1:], -np.inf, scores.astype(float))
    unseen[:, 0] = -np.inf
    best = np.argsort(-unseen, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(world.liking[1:], best, axis=1).mean())
