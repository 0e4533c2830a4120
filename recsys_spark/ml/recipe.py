"""The pipeline of an estimator: what `recsys-spark run` would run on the same rows, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from recsys_spark.baselines.fitting import registry as baselines
from recsys_spark.core import columns as c
from recsys_spark.core import config as configuration
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.ml.params import RecommenderParams
from recsys_spark.models import registry as models

SPLIT, MODEL, LISTS = "prepare", "model", "lists"  # steps
EVENTS = "events"  # the folder of the table of the rows, beside `lake` and `runs`


def write(params: RecommenderParams, folder: Path, *, timed: bool) -> Path:
    """The pipeline file in the folder that has the events. Raises ConfigError for a model that
    there is not, or settings that are no mapping.
    """
    steps = {"ingest": _ingest(params, folder)}
    steps[SPLIT] = {"stage": "prepare", "source": "ingest", "rule": "everything"}
    steps |= _trained(params, timed)
    if params.getOutput() == "lists":
        seen = "leave_out" if params.getExcludeSeen() else "keep"
        lists = {"stage": "score", "model": MODEL, "source": SPLIT, "part": "now", "seen": seen}
        steps[LISTS] = lists | {"k": params.getK()}
    pipeline = {
        "name": "deep-recommender",
        "seed": int(params.getSeed()) % 2**31,
        "env": {"lake": str(folder / "lake"), "runs": str(folder / "runs")},
        "steps": steps,
    }
    text = yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True)
    path = folder / f"{params.getModel()}.yaml"
    path.write_text(f"# recsys-spark run {path.name}\n{text}", encoding="utf-8")
    return path


def _ingest(params: RecommenderParams, folder: Path) -> dict[str, Any]:
    names = (c.USER_ID, c.ITEM_ID, c.TS, c.STEP, *((c.VALUE,) if params.getRatingCol() else ()))
    interactions = {
        "table": str(folder / EVENTS),
        "columns": {name: name for name in names},
        "unit": "s",
        "values": "rating" if params.getRatingCol() else "none",
        "value_min": float("-inf"),
    }
    return {
        "stage": "ingest",
        "dataset": "rows",
        "max_quarantine_share": 0.0,
        "source": {"interactions": interactions},
    }


def _trained(params: RecommenderParams, timed: bool) -> dict[str, dict[str, Any]]:
    """The step of the model, and that of its shards. Settings that are not named are those of
    conf/models.
    """
    name, settings = params.getModel(), json.loads(params.getModelParams())
    step: dict[str, Any] = {"model": name}
    chosen = configuration.located(f"conf/models/{name}.yaml")
    if chosen.is_file():
        step["extends"] = str(chosen.absolute())
    if name in baselines.names():
        return {
            MODEL: {
                **step,
                "stage": "train_baseline",
                "source": SPLIT,
                "fit": "train",
                "config": settings,
            }
        }
    if name not in models.names():
        known = sorted((*baselines.names(), *models.names()))
        raise ConfigError(
            "model",
            found=repr(name),
            expected=f"one of {', '.join(known)}{nearest(name, known)}",
        )
    beside = {key: settings.pop(key, {}) for key in ("train", "workers")}
    # All rows are trained on, and none is left to choose the epoch by
    step |= {
        "stage": "train_deep",
        "shards": "shards",
        "config": settings,
        "train": {"choose": "last"} | beside["train"],
        "workers": {"num_workers": 1} | beside["workers"],
    }
    kind = models.find(name)
    shards: dict[str, Any] = {"stage": "export_shards", "source": SPLIT, "layout": kind.layout}
    shards["fit"] = "train+valid"
    task = kind.task_of(settings)
    shards["label"] = "one" if task == "ranking" else "value"
    if kind.layout == "profile" and task == "rating":
        shards["by"] = kind.by_of(settings)
    if kind.layout == "pointwise" and timed:
        shards["features"] = {"event": ["ts"]}
    return {"shards": shards, MODEL: step}
