"""Planted worlds of users, items and events with fields: what a row's label is expected to be is a known function of the fields.

Written with numpy alone, and shares nothing with the models but the classes they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recsys_spark.core.contracts import Feature
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Model, Rows, Sizes
from recsys_spark.nn.fields import Fields
from tests.models import worlds

Truth = Callable[[dict[str, np.ndarray]], np.ndarray]  # {field: values 0, 1, ... of N rows, "user", "item"} -> expected labels (N,)


@dataclass(frozen=True)
class World:
    sizes: Sizes
    values: dict[str, np.ndarray]  # {field of users or items: value by index}
    train: Rows
    held: Rows
    oracle: np.ndarray  # expected labels of `held`
    clicks: bool

    def error(self, predicted: np.ndarray) -> float:
        """Mean squared error of ratings, mean log loss of clicks, over the held rows."""
        label = self.held.label.numpy()
        if self.clicks:
            return float(-np.where(label > 0, np.log(predicted), np.log1p(-predicted)).mean())
        return float(((predicted - label) ** 2).mean())

    def share(self, predicted: np.ndarray, baseline: np.ndarray | float) -> float:
        """Of the gap between the baseline and the oracle, what is closed."""
        worst = self.error(np.broadcast_to(baseline, predicted.shape))
        return (worst - self.error(predicted)) / (worst - self.error(self.oracle))


def make(truth: Truth, fields: dict[str, tuple[str, int]], *, clicks: bool, cold: bool = False, rows: int = 12_000, num_users: int = 240,
         num_items: int = 60, noise: float = 0.5, seed: int = 0) -> World:
    """fields: {name: (side, number of values)}. A fifth of the rows is held; cold: all rows of a fifth of the users."""
    rng = np.random.default_rng(seed)
    entities = {"user": num_users, "item": num_items}
    values = {name: rng.integers(0, count, entities[side] + 1) for name, (side, count) in fields.items() if side in entities}
    user, item = rng.integers(1, num_users + 1, rows), rng.integers(1, num_items + 1, rows)
    seen = {name: values[name][user if side == "user" else item] if side in entities else rng.integers(0, count, rows)
            for name, (side, count) in fields.items()}
    expected = truth({**seen, "user": user, "item": item})
    label = rng.random(rows) < expected if clicks else expected + noise * rng.normal(size=rows)
    codes = [seen[name] + 1 for name, (side, _) in fields.items() if side == "event"]
    every = Rows(torch.from_numpy(user), torch.from_numpy(item), torch.from_numpy(label.astype(np.float32)), torch.ones(rows),
                 torch.arange(rows), torch.from_numpy(np.stack(codes, 1) if codes else np.zeros((rows, 0), np.int64)))
    held = user <= num_users // 5 if cold else rng.random(rows) < 0.2
    features = tuple(Feature(name=name, side=side, kind="category", vocabulary=tuple(map(str, range(count))))  # type: ignore[arg-type]
                     for name, (side, count) in fields.items())
    mean = float(label[~held].mean())
    sizes = Sizes(num_users, num_items, {"label_mean": mean, "label_min": float(label.min()), "label_max": float(label.max())}, features)
    return World(sizes, values, *(worlds.take(every, np.flatnonzero(part).tolist()) for part in (~held, held)), expected[held], clicks)


def fit(name: str, config: dict[str, Any], world: World, *, steps: int = 400, rows: int = 256, lr: float = 0.02, optimiser: str = "Adam",
        fields: bool = True) -> Model:
    """fields false: the model is not told of any."""
    model = registry.build(name, config, world.sizes if fields else replace(world.sizes, fields=()), seed=1)
    _fill(model, world)
    steering = getattr(torch.optim, optimiser)(model.parameter_groups(), lr=lr)
    rng = np.random.default_rng(1)
    for step in range(steps):
        batch = worlds.take(world.train, rng.integers(0, len(world.train), rows).tolist())
        steering.zero_grad()
        worlds.total(worlds.terms(model, batch, Context(seed=1, step=step, training=True))).backward()
        steering.step()
        model.after_step()
    return model


def predictions(model: Model, world: World) -> np.ndarray:
    with torch.no_grad():
        return model.predict(world.held)[model.task].double().numpy()


def _fill(model: Model, world: World) -> None:
    for known in (part for part in model.modules() if isinstance(part, Fields)):
        for side in ("user", "item"):
            columns = [world.values[feature.name] + 1 + known.start[feature.name] for feature in known.features[side]]
            if columns:
                index = np.stack(columns, 1)
                known.fill(side, torch.from_numpy(index), torch.ones(index.shape))
