"""Optimiser settings and a model's parameter groups -> the optimiser; its state as plain tensors and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from recsys_spark.core import contracts
from recsys_spark.core.errors import ConfigError
from recsys_spark.train.rowwise import RowwiseAdagrad

# Fused: one pass over parameters and moments. The steps over embedding tables are a main cost on a CPU.
_DENSE: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad,
                          "sparse_adam": torch.optim.Adam, "rowwise_adagrad": torch.optim.Adagrad}
_ROWS: dict[str, Any] = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "sparse_adam": torch.optim.SparseAdam,
                         "rowwise_adagrad": RowwiseAdagrad}
_LEFT: dict[str, Callable[[float], float]] = {  # part of a phase that is done -> part of the learning rate that is left
    "none": lambda done: 1.0, "linear": lambda done: 1.0 - done, "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done))}
_SCALES = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
_SCALER, _SCALE = "scaler.", ("scale", "_growth_tracker")  # what of it changes


class Optimiser:
    """A torch optimiser for tables that change by rows and one for all else, or one of them alone. fp16 adds the scale of its losses."""

    def __init__(self, parts: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler | None = None) -> None:
        self.parts, self.scaler = parts, scaler

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """It leaves parameters without a gradient alone."""
        for part in self.parts:
            part.step()


def build(settings: contracts.Optim, groups: list[dict[str, Any]], tables: Collection[Tensor] = (),
          scaler: torch.amp.GradScaler | None = None) -> Optimiser:
    """Over the groups, whose own keys (lr, weight_decay ...) come before the settings. Where these say `by_rows`, `tables` change by rows.

    Raises ConfigError when they say so and there is no table, or a group decays the weights of one.
    """
    by_rows = {id(table) for table in tables} if settings.by_rows else set()
    split = [[{**group, "params": kept} for group in groups
              if (kept := [weight for weight in group["params"] if (id(weight) in by_rows) == rows])] for rows in (True, False)]
    if settings.by_rows and not split[0]:
        raise ConfigError(f"train.optim.name {settings.name}, by rows", found="a model without embedding tables",
                          expected="at least one", remedy="choose adam, adamw, sgd or adagrad, without train.optim.sparse")
    if any(group.get("weight_decay") for group in split[0]):
        raise ConfigError(f"train.optim.name {settings.name}, by rows", found="a model that decays the weights of its tables",
                          expected="none that moves rows which are not in the batch", remedy="choose adam, adamw, sgd or adagrad")
    own = {"momentum": settings.momentum} if settings.name == "sgd" else {}
    parts = []
    if split[0]:
        torch.sparse.check_sparse_tensor_invariants.disable()  # torch's optimisers warn unless one chooses; their indices are ours
        parts.append(_ROWS[settings.name](split[0], lr=settings.lr))
    if split[1]:
        parts.append(_DENSE[settings.name](split[1], lr=settings.lr, weight_decay=settings.weight_decay, fused=True, **own))
    return Optimiser(parts, scaler)


def pace(optimiser: Optimiser, settings: contracts.Optim, step: int, steps: int, ranks: int) -> None:
    """Give step `step` of its phase, from 0 and of at most `steps`, its learning rate: a function of these numbers and nothing else, so a
    resume keeps it."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    factor = ranks ** _SCALES[settings.scale_lr] * warm * _LEFT[settings.decay](step / steps)
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def pack(optimiser: Optimiser) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """({"<parameter>.<name>": tensor}, groups as JSON values). Parameters are numbered in the order of the groups."""
    tensors: dict[str, Tensor] = {}
    groups: list[dict[str, Any]] = []
    for part in optimiser.parts:
        state, before = part.state_dict(), sum(len(group["params"]) for group in groups)
        # SparseAdam counts its steps in an int.
        tensors |= {f"{before + number}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
                    for number, values in state["state"].items() for name, value in values.items() if isinstance(value, Tensor | int)}
        groups += [{**group, "params": [before + number for number in group["params"]]} for group in state["param_groups"]]
    if optimiser.scaler is not None:
        tensors |= {_SCALER + name: torch.tensor(optimiser.scaler.state_dict()[name]) for name in _SCALE}
    return tensors, groups


def unpack(optimiser: Optimiser, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """The inverse of `pack`, into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    scale: dict[str, float] = {}
    for key, value in tensors.items():
        of, _, name = key.partition(".")
        if key.startswith(_SCALER):
            scale[name] = value.item()
        else:
            state.setdefault(int(of), {})[name] = value
    first, before = 0, 0
    for part in optimiser.parts:
        mine = groups[first: first + len(part.param_groups)]
        number = sum(len(group["params"]) for group in mine)
        of_part = {n - before: values for n, values in state.items() if before <= n < before + number}
        if isinstance(part, torch.optim.SparseAdam):
            of_part = {n: {**values, "step": int(values["step"])} for n, values in of_part.items()}
        numbered = [{**group, "params": [n - before for n in group["params"]]} for group in mine]
        part.load_state_dict({"state": of_part, "param_groups": numbered})
        first, before = first + len(mine), before + number
    if optimiser.scaler is not None and scale:
        optimiser.scaler.load_state_dict({**optimiser.scaler.state_dict(), **scale})
