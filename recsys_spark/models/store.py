"""A model on disk: `model.json` (its description) and `model.safetensors` (its weights). Pickle is
neither written nor read.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys_spark.core import artifacts
from recsys_spark.core import config as configuration
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Feature
from recsys_spark.core.errors import CheckpointError, ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Model, Sizes

FACTS, WEIGHTS = "model.json", "model.safetensors"
_AGAIN = "train it again, or take another checkpoint of the run"


class Stored(Settings):
    """`model.json`: everything needed to build the model, and the digest that its weights must
    have.
    """

    version: int = 1
    model: str
    config: dict[str, Any]
    num_users: int
    num_items: int
    statistics: dict[str, float] = Field(default_factory=dict)
    fields: tuple[
        Feature, ...
        # with vocabularies and normalisers, so that scoring encodes values as training did
    ] = ()
    dtype: str
    sha256: str
    bytes: int

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.num_users, self.num_items, dict(self.statistics), self.fields)


def save(folder: Path, model: Model, name: str, weights: dict[str, Tensor] | None = None) -> None:
    """Write both files into `folder` (created if missing); `model.json` last, so its presence marks
    the weights as complete. `weights` are written instead of the model's own, which training may
    have changed since.

    Raises CheckpointError when the disk refuses the write (full, read-only); an earlier save stays
    until the new weights are complete.
    """
    assert type(model) is registry.find(name), f"{type(model).__name__} is not the model {name!r}"
    weights = {
        key: value.detach().cpu().contiguous()
        for key, value in (weights or model.state_dict()).items()
    }
    temporary = folder / f".tmp-{WEIGHTS}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary)
        facts = Stored(
            model=name,
            config=model.config.model_dump(mode="json"),
            num_users=model.sizes.num_users,
            num_items=model.sizes.num_items,
            statistics=model.sizes.statistics,
            fields=model.sizes.fields,
            dtype=_dtype_of(weights),
            sha256=artifacts.file_digest(temporary),
            bytes=temporary.stat().st_size,
        )
        (folder / FACTS).unlink(missing_ok=True)
        os.replace(temporary, folder / WEIGHTS)
        artifacts.write_model(folder / FACTS, facts)
    except (OSError, SafetensorError) as problem:
        size = sum(value.nbytes for value in weights.values())
        raise CheckpointError(
            str(folder),
            found=" ".join(str(problem).split()),
            expected=f"room for {size} bytes of weights",
            remedy="free some space or choose another run folder",
        ) from problem
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path) -> Model:
    """The saved model, in its dtype, on the CPU. Raises CheckpointError when it is missing,
    truncated, altered, or of a model class that has changed.
    """
    facts = read_facts(folder)
    try:
        kind = registry.find(facts.model)
        config = configuration.validate(
            kind.Config, facts.config, source=str(folder / FACTS), key="config"
        )
    except ConfigError as problem:
        raise CheckpointError(
            f"{folder / FACTS}, {problem.thing}",
            found=problem.found,
            expected=problem.expected,
            remedy="it was written by another version of the project: " + _AGAIN,
        ) from None
    # On device meta: no memory and no random numbers for weights that are replaced below
    with torch.device("meta"):
        model = kind(config, facts.sizes)
    _fill(folder, model, facts, lambda _, whole: whole, assign=True)
    missing = [
        name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta
    ]
    assert not missing, f"{facts.model} keeps {missing} outside its state_dict"
    return model


def restore(
    folder: Path,
    model: Model,
    name: str,
    part: Callable[[str, Tensor], Tensor] = lambda _, whole: whole,
) -> None:
    """Load saved weights into an existing model, to resume training. part: the slice of a tensor
    that this rank owns.

    The digest is not compared: the checkpoint around the weights has been verified. Raises
    CheckpointError when they belong to another model.
    """
    facts = read_facts(folder)
    facts_expected: dict[str, Any] = {
        "model": name,
        "config": model.config.model_dump(mode="json"),
        "num_users": model.sizes.num_users,
        "num_items": model.sizes.num_items,
        "dtype": _dtype_of(dict(model.state_dict())),
    }
    for key, expected in facts_expected.items():
        if getattr(facts, key) != expected:
            raise CheckpointError(
                f"{folder / FACTS}, {key}",
                found=repr(getattr(facts, key)),
                expected=repr(expected),
                remedy="resume with the configuration and "
                "shards of that run, or start in an empty run folder",
            )
    _fill(folder, model, facts, part, assign=False, digests=False)


def read_facts(folder: Path) -> Stored:
    return artifacts.read_model(folder / FACTS, Stored, error=CheckpointError, remedy=_AGAIN)


def _fill(
    folder: Path,
    model: Model,
    facts: Stored,
    part: Callable[[str, Tensor], Tensor],
    *,
    assign: bool,
    digests: bool = True,
) -> None:
    path = folder / WEIGHTS
    if not path.exists():
        raise CheckpointError(
            str(path),
            found="no such file",
            expected=f"{facts.bytes} bytes of weights",
            remedy=_AGAIN,
        )
    if (size := path.stat().st_size) != facts.bytes:
        raise CheckpointError(
            str(path),
            found=f"{size} bytes",
            expected=f"{facts.bytes} bytes (is it cut short?)",
            remedy=_AGAIN,
        )
    if digests and (digest := artifacts.file_digest(path)) != facts.sha256:
        raise CheckpointError(
            str(path),
            found=f"sha256 {digest[:16]}",
            expected=f"{facts.sha256[:16]} as in {FACTS}",
            remedy=_AGAIN,
        )
    # Copied into memory that torch aligns: products of unaligned weights differ in the last digit.
    weights = {key: part(key, value).clone() for key, value in load_file(path).items()}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key in sorted(shapes.keys() | weights.keys()):
        actual = tuple(weights[key].shape) if key in weights else "no such tensor"
        expected = shapes.get(key, f"no such tensor in {facts.model}")
        if actual != expected:
            raise CheckpointError(f"{path}, {key}", found=actual, expected=expected, remedy=_AGAIN)
    model.load_state_dict(weights, assign=assign)


def _dtype_of(weights: dict[str, Tensor]) -> str:
    return next(
        (
            str(value.dtype).removeprefix("torch.")
            for value in weights.values()
            if value.is_floating_point()
        ),
        "float32",
    )
