"""What the page shows, as plain data: the report stage fills it, `report.html` draws it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys_spark.report.results import Value


@dataclass(frozen=True)
class Evaluation:
    """One evaluate step. found: {scored step: {what was odd in its input: how often}}."""

    name: str
    split: str
    rule: str
    part: str
    users: int
    values: tuple[Value, ...]  # over all users and by slice
    activity_bounds: tuple[float, ...] = ()  # quartiles of the users' training events
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """One trained model's epochs: dicts with `epoch` (from 0), training terms `train_*` and validation metrics."""

    name: str
    model: str
    monitor: str
    lower_is_better: bool
    epochs: tuple[dict[str, float], ...]
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    item_id: str
    title: str
    genres: tuple[str, ...] = ()
    value: float | None = None  # the user's rating, where there is one


@dataclass(frozen=True)
class Example:
    """One user: what they liked in training, what was held out, and each run's list, best first."""

    user_id: str
    events: int
    liked: tuple[Item, ...]
    held_out: tuple[Item, ...]
    lists: dict[str, tuple[Item, ...]]  # label of the run -> items


@dataclass(frozen=True)
class Page:
    title: str
    data: str  # one line on the data set
    facts: tuple[tuple[str, str], ...]  # seed, machine, versions, ...
    evaluations: tuple[Evaluation, ...]
    trainings: tuple[Training, ...] = ()
    examples: tuple[Example, ...] = ()
    steps: tuple[tuple[str, str, float], ...] = ()  # run id, stage, seconds
