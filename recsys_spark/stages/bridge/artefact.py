"""Where a trained run keeps what scores, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys_spark.core.contracts import Run
from recsys_spark.models import registry

INDEX = "index"  # folder in the run folder of a baseline


def folder(model: Run) -> Path:
    """A checkpoint of train_deep, or the index artefact of a baseline."""
    trained = model.stage == "train_deep"
    return Path(model.run_dir) / (model.summary["checkpoint"] if trained else INDEX)


def settings(model: Run) -> dict[str, Any]:
    """The settings that a trained run was fitted with: those of its step, and over them what its
    search chose; of a deep model also dotted ones of `train`.
    """
    return {**model.config["config"], **model.summary.get("chosen", {})}


def task(model: Run) -> str:
    """What the model is made for: `ranking`, `rating` or `click`."""
    if "task" in model.summary:
        return str(model.summary["task"])
    return registry.find(model.summary["model"]).task
