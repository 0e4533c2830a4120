"""Optimiser settings and a model's parameter groups -> a torch optimiser; its state as plain tensors and numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys_spark.core import contracts

# Fused: one pass over parameters and moments. The steps over embedding tables are a main cost on a CPU.
_KINDS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}


def build(settings: contracts.Optim, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Over the groups, whose own keys (lr, weight_decay ...) come before the settings. It leaves parameters without a gradient alone."""
    own = {"momentum": settings.momentum} if settings.name == "sgd" else {}
    return _KINDS[settings.name](groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True, **own)


def pack(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """({"<parameter>.<name>": tensor}, groups as JSON values). Parameters are numbered in the order of the groups."""
    state = optimiser.state_dict()
    tensors = {f"{number}.{name}": value.detach().cpu().contiguous()
               for number, values in state["state"].items() for name, value in values.items() if isinstance(value, Tensor)}
    return tensors, state["param_groups"]


def unpack(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """The inverse of `pack`, into an optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": groups})
