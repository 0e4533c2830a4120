"""What the Spark side and the torch side hand to each other, as JSON beside the data it describes.

`ShardSet` (etl writes, train reads), `TrainJob`/`TrainResult` (stages write and read, every rank reads),
`Index` (baselines write, scoring reads), `Run` (a row of the `runs` table). Change one only with all who rely on it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.core.columns import EVENT
from recsys_spark.core.config import Settings

VERSION = 1  # raised when a reader of an older artefact would misread it
MANIFEST = "manifest.json"  # name of a ShardSet beside its files


class Column(Settings):
    """A Parquet column of a shard set. shape () is one number a row, (d,) a fixed list, (-1,) a ragged one (CSR)."""

    name: str
    dtype: Literal["int32", "int64", "float32", "float64"]
    shape: tuple[int, ...] = ()


class ShardFile(Settings):
    """`row_groups` are the row counts of its Parquet row groups, in file order. An exported file is one virtual shard; the row groups
    of a table's file are dealt one by one."""

    path: str  # relative to the manifest, or to the table
    virtual_shard: int | tuple[int, ...]  # of the file, or of each of its row groups
    row_groups: tuple[int, ...]
    bytes: int
    digest: str = ""  # SHA-256 of its bytes, hex; a table's file has none

    @property
    def rows(self) -> int:
        return sum(self.row_groups)

    @property
    def dealt(self) -> tuple[int, ...]:
        """The virtual shard of each row group."""
        return (self.virtual_shard,) * len(self.row_groups) if isinstance(self.virtual_shard, int) else self.virtual_shard


