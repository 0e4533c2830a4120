"""The phases of a model's training: the groups trained in an epoch, and when a phase ends."""

from __future__ import annotations

from typing import Any

from recsys_spark.core import contracts
from recsys_spark.core.contracts import TrainJob
from recsys_spark.models.base import Gradient, Model
from recsys_spark.train.saves.checkpoint import State


def of(model: Model) -> list[Gradient]:
    """The model's phases, after checking them."""
    phases = model.phases()
    names = [phase.name for phase in phases]
    assert phases and len(set(names)) == len(names), f"phases of {type(model).__name__}: {names}"
    for phase in phases:
        assert not phase.in_turn or all(group.get("name") for group in phase.groups), (
            f"a group of phase {phase.name} has no name"
        )
        assert phase.model is None or phase.model.task == model.task, (
            f"phase {phase.name} is validated by another metric"
        )
    return phases


def epochs(phase: Gradient, train: contracts.Train) -> int:
    return phase.epochs or train.epochs


def planned(phases: list[Gradient], train: contracts.Train) -> int:
    """Maximum number of epochs of the whole training."""
    return sum(epochs(phase, train) for phase in phases)


def moving(phase: Gradient, state: State) -> tuple[str, list[dict[str, Any]]]:
    """(name for ctx.phase, groups trained) in the state's epoch."""
    if not phase.in_turn:
        return phase.name, phase.groups
    turn = phase.groups[(state.epoch - state.phase_epoch) % len(phase.groups)]
    return turn["name"], [turn]


def end(phase: Gradient, state: State, job: TrainJob) -> str:
    """Why the phase ends after the epochs counted in the state; empty when it goes on."""
    if state.stale >= (phase.patience or job.train.patience):
        return "patience"
    limit = job.phase_epochs[state.phase] if job.phase_epochs else epochs(phase, job.train)
    return "epochs" if state.epoch - state.phase_epoch >= limit else ""


def freeze(model: Model, groups: list[dict[str, Any]]) -> None:
    """Enable gradients for the parameters of the groups only; existing gradients are dropped."""
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_(id(parameter) in trained)
