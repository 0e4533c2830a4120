"""What the tests of models share: batches of every layout, their pieces, and the total of a
loss.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark.batches.base import Batch, Ragged
from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.batches.layouts.pointwise import Rows
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.layouts.sequence import Windows
from recsys_spark.batches.query import Query
from recsys_spark.core import columns
from recsys_spark.core.contracts import Feature
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Model, SharedItems, Sizes, Term
from recsys_spark.nn.fields import Fields
from recsys_spark.train.feed.shared import Shared
from tests import shardsets
from tests.shardsets import Events

FIELDS = (
    Feature(name="age", side="user", kind="category", vocabulary=("18", "25", "35")),
    Feature(name="income", side="user", kind="number"),
    Feature(
        name="genres",
        side="item",
        kind="tags",
        vocabulary=("Comedy", "Drama", "War", "Noir"),
        slots=3,
    ),
    Feature(name="hour", side="event", kind="category", vocabulary=("0", "1", "2")),
    Feature(name="position", side="event", kind="number"),
    Feature(name="ts", side="event", kind="time", low=1000.0, high=2000.0),
)
SIZES = Sizes(
    30, 25, {"label_count": 360.0, "label_mean": 3.5, "label_min": 1.0, "label_max": 5.0}, FIELDS
)


# Learning rates of `fit` other than 0.01: a gradient of samples needs larger steps, where there are
# few
PACE = {"rbm_cf": 0.05}


def ragged(lists: list[list[int]]) -> Ragged:
    """[[3, 1], [], [2]] as CSR."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    return Ragged(
        torch.from_numpy(offsets),
        torch.tensor([item for row in lists for item in row], dtype=torch.int32),
    )


def unragged(rows: Ragged) -> list[list[int]]:
    return (
        [part.tolist() for part in rows.values.tensor_split(rows.offsets[1:-1])]
        if len(rows.offsets) > 1
        else []
    )


def profiles(
    lists: list[list[int]], row: Tensor | None = None, user: Tensor | None = None
) -> Profile:
    """Of users 1, 2, ... in rows 0, 1, ..., where nothing else is said."""
    items = ragged(lists)
    return Profile(
        user=torch.arange(1, len(lists) + 1, dtype=torch.int32) if user is None else user,
        items=items,
        values=torch.ones(len(items.values)),
        row=torch.arange(len(lists)) if row is None else row,
    )


def batch(layout: str, rows: int = 12, seed: int = 0, sizes: Sizes = SIZES) -> Any:
    """A random batch of `rows` rows, float64, row numbers that are not 0..B-1, one row with padding
    in it.
    """
    rng = np.random.default_rng(seed)
    row = torch.from_numpy(rng.permutation(1000)[:rows].astype(np.int64)) + (5 << 32)
    if layout == "pointwise":
        index = [
            torch.from_numpy(rng.integers(1, n + 1, rows).astype(np.int32))
            for n in (sizes.num_users, sizes.num_items)
        ]
        label = rng.integers(0, 2, rows) if seed % 2 else rng.integers(1, 6, rows) / 5
        weight = rng.choice([0.5, 1.0, 2.0], rows)
        codes, numbers, ts = (
            rng.integers(0, 4, (rows, 1)),
            rng.normal(size=(rows, 1)),
            rng.integers(900, 2100, rows),
        )
        return Rows(
            *index,
            *map(torch.from_numpy, (label.astype(float), weight)),
            row,
            *map(torch.from_numpy, (codes.astype(np.int32), numbers, ts)),
        ).to("cpu", torch.float64)
    if layout == "profile":
        lists = [
            sorted(rng.permutation(sizes.num_items)[: rng.integers(0, 9)] + 1) for _ in range(rows)
        ]
        made = profiles([list(map(int, items)) for items in lists], row)
        held = ragged(
            [
                list(map(int, rng.permutation(sizes.num_items)[: rng.integers(0, 4)] + 1))
                for _ in range(rows)
            ]
        )
        values, held_values = (
            torch.from_numpy(rng.integers(1, 6, len(of.values)).astype(float))
            for of in (made.items, held)
        )
        return replace(made, values=values, held=held, held_values=held_values).to(
            "cpu", torch.float64
        )
    if layout == "pairs":
        user, item, negative = (
            torch.from_numpy(rng.integers(1, n + 1, shape))
            for n, shape in (
                (sizes.num_users, rows),
                (sizes.num_items, rows),
                (sizes.num_items, (rows, 3)),
            )
        )
        return Pairs(user.int(), item.int(), negative, row)
    if layout == "sequence":
        return windows(rows, rng, row, sizes).to("cpu", torch.float64)
    raise AssertionError(f"teach tests/models/worlds.py to make a batch of layout {layout!r}")


