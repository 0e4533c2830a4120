"""`TrainJob` and `TrainResult`: a training, as asked for and as it went."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys_spark.core.config import Settings
from recsys_spark.core.contracts.version import VERSION


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
    # Of the forward pass, while weights, losses and sums stay in `dtype`. medium: float32, but inside of matrix products, where the
    # hardware is faster so, bfloat16 (CPU) or TF32 (GPU).
    precision: Literal["float32", "medium", "bf16", "fp16"] = "float32"
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
