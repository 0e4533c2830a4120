"""What the page shows, as plain data: the report stage fills it, `report.html` draws it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys_spark.report.results import Metric, Value


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
    full: dict[str, dict[Metric, Value]] = field(default_factory=dict)  # run that ranked sampled candidates -> its model's full ranking


@dataclass(frozen=True)
class Training:
    """One trained model's epochs: dicts with `epoch` (from 0), training terms `train_*` and validation metrics."""

    name: str
    model: str
    monitor: str
    lower_is_better: bool
    epochs: tuple[dict[str, float], ...]
    facts: tuple[str, ...] = ()
    best: int | None = None  # the epoch that was kept; None: the best measured


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


@dataclass(frozen=True)
class Paired:
    """A run's metric minus the reference's, on the same users with the same replicas. None: not measured on both.

    p: two-sided; corrected: by Holm over the runs that are compared; both only where all users are meant.
    """

    run_id: str
    column: Metric
    slice: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None = None
    corrected: float | None = None


@dataclass(frozen=True)
class Compared:
    """Runs measured alike on one task. evaluation: holds the values of these runs alone; why: what made the reference one."""

    evaluation: Evaluation
    task: str
    primary: Metric
    reference: str  # run_id
    why: str
    replicas: int
    differences: tuple[Paired, ...]


@dataclass(frozen=True)
class Counted:
    """The items that have so many training events: how many they are, how often held out, how often in each run's lists."""

    events: int
    items: int
    held_out: int
    listed: dict[str, int]  # run_id -> places


@dataclass(frozen=True)
class Change:
    """What a run's lists change for users against the reference's: who gets a hit, and how much of a list stays."""

    run_id: str
    both: int  # users for whom both hit
    gained: int  # this run alone
    lost: int  # the reference alone
    neither: int
    shared: float  # items of a list that are also in the reference's, on average


@dataclass(frozen=True)
class Lists:
    """The lists of the compared runs, down to place k."""

    k: int
    reference: str  # run_id
    labels: dict[str, str]  # run_id -> name
    popularity: tuple[Counted, ...]
    changes: tuple[Change, ...]
    drawn: tuple[Example, ...]  # among all users
    differing: tuple[Example, ...]  # among users for whom one run hits and another does not


@dataclass(frozen=True)
class Comparison:
    title: str
    data: str  # one line on the data set
    facts: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, ...], ...]  # label, task, scored run, trained run, evaluate run
    compared: tuple[Compared, ...]
    lists: Lists | None = None