def windows(rows: int, rng: np.random.Generator, row: Tensor, sizes: Sizes) -> Windows:
    """Windows of one to eight events, some of them without a target, a negative each and five for
    the step, one of which is a target.
    """
    items = ragged(
        [rng.integers(1, sizes.num_items + 1, rng.integers(1, 9)).tolist() for _ in range(rows)]
    )
    count = len(items.values)
    user, last = (
        torch.from_numpy(rng.integers(low, high, rows).astype(np.int32))
        for low, high in ((1, sizes.num_users + 1), (9, 20))
    )
    following = rng.integers(1, sizes.num_items + 1, count) * (rng.random(count) < 0.8)
    shared = rng.integers(1, sizes.num_items + 1, 5)
    shared[0] = following.max()
    return Windows(
        user=user,
        first=(last - 1).clamp(min=1),
        last=last,
        items=items,
        following=torch.from_numpy(following.astype(np.int32)),
        age=torch.from_numpy(rng.integers(0, 900, count).astype(float)),
        negative=torch.from_numpy(rng.integers(1, sizes.num_items + 1, (count, 1))),
        shared=torch.from_numpy(shared),
        log_expected=torch.from_numpy(np.log(rng.random(5))),
        row=row,
    )


def at_no_moment(rows: Rows) -> Rows:
    """The rows as a ranking knows them: nothing of the event, at the last training time."""
    return replace(
        rows,
        codes=torch.zeros_like(rows.codes),
        numbers=torch.zeros_like(rows.numbers),
        ts=torch.full_like(rows.ts, 2000),
    )


def take(whole: Any, index: list[int]) -> Any:
    """The rows `index` of a batch, in that order."""
    if isinstance(whole, Windows):
        return whole.take(torch.tensor(index, dtype=torch.int64))
    if not isinstance(whole, Profile):
        return replace(
            whole, **{field.name: getattr(whole, field.name)[index] for field in fields(whole)}
        )
    (items, values), (held, held_values) = (
        _picked(*of, index) for of in ((whole.items, whole.values), (whole.held, whole.held_values))
    )
    return Profile(whole.user[index], items, values, whole.row[index], held, held_values)


def _picked(lists: Ragged, values: Tensor, index: list[int]) -> tuple[Ragged, Tensor]:
    items, beside = (
        unragged(lists),
        [part.tolist() for part in values.tensor_split(lists.offsets[1:-1])],
    )
    return ragged([items[i] for i in index]), torch.tensor(
        [v for i in index for v in beside[i]], dtype=values.dtype
    )


def query(rows: int = 6, seed: int = 0, sizes: Sizes = SIZES) -> Query:
    """Known users, an unknown one (0) without history, and padding in one history."""
    rng = np.random.default_rng(seed)
    histories = [[int(i) for i in rng.permutation(sizes.num_items)[:4] + 1] for _ in range(rows)]
    histories[0], histories[1] = [], [0, *histories[1]]
    users = np.r_[0, rng.integers(1, sizes.num_users + 1, rows - 1)].astype(np.int32)
    return Query(torch.from_numpy(users), ragged(histories))


def part(whole: Query, index: list[int]) -> Query:
    lists = unragged(whole.history)
    return Query(whole.user[index], ragged([lists[i] for i in index]))


def tiny(kind: type[Model]) -> dict[str, Any]:
    """Every width 4, the rest as the model has it."""
    return {name: 4 for name in kind.Config.model_fields if name == "dim" or name.endswith("_dim")}


