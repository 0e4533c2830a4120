"""Where a trained run keeps what scores, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys_spark.baselines.fitting import registry as baselines
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError
from recsys_spark.etl import union
from recsys_spark.models import registry, store
from recsys_spark.scoring import index

INDEX = "index"  # folder in the run folder of a baseline


def folder(model: Run) -> Path:
    """A checkpoint of train_deep, or the index artefact of a baseline."""
    trained = model.stage == "train_deep"
    return Path(model.run_dir) / (model.summary["checkpoint"] if trained else INDEX)


def list_features(folder: Path) -> tuple[str, ...]:
    """What an index reads of each candidate of an ordered list; empty for all other models."""
    return index.facts(folder).fields if (folder / index.FILE).exists() else ()


def require_features(model: Run, candidates: Run | None, thing: str) -> None:
    """Raises ConfigError where the model was fitted on united lists, and the candidates have not
    what it reads of them.
    """
    if model.stage != "train_baseline" or not baselines.reads_union(model.summary["model"]):
        return
    lists = candidates.summary.get("lists", []) if candidates else []
    lacking = set(list_features(folder(model))) - set(union.features(lists))
    if not lists or lacking:
        raise ConfigError(
            thing,
            found=f"{candidates.step} without {', '.join(sorted(lacking))}"
            if candidates
            else f"none of its candidates, for {model.step}",
            expected=f"united lists of the models that {model.step} is fitted on",
            remedy="add a candidates step with among: union for this part, of the same models",
        )


def folds_in(folder: Path) -> bool:
    """Whether queries have vectors of their own in an index that can make them of histories too."""
    if not (folder / index.FILE).exists():
        return False
    facts = index.facts(folder)
    return bool(facts.queries) and facts.fold_in is not None


def num_items(folder: Path) -> int:
    """Items of the catalogue that a model in this folder knows: item_idx 1 to this."""
    if (folder / index.FILE).exists():
        return index.facts(folder).num_items
    return store.read_facts(folder).num_items


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
