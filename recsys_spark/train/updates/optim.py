"""Builds the optimiser from its settings and a model's parameter groups; packs its state as plain
tensors and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recsys_spark.core import contracts
from recsys_spark.core.errors import ConfigError
from recsys_spark.train.updates.deferred import DeferredAdam
from recsys_spark.train.updates.rowwise import RowwiseAdagrad

# Fused: one pass over parameters and moments. On a CPU the optimiser's steps over embedding tables
# are a main cost.
_DENSE: dict[str, Any] = {
    "auto": torch.optim.Adam,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "sparse_adam": torch.optim.Adam,
    "rowwise_adagrad": torch.optim.Adagrad,
}
_ROWS: dict[str, Any] = {
    "auto": DeferredAdam,
    "adam": DeferredAdam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "sparse_adam": torch.optim.SparseAdam,
    "rowwise_adagrad": RowwiseAdagrad,
}
# Fraction of the phase that is done -> factor of the learning rate
_LEFT: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
_SCALES = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
WITHOUT_ROWS = ("step", "sums")  # state of a table as a whole
_SCALER, _SCALE = "scaler.", ("scale", "_growth_tracker")  # prefix; the state that changes


class Optimiser:
    """Two torch optimisers, one for tables that change by rows and one for all other parameters, or
    just one of them. fp16 adds the scaler of the losses.
    """

    def __init__(
        self, parts: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self.parts, self.scaler = parts, scaler

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Parameters without a gradient are left unchanged."""
        for part in self.parts:
            part.step()

    def settle(self) -> None:
        """Make the moves that were deferred until a row is read. All ranks must settle after the
        same step.
        """
        for part in self.parts:
            if isinstance(part, DeferredAdam):
                part.settle()

    def reader(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """int64 (R,) -> those rows of the weight as they are now, (R, D), until the next step."""
        for part in self.parts:
            if isinstance(part, DeferredAdam) and part.updates(weight):
                return partial(part.read, weight)
        return partial(weight.detach().index_select, 0)


def build(
    settings: contracts.Optim,
    groups: list[dict[str, Any]],
    tables: Collection[Tensor] = (),
    scaler: torch.amp.GradScaler | None = None,
) -> Optimiser:
    """Build the optimiser over the groups, whose own keys (lr, weight_decay ...) take precedence
    over the settings. `tables` change by rows.

    Raises ConfigError when the settings say `by_rows` and there is no table, or a group decays the
    weights of a table.
    """
    sparse, dense = _split(groups, {id(table) for table in tables})
    if settings.by_rows and not sparse:
        raise ConfigError(
            f"train.optim.name {settings.name}, by rows",
            found="a model without embedding tables",
            expected="at least one",
            remedy="choose adam, adamw, sgd or adagrad, without train.optim.sparse",
        )
    if any(group.get("weight_decay") for group in sparse):
        raise ConfigError(
            f"train.optim.name {settings.name}, by rows",
            found="a model that decays the weights of its tables",
            expected="none that moves rows which are not in the batch",
            remedy="choose adam, adamw, sgd or adagrad",
        )
    momentum = {"momentum": settings.momentum} if settings.name == "sgd" else {}
    parts = []
    if sparse:
        # torch's optimisers warn unless this is chosen; the indices are made by Gradients
        torch.sparse.check_sparse_tensor_invariants.disable()
        parts.append(_ROWS[settings.name](sparse, lr=settings.lr))
    if dense:
        parts.append(
            _DENSE[settings.name](
                dense, lr=settings.lr, weight_decay=settings.weight_decay, fused=True, **momentum
            )
        )
    return Optimiser(parts, scaler)


def _split(
    groups: list[dict[str, Any]], by_rows: Collection[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups with only the weights whose id() is in `by_rows`, and with only the others; groups
    without weights are dropped.
    """
    sparse, dense = [], []
    for group in groups:
        inside = [weight for weight in group["params"] if id(weight) in by_rows]
        outside = [weight for weight in group["params"] if id(weight) not in by_rows]
        if inside:
            sparse.append({**group, "params": inside})
        if outside:
            dense.append({**group, "params": outside})
    return sparse, dense


def pace(
    optimiser: Optimiser, settings: contracts.Optim, step: int, steps: int, ranks: int
) -> None:
    """Set the learning rate of step `step` (from 0, of at most `steps`) of its phase. It depends on
    these arguments alone, so a resumed training has the same rate.
    """
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    factor = ranks ** _SCALES[settings.scale_lr] * warm * _LEFT[settings.decay](step / steps)
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def pack(optimiser: Optimiser) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """({"<parameter>.<name>": tensor}, groups as JSON values). Parameters are numbered in the order
    of the groups.
    """
    tensors: dict[str, Tensor] = {}
    groups: list[dict[str, Any]] = []
    for part in optimiser.parts:
        state, offset = part.state_dict(), sum(len(group["params"]) for group in groups)
        # SparseAdam counts its steps in an int.
        tensors |= {
            f"{offset + number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for number, values in state["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor | int)
        }
        groups += [
            {**group, "params": [offset + number for number in group["params"]]}
            for group in state["param_groups"]
        ]
    if optimiser.scaler is not None:
        tensors |= {
            _SCALER + name: torch.tensor(optimiser.scaler.state_dict()[name]) for name in _SCALE
        }
    return tensors, groups


def unpack(optimiser: Optimiser, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """The inverse of `pack`, into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    scale: dict[str, float] = {}
    for key, value in tensors.items():
        parameter, _, name = key.partition(".")
        if key.startswith(_SCALER):
            scale[name] = value.item()
        else:
            state.setdefault(int(parameter), {})[name] = value
    first, offset = 0, 0
    for part in optimiser.parts:
        part_groups = groups[first : first + len(part.param_groups)]
        number = sum(len(group["params"]) for group in part_groups)
        part_state = {
            n - offset: values for n, values in state.items() if offset <= n < offset + number
        }
        if isinstance(part, torch.optim.SparseAdam):
            part_state = {
                n: {**values, "step": int(values["step"])} for n, values in part_state.items()
            }
        numbered = [
            {**group, "params": [n - offset for n in group["params"]]} for group in part_groups
        ]
        part.load_state_dict({"state": part_state, "param_groups": numbered})
        first, offset = first + len(part_groups), offset + number
    if optimiser.scaler is not None and scale:
        optimiser.scaler.load_state_dict({**optimiser.scaler.state_dict(), **scale})
