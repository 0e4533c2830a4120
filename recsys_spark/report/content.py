"""Content of the pages as plain data: the report stage fills it in, `report.html` renders it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from recsys_spark.metrics.paired import Difference
from recsys_spark.report.results import Metric, Value


@dataclass(frozen=True)
class Evaluation:
    """One evaluate step. found: {scored step: {irregularity in its input: number of rows}}."""

    name: str
    split: str
    rule: str
    part: str
    users: int  # evaluated queries
    values: tuple[Value, ...]  # over all users and by slice
    activity_bounds: tuple[float, ...] = ()  # quartiles of the users' training events
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    # Run that ranked sampled candidates -> its model's full ranking
    full: dict[str, dict[Metric, Value]] = field(default_factory=dict)
    query_kind: str = "user"
    # {task: the first run of its table minus each other one, in the main metric}
    leads: dict[str, tuple[Paired, ...]] = field(default_factory=dict)
    # {task: {metric: the best run, and those that cannot be told apart from it}}
    level: dict[str, dict[Metric, frozenset[str]]] = field(default_factory=dict)
    replicas: int = 0


@dataclass(frozen=True)
class Training:
    """One trained model's epochs: dicts with `epoch` (from 0), training terms `train_*` and
    validation metrics.
    """

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
    """One query: items liked in training, held-out items, and the list of each run, best first."""

    query_id: str
    events: int
    liked: tuple[Item, ...]
    held_out: tuple[Item, ...]
    lists: dict[str, tuple[Item, ...]]  # label of the run -> items
    query_kind: str = "user"


@dataclass(frozen=True)
class Tail:
    """How unevenly events are spread over users, or items.

    counts: (events, entities that have so many), from the fewest events to the most.

    >>> tail = Tail(((1, 6), (2, 3), (8, 1)))  # ten items with 20 events
    >>> tail.entities, tail.events, tail.median, tail.most
    (10, 20, 1, 8)
    >>> tail.share(0.1)  # of all events, those of the most popular tenth of the items
    0.4
    >>> round(tail.share(0.2), 2)  # and one of the three items with 2 events
    0.5
    >>> tail.groups()  # (fewest events, most events, entities)
    [(1, 1, 6), (2, 2, 3), (5, 8, 1)]
    """

    counts: tuple[tuple[int, int], ...]

    @property
    def entities(self) -> int:
        return sum(entities for _, entities in self.counts)

    @property
    def events(self) -> int:
        return sum(events * entities for events, entities in self.counts)

    @property
    def median(self) -> int:
        """The lower one of two middle ones."""
        passed = 0
        for events, entities in self.counts:
            passed += entities
            if 2 * passed >= self.entities:
                return events
        return 0

    @property
    def most(self) -> int:
        return self.counts[-1][0] if self.counts else 0

    def share(self, top: float) -> float:
        """Share of the events that the `top` share of the entities has, those with most events."""
        room, taken = top * self.entities, 0.0
        for events, entities in reversed(self.counts):
            inside = min(room, entities)
            taken += inside * events
            room -= inside
        return taken / self.events if self.events else 0.0

    def groups(self) -> list[tuple[int, int, int]]:
        """(fewest, most, entities) of groups by number of events: 1, 2, 3 to 4, 5 to 8, ..."""
        sizes: dict[int, int] = {}
        for events, entities in self.counts:
            power = (events - 1).bit_length()
            sizes[power] = sizes.get(power, 0) + entities
        return [(2**power // 2 + 1, 2**power, n) for power, n in sorted(sizes.items())]


@dataclass(frozen=True)
class Period:
    start: int  # seconds since 1970
    events: int


@dataclass(frozen=True)
class Profile:
    """A picture of the events. repeated: events beyond the first of their user and item. first,
    last: seconds since 1970; None where the times are no dates. periods: of one `unit` each.
    value_range: low, mean, high. values: (value, events); empty where there are many.
    """

    events: int
    repeated: int
    users: Tail
    items: Tail
    first: int | None
    last: int | None
    unit: str
    periods: tuple[Period, ...]
    value_range: tuple[float, float, float] | None
    values: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Fitted:
    """How a measured model was made. settings: those it was fitted with; chosen: by how many
    trials, or as written in the pipeline; fit: the parts it was fitted on; peak_bytes: memory while
    it was fitted, search included; 0: not recorded.
    """

    run_id: str  # of the model's run
    label: str
    settings: tuple[tuple[str, str], ...]
    chosen: str
    fit: str
    seconds: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class Page:
    title: str
    data: str  # one line on the data set
    facts: tuple[tuple[str, str], ...]  # seed, machine, versions, ...
    evaluations: tuple[Evaluation, ...]
    trainings: tuple[Training, ...] = ()
    examples: tuple[Example, ...] = ()
    steps: tuple[tuple[str, str, float], ...] = ()  # run id, stage, seconds
    profile: Profile | None = None  # of the events that were split
    fitted: tuple[Fitted, ...] = ()


@dataclass(frozen=True)
class Paired:
    """A run's metric minus the reference's, on the same users with the same replicas. None: not
    measured on both.

    p: two-sided p-value; corrected: p corrected by Holm over the compared runs. Both are set only
    for the slice of all users.
    """

    run_id: str
    column: Metric
    slice: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None = None
    corrected: float | None = None

    @classmethod
    def of(
        cls,
        run_id: str,
        column: Metric,
        slice: str,
        difference: Difference,
        corrected: float | None = None,
    ) -> Paired:
        """corrected: with it the p-value is kept too."""
        value, low, high = map(_number, (difference.value, difference.low, difference.high))
        p = None if corrected is None else _number(difference.p)
        corrected = None if corrected is None else _number(corrected)
        return cls(run_id, column, slice, value, low, high, p, corrected)


@dataclass(frozen=True)
class Compared:
    """Runs measured alike on one task. evaluation: holds the values of these runs alone; why: the
    reason why this run is the reference.
    """

    evaluation: Evaluation
    task: str
    primary: Metric
    reference: str  # run_id
    why: str
    replicas: int
    differences: tuple[Paired, ...]


@dataclass(frozen=True)
class Counted:
    """Counts of the items with `events` training events: number of items, held-out events, places
    in the lists of each run.
    """

    events: int
    items: int
    held_out: int
    listed: dict[str, int]  # run_id -> places


@dataclass(frozen=True)
class Change:
    """Changes for users between the reference's lists and a run's: users by which of them hits, and
    the overlap of the lists.
    """

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
    query_kind: str = "user"


@dataclass(frozen=True)
class Comparison:
    title: str
    data: str  # one line on the data set
    facts: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, ...], ...]  # label, task, scored run, trained run, evaluate run
    compared: tuple[Compared, ...]
    lists: Lists | None = None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