class Part(Settings):
    """`train` or `valid`: the files in order of their virtual shard (a table's: of their names). Empty virtual shards have no file."""

    files: tuple[ShardFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def dealt(self, virtual_shards: int) -> list[list[tuple[ShardFile, int]]]:
        """The row groups of every virtual shard, in order: (file, number within it)."""
        found: list[list[tuple[ShardFile, int]]] = [[] for _ in range(virtual_shards)]
        for file in self.files:
            for number, shard in enumerate(file.dealt):
                found[shard].append((file, number))
        return found


class Table(Settings):
    """A Delta table whose own files, as of a version, are the rows of a shard set."""

    location: str  # folder or URL
    version: int
    columns: dict[str, str]  # of the set -> of the table; one that is not named is 1 in every row


class Csr(Settings):
    """A side file: sorted int32 item indices by row index (row 0 empty: padding), as two .npy files."""

    indptr: str  # int64 (rows + 1,), relative to the manifest
    indices: str  # int32 (entries,)
    rows: int  # users or items + 1
    entries: int
    indptr_digest: str = ""  # SHA-256, hex
    indices_digest: str = ""


class Numbers(Settings):
    """A side file: one float32 for each user or item (row 0: padding), NaN where none is known."""

    path: str  # .npy, relative to the manifest
    rows: int
    digest: str = ""  # SHA-256, hex


class Feature(Settings):
    """A field of users, items or events. What its values mean is fitted on training rows alone.

    category, tags (any number of them): the value `vocabulary[n]` has the code n + 1. Any other value, and none at all, has code 0,
    the out-of-vocabulary row. number: (x - mean) / std; an unknown one adds nothing, as if it were 0. time: seconds, as they are.
    Fields of users and items are side files by index; those of events are columns of the rows (`column`).
    """

    name: str
    side: Literal["user", "item", "event"]
    kind: Literal["category", "tags", "number", "time"]
    vocabulary: tuple[str, ...] = ()
    slots: int = 1  # values that an entity has at most; more than one for tags alone
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0  # time: of the first and of the last training row
    high: float = 0.0
    codes: Csr | None = None  # of users or items: category, tags
    numbers: Numbers | None = None  # of users or items: number

    @property
    def column(self) -> str:
        """Of the rows, where side is event: int32 codes, float32 normalised numbers, or int64 `ts`."""
        return self.name if self.kind == "time" else EVENT + self.name


class ShardSet(Settings):
    """`manifest.json`. Indices run 1..num_users and 1..num_items; 0 is padding and out-of-vocabulary."""

    version: int = VERSION
    layout: Literal["pointwise", "profile", "pairs"]
    by: Literal["user", "item"] = "user"  # whose vectors the rows of layout `profile` are
    columns: tuple[Column, ...]
    parts: dict[str, Part]
    virtual_shards: int = 64
    num_users: int
    num_items: int
    # "seen": items by user before valid (train, valid_fold_in); "targets": validation items by user
    side: dict[str, Csr] = Field(default_factory=dict)
    statistics: dict[str, float] = Field(default_factory=dict)  # of training rows: label_count, _mean, _min, _max, where there are labels
    features: tuple[Feature, ...] = ()
    split: str
    table_versions: dict[str, int] = Field(default_factory=dict)
    table: Table | None = Field(None, exclude_if=lambda table: table is None)  # rows that lie there and were not exported
    fingerprint: str = ""  # of all the above but the table versions, every file's digest among it; `core.shardset.sealed` fills it in

    @model_validator(mode="after")
    def _files_fit(self) -> ShardSet:
        for name, part in self.parts.items():
            shards = [file.virtual_shard for file in part.files if isinstance(file.virtual_shard, int)]
            if shards != sorted(set(shards)) or (shards and not 0 <= shards[0] <= shards[-1] < self.virtual_shards):
                raise ValueError(f"part {name}: virtual shards {shards} are not increasing numbers below {self.virtual_shards}")
            for file in part.files:
                if len(file.dealt) != len(file.row_groups) or not set(file.dealt) <= set(range(self.virtual_shards)):
                    raise ValueError(f"part {name}, file {file.path}: {file.dealt} is not a virtual shard for each row group")
        return self


class Workers(Settings):
    """How many ranks train, and through what. `num_workers` must divide the virtual shards (64)."""

    engine: Literal["auto", "single", "horovod", "torch"] = "auto"  # auto: horovod when more than one
    num_workers: int = Field(1, ge=1)
    threads: int = Field(0, ge=0)  # per rank; 0: cores / ranks
    launch: Literal["local", "spark"] = "local"
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # auto: a GPU where there is one, else the CPU
    sparse_as_dense: bool = False  # ranks exchange sparse gradients as whole tables: worth it where a step meets most rows
    shard_tables: int = Field(0, ge=0)  # tables of at least so many rows lie on the ranks in parts; 0: each rank has them whole
    timeout_s: float = Field(600.0, gt=0)  # a rank silent for longer is named and the job stopped
    restarts: int = Field(0, ge=0)  # so many times a training that lost a rank goes on by itself from its last checkpoint
    backoff_s: float = Field(1.0, ge=0)  # before the first restart; twice as long before each next one, at most a minute
    min_workers: int = Field(0, ge=0)  # restart on the ranks that are left, down to so many, and grow back; 0: on all of them only

    @model_validator(mode="after")
    def _fewer(self) -> Workers:
        if self.min_workers > self.num_workers:
            raise ValueError(f"min_workers is at most num_workers={self.num_workers}, not {self.min_workers}")
        return self


class Optim(Settings):
    # sparse_adam and rowwise_adagrad (one accumulator a row) change the rows of a batch alone; what is no table gets adam, adagrad
    name: Literal["adam", "adamw", "sgd", "adagrad", "sparse_adam", "rowwise_adagrad"] = "adam"
    lr: float = Field(1e-3, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(0.0, ge=0)  # 0: off
    sparse: bool = False  # sgd, adagrad: the gradient of a table is its rows in the batch
    warmup_steps: int = Field(0, ge=0)  # steps in which the learning rate grows to its value, in equal parts
    scale_lr: Literal["none", "linear", "sqrt"] = "none"  # times the number of ranks, or its root
    decay: Literal["none", "linear", "cosine"] = "none"  # of the learning rate, to 0 in the last epoch that a phase may have

    @property
    def paced(self) -> bool:
        """The learning rate is not the same in all steps and on any number of ranks."""
        return bool(self.warmup_steps) or self.scale_lr != "none" or self.decay != "none"

    @property
    def by_rows(self) -> bool:
        return self.sparse or self.name in ("sparse_adam", "rowwise_adagrad")

    @model_validator(mode="after")
    def _settings_fit(self) -> Optim:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is a setting of sgd, not of {self.name}")
        if self.sparse and self.name in ("adam", "adamw"):
            raise ValueError(f"{self.name} moves every row in every step: with sparse gradients use sparse_adam")
        for name in ("momentum", "weight_decay"):
            if self.by_rows and getattr(self, name):
                raise ValueError(f"{name} moves rows that are not in the batch: sparse gradients and {self.name} cannot have it")
        return self


class Reader(Settings):
    engine: Literal["petastorm", "arrow", "memory"] = "petastorm"  # memory: read once, kept decoded on the host
    window_row_groups: int = Field(8, ge=1)  # rows are shuffled among this many row groups of each virtual shard
    prefetch: int = Field(4, ge=1)  # row groups read ahead
    memory_bytes: int = Field(0, ge=0)  # engine memory: what a rank may hold; 0: its share of half the host's memory


class Train(Settings):
    """One training: the part of a job that no model's `Config` holds."""

    batch_size: int = Field(4096, ge=1)  # global: the rows of one step over all ranks
    epochs: int = Field(10, ge=1)
    optim: Optim = Optim()
    reader: Reader = Reader()
    monitor: str = ""  # validation metric that chooses the best epoch; empty: the model's own
    choose: Literal["best", "last"] = "best"  # which epoch's weights are the result; last: whatever validation says, to replay old settings
    patience: int = Field(3, ge=1)  # epochs without improvement before stopping
    dtype: Literal["float32", "float64"] = "float32"
    accumulate: int = Field(1, ge=1)  # a rank takes its rows of a step in so many parts: the same step in less memory
    precision: Literal["float32", "bf16", "fp16"] = "float32"  # of the forward pass; weights, losses and sums stay in `dtype`
    compile: bool = False  # the forward pass by torch.compile
    checkpoint_steps: int = Field(0, ge=0)  # also save every so many steps; 0: at epoch ends only
    checkpoint_s: float = Field(0.0, ge=0)  # also save every so many seconds; 0: not by the clock
    checkpoint_async: bool = False  # a thread writes it from a copy (as much memory again as weights and moments), the steps go on
    keep: int = Field(2, ge=1)  # last checkpoints kept, besides the best
    keep_every: int = Field(0, ge=0)  # and that of the end of every so many epochs; 0: none of them

    @model_validator(mode="after")
    def _precision_fits(self) -> Train:
        if self.precision != "float32" and self.dtype != "float32":
            raise ValueError(f"precision {self.precision} is for dtype float32, not {self.dtype}")
        return self


class TrainJob(Settings):
    """`job.json` in a run folder: all that a rank needs."""

    version: int = VERSION
    run_id: str
    run_dir: str
    shards: str  # folder or URL that holds manifest.json
    shard_fingerprint: str
    model: str
    config: dict[str, Any]  # of the model's Config, with its defaults written out
    train: Train
    workers: Workers
    seed: int
    phase_epochs: tuple[int, ...] = ()  # exactly so many of each phase, validated on nothing; empty: validation decides


class TrainResult(Settings):
    """`result.json`, written by rank 0 when training has ended: its presence means the run is whole."""

    run_id: str
    best_epoch: int
    best: dict[str, float]  # validation metrics of the best epoch
    epochs: int
    steps: int
    examples_per_s: float
    seconds: float
    peak_rss_bytes: int  # the largest rank
    checkpoint: str  # of the best epoch, relative to the run folder
    phase_epochs: tuple[int, ...]  # of each phase, until its best weights


class NormalEquations(Settings):
    """How an implicit factorization makes a row's vector x of its n items' vectors v, given the sum `gram` of v v' over all items:

    (unobserved * gram + observed * sum v v' + reg * (n + offset)^exponent * 1) x = pull * sum v.
    """

    unobserved: float  # weight of "0 everywhere"
    observed: float  # weight added where there is an event
    pull: float  # weight of what an event says times its target
    reg: float
    exponent: float  # 0: the same for every row; 1: in proportion to how much the row takes part
    offset: float  # added to n


class Index(Settings):
    """`index.json` of an index artefact: what a query needs to be scored without its model.

    dot: score = vector . items[i] + bias[i]; `vector` comes with the query (column `vector`), or is constant.
    sparse: score = sum over the query's pairs (row, weight) of weight * matrix[row, i]. The pairs come with the query (columns `rows`
    and `weights`), or, where `queries` is empty, are its history with weight 1 (rows are then items). With `history` a query whose
    own pairs reach nothing, such as that of a user who came after the fit, is its history too. With `dampen` it predicts ratings: bias[i]
    + the query's `offset` + (sum of weight * matrix[row, i]) / (dampen + sum of the weights of the rows that have i).
    """

    version: int = VERSION
    kind: Literal["dot", "sparse"]
    model: str
    num_items: int
    dim: int = 0
    items: str = ""  # .npy float32 (num_items + 1, dim), row 0 zero
    bias: str = ""  # .npy float32 (num_items + 1,); empty: none
    constant: tuple[float, ...] = ()  # the vector of every query, when queries have none of their own
    # Parquet folder (user_idx int, vector array<float>; sparse: rows array<int>, weights array<float>, perhaps offset float); empty: none
    queries: str = ""
    fold_in: NormalEquations | None = None  # dot: what gives a vector to a query that has a history alone; none: it is cold
    gram: str = ""  # .npy float64 (dim, dim), for fold_in
    history: bool = False  # sparse, with `queries`: the rows are items, so that a history can stand for a query's own pairs
    dampen: float | None = None  # sparse: it predicts ratings, drawn to bias and offset as if so much weight spoke for them; none: it ranks
    num_rows: int = 0  # sparse: the matrix has num_rows + 1 rows, row 0 empty, and num_items + 1 columns
    matrix: str = ""  # sparse: one dense .npy float32 (num_rows + 1, num_items + 1); or else a CSR:
    indptr: str = ""  # .npy int64 (num_rows + 2,)
    indices: str = ""  # .npy int32 (entries,)
    data: str = ""  # .npy float32 (entries,)
    fallback: str = "popularity"  # what a query without vector or history gets; stated, never silent
    fallback_scores: str = ""  # .npy float32 (num_items + 1,); rating: the value predicted for a query without vector
    low: float | None = None  # rating: predictions are clamped to low..high, the range of the training values
    high: float | None = None


class Run(Settings):
    """A row of `runs`, written only when the stage has completed: its tables and files are whole."""

    run_id: str
    pipeline: str
    step: str
    stage: str
    key: str  # fingerprint of stage, configuration and the runs it builds on: equal key, equal result
    config: dict[str, Any]  # the resolved job
    upstream: dict[str, str]  # step -> run_id
    input_versions: dict[str, int]  # Delta table -> version read; `<table> of <step>` where another step's version was read too
    output_versions: dict[str, int]  # Delta table -> version after writing
    shard_fingerprint: str = ""
    run_dir: str
    code_version: str
    seed: int
    started_at: float  # seconds since 1970
    ended_at: float
    summary: dict[str, Any] = Field(default_factory=dict)  # small facts for the report: rows, seconds, metrics
