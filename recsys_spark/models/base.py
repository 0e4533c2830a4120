"""The interface of models. A model never handles an optimiser, a rank, a file or a data frame.

Shapes, everywhere: B batch rows, C candidates, D width, N negatives, U users, I items, K top, L
history. Indices run 1..U and 1..I; row 0 of a table is padding and out-of-vocabulary, so tables
have U + 1 and I + 1 rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from recsys_spark.batches import registry as batches
from recsys_spark.batches.query import Query
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Feature, Optim
from recsys_spark.core.errors import ShardError
from recsys_spark.nn import noise


@dataclass(frozen=True)
class Sizes:
    """Facts about the data that a model may use: counts, statistics of the training rows
    (label_count, label_mean, label_min, label_max), and the fields of users, items and events. (The
    fields' values: nn/fields.py.)
    """

    num_users: int
    num_items: int
    statistics: dict[str, float] = field(default_factory=dict)
    fields: tuple[Feature, ...] = ()

    def clamped(self, ratings: Tensor) -> Tensor:
        """Clamp ratings to the range of the training labels, if it is known."""
        statistics = self.statistics
        return (
            ratings.clamp(statistics.get("label_min"), statistics.get("label_max"))
            if "label_min" in statistics
            else ratings
        )

    def statistic(self, name: str) -> float:
        """One of the statistics. Raises ShardError when the shard set lacks it."""
        if name not in self.statistics:
            raise ShardError(
                "statistics of the shard set",
                found=", ".join(self.statistics) or "none",
                expected=f"{name} among them",
                remedy="run export_shards again, with `label: value`",
            )
        return self.statistics[name]


class ItemVectors(NamedTuple):
    """The items' side of scores that are dot products: a query with the vector q (`Model.encode`)
    ranks the items i by q . items[i] + bias[i].
    """

    items: Tensor  # (I + 1, D)
    bias: Tensor  # (I + 1,)


@dataclass(frozen=True)
class Draw:
    """A random draw that a model needs with each batch; train/feed/enrich.py makes it."""


@dataclass(frozen=True)
class NegativeItems(Draw):
    """`num` items for each positive row, uniform over those that the user has not met in training,
    or over all.
    """

    num: int
    unmet: bool = True


@dataclass(frozen=True)
class Histories(Draw):
    """The windows of layout sequence: of the `length` events before a row's last target, those that
    there are. ages: with that of each event that follows.
    """

    length: int
    ages: bool = False


@dataclass(frozen=True)
class SharedItems(Draw):
    """`num` negative items for the whole step, the same on every rank, with replacement and with
    the probability of an item in proportion to its events to the power `power`.
    """

    num: int
    power: float


CARRY = "carry."  # prefix of a carry's name in the output of `forward`


@dataclass(frozen=True)
class Carry:
    """State kept between batches: a tensor of `shape` for each lane, user or item, initially zero.

    `forward` reads the rows' state in `ctx.carry[name]`, (B, *shape), and returns the new state as
    output[CARRY + name]; it takes effect from the next step on. A batch by lane has `lane` int64
    (B,) and `first` bool (B,), which marks where a lane begins anew.
    """

    shape: tuple[int, ...]
    by: Literal["lane", "user", "item"] = "lane"


class Term(NamedTuple):
    """One part of a loss: coefficient * sum / count, with sum and count summed over all ranks
    before the division.
    """

    sum: Tensor  # scalar with gradient
    count: Tensor | float  # type: ignore[assignment]  # scalar; hides tuple.count, which nobody needs
    coefficient: float = 1.0


@dataclass
class Context:
    """State of a forward pass. Random draws depend on (seed, name, epoch, step, row) alone, never
    on the rank.
    """

    seed: int = 0
    step: int = 0  # optimiser steps since the start of training
    epoch: int = 0
    total_steps: int = 0  # planned for the whole training; 0: unknown
    training: bool = False
    phase: str = ""  # name of the phase, or of the group trained in turn
    # {name: (B, *shape)}: the state of the batch's rows before this step (`Model.carries`)
    carry: dict[str, Tensor] = field(default_factory=dict)

    def uniform(self, name: str, row: Tensor, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 (B, *shape), one stream for each global row."""
        return noise.uniform(noise.key(self.seed, name, self.epoch, self.step), row, *shape)

    def uniform_at(self, name: str, row: Tensor, column: Tensor) -> Tensor:
        """float32 (E,): the values of `uniform` for these rows at these columns, for sparse inputs
        that need few of them.
        """
        return noise.uniform_at(noise.key(self.seed, name, self.epoch, self.step), row, column)

    def kept(self, name: str, row: Tensor, rate: float, width: int) -> Tensor:
        """float32 (B, width): 0 with probability `rate`, else 1 / (1 - rate), one stream for each
        global row: what dropout multiplies by.
        """
        key = noise.key(self.seed, name, self.epoch, self.step)
        return noise.kept(key, row, rate, width)

    def normal(self, name: str, row: Tensor, *shape: int) -> Tensor:
        """Standard normal, float32 (B, *shape), one stream for each global row."""
        return noise.normal(noise.key(self.seed, name, self.epoch, self.step), row, *shape)


@dataclass(frozen=True)
class Gradient:
    """A phase of training by gradients: the parameters it trains and when it ends. All other
    parameters are frozen and cost nothing.
    """

    name: str
    # the trained groups, as in `Model.parameter_groups`; with `in_turn` each has a "name"
    groups: list[dict[str, Any]]
    model: Model | None = (
        None  # the part that is trained and validated as a separate model; None: the whole model
    )
    # groups are trained in turn, one epoch each, repeatedly; one optimiser keeps the state of all
    in_turn: bool = False
    epochs: int = 0  # maximum, over all turns; 0: the job's
    patience: int = 0  # epochs without improvement that end the phase; 0: the job's
    optim: Optim | None = None  # None: the job's


class Model(nn.Module):
    """Base of all models. A model file holds one subclass, named in CamelCase after the file
    (`neumf.py`: `Neumf`).
    """

    layout: ClassVar[str]  # the shard layout it reads; also its folder
    # "rating" (monitored by rmse, lower is better), "click" (labels 0 and 1, log_loss, lower) or
    # "ranking" (ndcg@10, higher). A `task` in the Config takes precedence.
    task: str
    couples_rows: ClassVar[bool] = (
        False  # true: the loss of a row depends on the other rows of its batch
    )
    whole_tables: ClassVar[bool] = (
        False  # true: a step uses rows of a table that its batch does not look up, by the weight
    )

    class Config(Settings):
        """The hyper-parameters, specific to each model. `num_negatives` > 0: the loop draws that
        many negatives per positive.
        """

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.task = self.task_of({"task": config.task} if hasattr(config, "task") else {})

    @classmethod
    def task_of(cls, config: dict[str, Any]) -> str:
        """The task of a model with this configuration."""
        return str(config.get("task", cls.task))

    @property
    def num_negatives(self) -> int:
        return getattr(self.config, "num_negatives", 0)

    def draws(self) -> list[Draw]:
        """The draws added to each batch, in this order. `negatives` of a Config other than `unmet`:
        they may be items that the user met in training.
        """
        unmet = getattr(self.config, "negatives", "unmet") == "unmet"
        return [NegativeItems(self.num_negatives, unmet)] if self.num_negatives else []

    def carries(self) -> dict[str, Carry]:
        """The state kept between batches, by name."""
        return {}

    @property
    def examples_per_row(self) -> int:
        """Number of examples (for examples/s) that a shard's row counts as."""
        return batches.find(self.layout).examples_per_row(self.num_negatives)

    @classmethod
    def by_of(cls, config: dict[str, Any]) -> str:
        """Layout `profile`: the entity of a row, "user" or "item", with this configuration. A model
        of items' profiles cannot `score`.
        """
        return "user"

    def forward(self, batch: Any, ctx: Context) -> dict[str, Tensor]:
        raise NotImplementedError

    def loss(self, batch: Any, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        raise NotImplementedError

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Higher is better. items None: the whole catalogue, (B, I + 1), column 0 is padding; items
        (C,) or (B, C): their scores, (B, C).
        """
        raise NotImplementedError

    def index(self) -> ItemVectors | None:
        """The items' side of `score` if that is a dot product with `encode`: the scorer then
        processes a large catalogue one block at a time. None: it is no dot product.
        """
        return None

    def encode(self, query: Query) -> Tensor:
        """The queries' vectors, (B, D), for a model with an `index`."""
        raise NotImplementedError

    def predict(self, batch: Any) -> dict[str, Tensor]:
        """{task: (B,)}: expected label of each row, e.g. {"rating": ...}, clamped to the label
        range if that is known, or {"click": ...}, a probability. For profiles: of each held entry,
        (held entries,).
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Projections and proximal steps; called after every optimiser step."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; keys other than `params` override the job's optimiser
        settings.
        """
        return [{"params": list(self.parameters())}]

    def phases(self) -> list[Gradient]:
        """The phases in order, with distinct names. Each ends with the weights of its best epoch;
        those of the last phase are the result.
        """
        return [Gradient("", self.parameter_groups())]

    def begin(self, phase: str) -> None:
        """Called once when a phase begins, on every rank alike, with the best weights of the
        previous phase; may change any weight.
        """
