"""What a model is. It never sees an optimiser, a rank, a file or a data frame.

Shapes, everywhere: B batch rows, C candidates, D width, N negatives, U users, I items, K top, L history.
Indices run 1..U and 1..I; row 0 of a table is padding and out-of-vocabulary, so tables have U + 1 and I + 1 rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Feature, Optim
from recsys_spark.core.errors import ShardError
from recsys_spark.models.batches import Query
from recsys_spark.nn import noise


@dataclass(frozen=True)
class Sizes:
    """What a model may know of its data: counts, statistics of the training rows (label_count, label_mean, label_min, label_max), and
    which fields users, items and events have. (The fields' values: nn/fields.py.)"""

    num_users: int
    num_items: int
    statistics: dict[str, float] = field(default_factory=dict)
    fields: tuple[Feature, ...] = ()

    def clamped(self, ratings: Tensor) -> Tensor:
        """To the range of the training labels, where that is known."""
        seen = self.statistics
        return ratings.clamp(seen.get("label_min"), seen.get("label_max")) if "label_min" in seen else ratings

    def statistic(self, name: str) -> float:
        """Raises ShardError when the shard set has it not."""
        if name not in self.statistics:
            raise ShardError("statistics of the shard set", found=", ".join(self.statistics) or "none", expected=f"{name} among them",
                             remedy="run export_shards again, with `label: value`")
        return self.statistics[name]


class DotFactors(NamedTuple):
    """What a query needs where scores are dot products: user u orders the items i by users[u] . items[i] + bias[i]."""

    users: Tensor  # (U + 1, D), row 0: an unknown user
    items: Tensor  # (I + 1, D)
    bias: Tensor  # (I + 1,)


class Term(NamedTuple):
    """One part of a loss: coefficient * sum / count, with sum and count added over all ranks before the division."""

    sum: Tensor  # scalar with gradient
    count: Tensor | float  # type: ignore[assignment]  # scalar; hides tuple.count, which nobody needs
    coefficient: float = 1.0


@dataclass
class Context:
    """Where a forward pass stands. Random draws depend on (seed, name, epoch, step, row) alone, never on the rank."""

    seed: int = 0
    step: int = 0  # optimiser steps since the start of training
    epoch: int = 0
    total_steps: int = 0  # planned for the whole training; 0: unknown
    training: bool = False
    phase: str = ""  # name of the phase, or of the group whose turn it is
    carry: dict[str, Tensor] = field(default_factory=dict)  # named state that outlives a batch; checkpointed

    def uniform(self, name: str, row: Tensor, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 (B, *shape), one stream for each global row."""
        return noise.uniform(noise.key(self.seed, name, self.epoch, self.step), row, *shape)

    def uniform_at(self, name: str, row: Tensor, column: Tensor) -> Tensor:
        """float32 (E,): what `uniform` draws for these rows at these columns, where a sparse input needs few of them."""
        return noise.uniform_at(noise.key(self.seed, name, self.epoch, self.step), row, column)

    def normal(self, name: str, row: Tensor, *shape: int) -> Tensor:
        """Standard normal, float32 (B, *shape), one stream for each global row."""
        return noise.normal(noise.key(self.seed, name, self.epoch, self.step), row, *shape)


@dataclass(frozen=True)
class Gradient:
    """A phase of training by gradients: what moves in it and until when. Every other parameter stands still and costs nothing."""

    name: str
    groups: list[dict[str, Any]]  # what it trains, as `Model.parameter_groups` says it; with `in_turn` each has a "name"
    model: Model | None = None  # the part that is trained, and validated, as a model of its own; None: the whole
    in_turn: bool = False  # the groups are trained in turn, an epoch each, again and again; one optimiser remembers them all
    epochs: int = 0  # at most, all turns counted; 0: as many as the job says
    patience: int = 0  # epochs without improvement that end it; 0: the job's
    optim: Optim | None = None  # None: the job's


class Model(nn.Module):
    """Base of all models. A model file holds one subclass, named in CamelCase after the file (`neumf.py`: `Neumf`)."""

    layout: ClassVar[str]  # the shard layout it reads; also its folder
    # "rating" (monitor rmse, lower is better), "click" (labels 0 and 1, log_loss, lower) or "ranking" (ndcg@10, higher). Where the
    # Config has a `task`, that decides.
    task: str
    couples_rows: ClassVar[bool] = False  # true: the loss of a row depends on the other rows of its batch
    whole_tables: ClassVar[bool] = False  # true: a step reaches rows of a table that its batch does not look up, by its weight

    class Config(Settings):
        """The hyper-parameters; every model has its own. `num_negatives` > 0 asks the loop for that many per positive."""

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.task = self.task_of({"task": config.task} if hasattr(config, "task") else {})

    @classmethod
    def task_of(cls, config: dict[str, Any]) -> str:
        """Of a model with this configuration."""
        return str(config.get("task", cls.task))

    @property
    def num_negatives(self) -> int:
        return getattr(self.config, "num_negatives", 0)

    @property
    def negatives_are_unmet(self) -> bool:
        """False: a negative may be an item that the user met in training."""
        return getattr(self.config, "negatives", "unmet") == "unmet"

    @property
    def examples_per_row(self) -> int:
        """What a shard's row counts for in examples/s: itself and its negatives; in layout `pairs` one pair for each negative."""
        return max(1, self.num_negatives) if self.layout == "pairs" else 1 + self.num_negatives

    @classmethod
    def by_of(cls, config: dict[str, Any]) -> str:
        """Layout `profile`: whose vectors the rows are, "user" or "item", with this configuration. What reads items' cannot `score`."""
        return "user"

    def forward(self, batch: Any, ctx: Context) -> dict[str, Tensor]:
        raise NotImplementedError

    def loss(self, batch: Any, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        raise NotImplementedError

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Higher is better. items None: the whole catalogue, (B, I + 1) with column 0 = padding; (C,) or (B, C): those, (B, C)."""
        raise NotImplementedError

    def index(self) -> DotFactors | None:
        """Factors that rank as `score` does, where a model has such: the scorer then meets a large catalogue a block at a time."""
        return None

    def predict(self, batch: Any) -> dict[str, Tensor]:
        """{task: (B,)}: expected label of each row, e.g. {"rating": ...}, clamped to the label range where that is stated, or
        {"click": ...}, a probability. Of profiles: of each held entry, (held entries,)."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Projections and proximal steps, after every optimiser step."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; keys other than `params` override the job's optimiser settings."""
        return [{"params": list(self.parameters())}]

    def phases(self) -> list[Gradient]:
        """In their order, under names of their own. Each ends with the weights of its best epoch; the last one's are the result."""
        return [Gradient("", self.parameter_groups())]

    def begin(self, phase: str) -> None:
        """Called once when a phase begins, on every rank alike, with the best weights of the phase before; may change any weight."""
