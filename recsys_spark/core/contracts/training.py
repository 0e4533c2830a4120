"""`TrainJob` and `TrainResult`: the settings and the result of a training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION


class Workers(Settings):
    """Number of ranks and how they are connected. `num_workers` must divide the virtual shards
    (64).
    """

    engine: Literal["auto", "single", "horovod", "torch"] = (
        "auto"  # auto: of several ranks horovod where it can be imported, else torch
    )
    num_workers: int = Field(1, ge=1)
    threads: int = Field(0, ge=0)  # per rank; 0: cores / ranks
    launch: Literal["local", "spark"] = "local"
    device: Literal["cpu", "cuda", "auto"] = "cpu"  # auto: a GPU where there is one, else the CPU
    # exchange sparse gradients as whole tables: pays off where a step uses most rows
    sparse_as_dense: bool = False
    # tables of at least so many rows are sharded over the ranks; 0: each rank holds all tables
    # whole
    shard_tables: int = Field(0, ge=0)
    timeout_s: float = Field(600.0, gt=0)  # a rank silent for longer ends the job by an error
    # how many times a training that lost a rank resumes from its last checkpoint
    restarts: int = Field(0, ge=0)
    # wait before the first restart; doubled before each next one, at most a minute
    backoff_s: float = Field(1.0, ge=0)
    # restart on the remaining ranks, at least this many, and grow back; 0: only on all ranks
    min_workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fewer(self) -> Workers:
        if self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers is at most num_workers={self.num_workers}, not {self.min_workers}"
            )
        return self


class Optim(Settings):
    # auto: adam, by rows for each table that is large beside a step (train/updates/choice.py).
    # sparse_adam and rowwise_adagrad (one accumulator per row) change only the rows of a batch;
    # other parameters get adam, adagrad
    name: Literal["auto", "adam", "adamw", "sgd", "adagrad", "sparse_adam", "rowwise_adagrad"] = (
        "auto"
    )
    lr: float = Field(1e-3, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(0.0, ge=0)  # 0: off
    # adam, sgd, adagrad: the gradient of a table is its rows in the batch. Of adam, other rows make
    # their moves when they are next read
    sparse: bool = False
    # number of steps in which the learning rate grows linearly to its value
    warmup_steps: int = Field(0, ge=0)
    scale_lr: Literal["none", "linear", "sqrt"] = (
        "none"  # lr times the number of ranks, or its root
    )
    decay: Literal["none", "linear", "cosine"] = (
        "none"  # of the learning rate, to 0 in the last epoch that a phase may have
    )

    @property
    def paced(self) -> bool:
        """Whether the learning rate depends on the step or on the number of ranks."""
        return bool(self.warmup_steps) or self.scale_lr != "none" or self.decay != "none"

    @property
    def by_rows(self) -> bool:
        """Whether every table changes by rows, whatever its size."""
        return self.sparse or self.name in ("sparse_adam", "rowwise_adagrad")

    @model_validator(mode="after")
    def _settings_fit(self) -> Optim:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is a setting of sgd, not of {self.name}")
        if self.sparse and self.name == "adamw":
            raise ValueError("adamw moves every row in every step: with sparse gradients use adam")
        if self.sparse and self.name == "auto":
            raise ValueError("auto chooses which tables have sparse gradients: name adam instead")
        for name in ("momentum", "weight_decay"):
            if self.by_rows and getattr(self, name):
                raise ValueError(
                    f"{name} moves rows that are not in the batch: sparse gradients and "
                    f"{self.name} cannot have it"
                )
        return self


# Items that a query has met are left out of its list, or may be in it (repeat consumption)
Seen = Literal["leave_out", "keep"]


class Reader(Settings):
    # auto: petastorm where it is installed, else arrow; memory: rows are read once and kept decoded
    engine: Literal["auto", "petastorm", "arrow", "memory"] = "auto"
    # rows are shuffled among this many row groups of each virtual shard
    window_row_groups: int = Field(8, ge=1)
    prefetch: int = Field(4, ge=1)  # row groups read ahead
    # engine memory: limit of a rank; 0: its share of half the host's memory
    memory_bytes: int = Field(0, ge=0)


class Train(Settings):
    """Settings of a training that are independent of the model's `Config`."""

    batch_size: int = Field(4096, ge=1)  # global: the rows of one step over all ranks
    epochs: int = Field(10, ge=1)
    optim: Optim = Optim()
    reader: Reader = Reader()
    monitor: str = ""  # validation metric that chooses the best epoch; empty: the model's
    choose: Literal["best", "last"] = (
        # which epoch's weights are the result; last: regardless of validation, which shards of
        # `fit: train+valid` do not need then
        "best"
    )
    patience: int = Field(3, ge=1)  # epochs without improvement before stopping
    # Users ranked at the end of an epoch, drawn by the seed; 0: all that have validation events.
    # With 50,000, NDCG@10 is within about .001 of that of all users.
    validate_users: int = Field(50_000, ge=0)
    seen: Seen = "leave_out"  # of the lists by which epochs are chosen, as in the score step
    dtype: Literal["float32", "float64"] = "float32"
    # a rank processes its rows of a step in this many parts: the same step in less memory
    accumulate: int = Field(1, ge=1)
    # Precision of the forward pass; weights, losses and sums stay in `dtype`. medium: float32, but
    # bfloat16 (CPU) or TF32 (GPU) inside matrix products, where the hardware is faster with it.
    precision: Literal["float32", "medium", "bf16", "fp16"] = "float32"
    compile: bool = False  # run the forward pass through torch.compile
    checkpoint_steps: int = Field(
        0, ge=0
    )  # also save every so many steps; 0: only at the end of epochs
    checkpoint_s: float = Field(0.0, ge=0)  # also save every so many seconds; 0: not by the clock
    # a thread writes it from a copy (which doubles the memory of weights and moments) during steps
    checkpoint_async: bool = False
    keep: int = Field(2, ge=1)  # number of last checkpoints kept, besides the best
    keep_every: int = Field(0, ge=0)  # also keep the one after every so many epochs; 0: none

    @model_validator(mode="after")
    def _precision_fits(self) -> Train:
        if self.precision != "float32" and self.dtype != "float32":
            raise ValueError(f"precision {self.precision} is for dtype float32, not {self.dtype}")
        return self


class TrainJob(Settings):
    """`job.json` in a run folder: everything that a rank needs."""

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
    phase_epochs: tuple[
        int, ...
        # exact epochs of each phase, without validation; empty: validation decides
    ] = ()


class TrainResult(Settings):
    """`result.json`, written by rank 0 when training has ended: its presence means the run is
    complete.
    """

    run_id: str
    best_epoch: int
    best: dict[str, float]  # validation metrics of the best epoch
    epochs: int
    steps: int
    examples_per_s: float
    seconds: float
    peak_rss_bytes: int  # the largest rank
    checkpoint: str  # of the best epoch, relative to the run folder
    phase_epochs: tuple[int, ...]  # epochs of each phase, up to its best weights
