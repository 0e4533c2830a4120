"""Planted worlds of users, items and events with fields: what a row's label is expected to be is a
known function of the fields.

Written with numpy alone, and shares nothing with the models but the classes they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.core.contracts import Feature
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Model, Sizes
from recsys_spark.models.pointwise._features import FeatureModel
from recsys_spark.nn.fields import Fields, Slots
from tests.models import worlds

# {field: values 0, 1, ... of N rows, "user", "item", "time" from 0 to 1} -> expected labels (N,)
Truth = Callable[[dict[str, np.ndarray]], np.ndarray]


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


def make(
    truth: Truth,
    fields: dict[str, tuple[str, int]],
    *,
    clicks: bool,
    cold: bool = False,
    rows: int = 12_000,
    num_users: int = 240,
    num_items: int = 60,
    noise: float = 0.5,
    seed: int = 0,
    timed: bool = False,
) -> World:
    """fields: {name: (side, number of values)}. A fifth of the rows is held; cold: all rows of a
    fifth of the users; timed: the last fifth in time, and rows know theirs, in millionths.
    """
    rng = np.random.default_rng(seed)
    entities = {"user": num_users, "item": num_items}
    values = {
        name: rng.integers(0, count, entities[side] + 1)
        for name, (side, count) in fields.items()
        if side in entities
    }
    user, item = rng.integers(1, num_users + 1, rows), rng.integers(1, num_items + 1, rows)
    seen = {
        name: values[name][user if side == "user" else item]
        if side in entities
        else rng.integers(0, count, rows)
        for name, (side, count) in fields.items()
    }
    time = rng.random(rows) if timed else np.zeros(rows)
    expected = truth({**seen, "user": user, "item": item, "time": time})
    label = rng.random(rows) < expected if clicks else expected + noise * rng.normal(size=rows)
    codes = [seen[name] + 1 for name, (side, _) in fields.items() if side == "event"]
    every = Rows(
        torch.from_numpy(user),
        torch.from_numpy(item),
        torch.from_numpy(label.astype(np.float32)),
        torch.ones(rows),
        torch.arange(rows),
        torch.from_numpy(np.stack(codes, 1) if codes else np.zeros((rows, 0), np.int64)),
        ts=torch.from_numpy((time * 1e6).astype(np.int64)),
    )
    held = time > 0.8 if timed else user <= num_users // 5 if cold else rng.random(rows) < 0.2
    features = tuple(
        Feature(name=name, side=side, kind="category", vocabulary=tuple(map(str, range(count))))  # type: ignore[arg-type]
        for name, (side, count) in fields.items()
    )
    features += (Feature(name="ts", side="event", kind="time", low=0.0, high=8e5),) if timed else ()
    mean = float(label[~held].mean())
    sizes = Sizes(
        num_users,
        num_items,
        {"label_mean": mean, "label_min": float(label.min()), "label_max": float(label.max())},
        features,
    )
    return World(
        sizes,
        values,
        *(worlds.take(every, np.flatnonzero(part).tolist()) for part in (~held, held)),
        expected[held],
        clicks,
    )


def plain() -> World:
    """Clicks whose logit is a number of the user's age, one of the item's genre and one of the
    hour, added.
    """
    effects = {
        "age": np.array([-1.5, 0.0, 1.5]),
        "genre": np.array([1.0, -1.0, 0.5, -0.5]),
        "hour": np.array([-0.5, 0.5]),
    }
    return make(
        lambda row: 1 / (1 + np.exp(-sum(effects[name][row[name]] for name in effects))),
        {"age": ("user", 3), "genre": ("item", 4), "hour": ("event", 2)},
        clicks=True,
    )


def fit(
    name: str,
    config: dict[str, Any],
    world: World,
    *,
    steps: int = 400,
    rows: int = 256,
    lr: float = 0.02,
    optimiser: str = "Adam",
    fields: bool = True,
) -> Model:
    """fields false: the model is not told of any."""
    torch.set_num_threads(1)  # threads of so small products wait for each other, spinning
    model = registry.build(
        name, config, world.sizes if fields else replace(world.sizes, fields=()), seed=1
    )
    _fill(model, world)
    steering = getattr(torch.optim, optimiser)(model.parameter_groups(), lr=lr)
    rng = np.random.default_rng(1)
    for step in range(steps):
        batch = worlds.take(world.train, rng.integers(0, len(world.train), rows).tolist())
        steering.zero_grad()
        worlds.total(
            worlds.terms(model, batch, Context(seed=1, step=step, training=True))
        ).backward()
        steering.step()
        model.after_step()
    return model


def predictions(model: Model, world: World) -> np.ndarray:
    with torch.no_grad():
        return model.predict(world.held)[model.task].double().numpy()


def _fill(model: Model, world: World) -> None:
    for known in (part for part in model.modules() if isinstance(part, Fields)):
        for side in ("user", "item"):
            columns = [
                world.values[feature.name] + 1 + known.start[feature.name]
                for feature in known.features[side]
            ]
            if columns:
                index = np.stack(columns, 1)
                known.fill(side, torch.from_numpy(index), torch.ones(index.shape))


def slots(model: FeatureModel, batch: Rows) -> Slots:
    """Of each row: of its user, its item and its event, one after the other."""
    sides = [(of.spread(one.feature), of.spread(one.weight)) for of, one in model.slots(batch)]
    return Slots(*(torch.cat(part, -1) for part in zip(*sides, strict=True)))