def stirred(name: str, config: dict[str, Any], sizes: Sizes = SIZES, seed: int = 0) -> Model:
    """A model in float64 whose weights are all away from their start: what holds for it does not
    hold by accident of zeros.
    """
    model = registry.build(name, config, sizes, seed).double()
    draw = torch.Generator().manual_seed(seed)
    fill(model, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return model


def fill(model: Model, seed: int = 0) -> None:
    """Users and items get random values of their fields; those of row 0, and some others, stay
    unknown.
    """
    rng = np.random.default_rng(seed)
    for known in (part for part in model.modules() if isinstance(part, Fields)):
        for side, rows in (
            ("user", model.sizes.num_users + 1),
            ("item", model.sizes.num_items + 1),
        ):
            columns = [_values(known, feature, rows, rng) for feature in known.features[side]]
            if columns:
                index, weight = (
                    np.concatenate(part, axis=1) for part in zip(*columns, strict=True)
                )
                index[0] = 0
                known.fill(side, torch.from_numpy(index), torch.from_numpy(weight * (index > 0)))


def _values(
    known: Fields, feature: Feature, rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight), each (rows, slots)."""
    first = known.start[feature.name]
    if feature.kind == "number":
        return np.full((rows, 1), first + 1), rng.normal(size=(rows, 1))
    code = rng.permuted(np.tile(np.arange(len(feature.vocabulary) + 1), (rows, 1)), axis=1)[
        :, : feature.slots
    ]
    known = (code > 0).sum(1, keepdims=True)
    return np.where(code > 0, code + first, 0), np.repeat(
        1.0 / np.maximum(known, 1), feature.slots, axis=1
    )


def terms(model: Model, rows: Batch, ctx: Context) -> dict[str, Term]:
    return model.loss(rows, model(rows, ctx), ctx)


def total(parts: dict[str, Term]) -> Tensor:
    """What one rank minimises."""
    return torch.stack([term.coefficient * term.sum / term.count for term in parts.values()]).sum()


def planted() -> tuple[Events, Events, Sizes]:
    """(train, held, sizes): 300 users and 60 items with a taste of two numbers; each user's last
    event is held.
    """
    train, held = shardsets.leave_last_out(shardsets.planted(300, 60, 15))
    statistics = {
        "label_count": float(len(train.value)),
        "label_mean": float(train.value.mean()),
        "label_min": 1.0,
        "label_max": 5.0,
    }
    return train, held, Sizes(300, 60, statistics, FIELDS[-1:])


def fit(
    name: str,
    config: dict[str, Any],
    train: Events,
    sizes: Sizes,
    *,
    steps: int,
    rows: int = 64,
    lr: float | None = None,
    start: Model | None = None,
    by: Any = torch.optim.Adam,
) -> Model:
    """By Adam in batches of `rows`, from a new model or `start`; negatives are drawn anew at each
    step, outside the user's training items.
    """
    model = start or registry.build(name, config, sizes, seed=1)
    optimiser = by(model.parameter_groups(), lr=lr or PACE.get(name, 0.01))
    rng, met = np.random.default_rng(1), seen(train, sizes)
    order, whose = np.empty(0, np.int64), model.by_of(config)
    for step in range(steps):
        if len(order) < rows:
            profiled = sizes.num_users if whose == "user" else sizes.num_items
            by_user = model.layout in ("profile", "sequence")
            order = rng.permutation(profiled if by_user else len(train.user))
        chosen, order = order[:rows], order[rows:]
        if model.layout == "profile":
            made: Any = profiles_of(chosen + 1, train, by=whose)
        elif model.layout == "sequence":
            made = windows_of(chosen + 1, train, sizes)
            if model.num_negatives:
                users = made.positives()[0].numpy()
                made = made.beside(_unmet(users, model.num_negatives, met, rng))
            for draw in model.draws():
                if isinstance(draw, SharedItems):
                    counts = np.bincount(train.item, minlength=sizes.num_items + 1)
                    made = made.sharing(*Shared(counts, draw.num, draw.power, 1).draw(0, step))
        else:
            made = rows_of(Events(*(column[chosen] for column in train)), model.task)
            if model.layout == "pairs":
                made = Pairs(
                    made.user,
                    made.item,
                    _unmet(made.user.numpy(), model.num_negatives, met, rng),
                    made.row,
                )
            elif model.num_negatives:
                made = _with_negatives(made, model.num_negatives, met, rng)
        optimiser.zero_grad()
        total(terms(model, made, Context(seed=1, step=step, training=True))).backward()
        optimiser.step()
        model.after_step()
    return model


def profiles_of(
    of: np.ndarray, events: Events, held: Events | None = None, by: str = "user"
) -> Profile:
    """The events of the users (or items) `of`, items sorted, with their values, in rows of their
    numbers less 1.
    """

    def entries(rows: Events) -> tuple[Ragged, Tensor]:
        mine, others = (rows.user, rows.item) if by == "user" else (rows.item, rows.user)
        order = np.lexsort((others, mine))
        starts, ends = (np.searchsorted(mine[order], of, side=side) for side in ("left", "right"))
        picked = [order[start:end] for start, end in zip(starts, ends, strict=True)]
        return ragged([others[rows].tolist() for rows in picked]), torch.from_numpy(
            rows.value[np.concatenate(picked).astype(int)]
        )

    row, user = torch.from_numpy(of - 1).long(), torch.from_numpy(of).int()
    return Profile(user, *entries(events), row, *(() if held is None else entries(held)))


def windows_of(users: np.ndarray, train: Events, sizes: Sizes) -> Windows:
    """The whole histories of the users, in rows of their numbers; the values of the events are
    their ages.
    """
    counts = np.bincount(train.user, minlength=sizes.num_users + 1)
    history = Ragged(torch.from_numpy(np.append(0, counts.cumsum())), torch.from_numpy(train.item))
    rows = {
        columns.QUERY_IDX: users.astype(np.int32),
        columns.FIRST: np.ones(len(users), np.int32),
        columns.LAST: counts[users].astype(np.int32),
        "row": users.astype(np.int64),
    }
    later, ages = torch.ones(len(train.item)), torch.from_numpy(train.value)
    return Windows.of(rows).reading(history, later, 200, ages)


def answers(model: Model) -> Tensor:
    """What it says of some queries; of a model of items' profiles, which cannot rank, its
    predictions.
    """
    return (
        model.score(query())
        if ranks(model)
        else model.predict(batch(model.layout).to("cpu", next(model.parameters()).dtype))["rating"]
    )


def ranks(model: Model) -> bool:
    return model.by_of(model.config.model_dump()) == "user"


def rows_of(events: Events, task: str = "rating") -> Rows:
    """Events as rows of weight 1, labelled with their value, or as clicks with whether that is
    above the middle.
    """
    count = len(events.user)
    rows = Rows(*map(torch.from_numpy, events), torch.ones(count), torch.arange(count))
    return replace(rows, label=(rows.label > 3).to(rows.label.dtype)) if task == "click" else rows


def _with_negatives(rows: Rows, number: int, met: np.ndarray, rng: np.random.Generator) -> Rows:
    """The rows with label 1, then `number` items each that the user has not met, with label 0."""
    user = rows.user.repeat_interleave(number)
    item = _unmet(rows.user.numpy(), number, met, rng).int().view(-1)
    label = torch.cat([torch.ones(len(rows)), torch.zeros(len(user))])
    return Rows(
        torch.cat([rows.user, user]),
        torch.cat([rows.item, item]),
        label,
        torch.ones(len(label)),
        torch.arange(len(label)),
    )


def _unmet(user: np.ndarray, number: int, met: np.ndarray, rng: np.random.Generator) -> Tensor:
    """int64 (B, number): items that the users (B,) have not met."""
    user = np.repeat(user[:, None], number, axis=1)
    item = rng.integers(1, met.shape[1], user.shape)
    while (again := met[user, item]).any():
        item[again] = rng.integers(1, met.shape[1], again.sum())
    return torch.from_numpy(item)


def seen(train: Events, sizes: Sizes) -> np.ndarray:
    """bool (U + 1, I + 1)"""
    met = np.zeros((sizes.num_users + 1, sizes.num_items + 1), bool)
    met[train.user, train.item] = True
    return met


def items_of(met: np.ndarray, users: np.ndarray) -> list[list[int]]:
    return [[int(item) for item in np.flatnonzero(met[user])] for user in users]


def hits(model: Model, train: Events, held: Events, sizes: Sizes, k: int = 5) -> float:
    """Share of users whose held item is among the k best of those not seen."""
    met = seen(train, sizes)
    scores = model.score(Query(torch.from_numpy(held.user), ragged(items_of(met, held.user))))
    return _hit_rate(scores.detach().numpy(), met, held, k)


def popularity_hits(train: Events, held: Events, sizes: Sizes, k: int = 5) -> float:
    met = seen(train, sizes)
    return _hit_rate(np.tile(met.sum(0), (len(held.user), 1)), met, held, k)


def _hit_rate(scores: np.ndarray, met: np.ndarray, held: Events, k: int) -> float:
    scores = np.where(met[held.user], -np.inf, scores.astype(float))
    scores[:, 0] = -np.inf
    return float((np.argsort(-scores, axis=1)[:, :k] == held.item[:, None]).any(1).mean())
