"""The steps that take a chosen model of a pipeline into production: everything is fitted once more,
on all events, as it was chosen, and its lists are published.

production: {score: score_ease, k: 20}     # in the pipeline file; score: the step of the model
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.pipeline.context import TRAINED

NOW = "_now"  # ends the names of the steps that are added
PUBLISH, SIMILAR = "publish" + NOW, "similar" + NOW
SPARE = 2  # times k items are scored, so that some may be left out when the lists are published


class Production(Settings):
    """`production:` of a pipeline file. The model is named by whoever looked at its validation
    figures: nothing here chooses by the test part.
    """

    score: str  # the score step whose model goes to production
    k: int = Field(20, ge=1, le=500)
    name: str = "default"  # of the lists, for consumers
    available: str = ""  # of the publish step, as `exclude` and `serve`
    exclude: str = ""
    serve: bool = True
    # An evaluate step of the file: lists are switched only where the paired difference from the
    # model whose lists are current allows it
    gate: str | None = None
    must: Literal["not_be_worse", "be_better"] = "not_be_worse"
    metric: str = "ndcg@10"
    # The model is fitted again after so many days. Until then the lists of users without new events
    # stay, those of others are made of their new ones. 0: fitted whenever events came
    retrain_days: float = Field(0, ge=0)
    similar: int = Field(0, ge=0, le=1000)  # also the nearest items of each item, so many; 0: none
    # Places outside of Delta that get the lists too: {name: what an export_lists step says}
    exports: dict[str, dict[str, Any]] = Field(default_factory=dict)


def added(
    steps: dict[str, dict[str, Any]], production: Production, source: str
) -> dict[str, dict[str, Any]]:
    """The steps to append to those of the file. Raises ConfigError where the named step does not
    lead to a model that can be fitted again.

    >>> steps = {
    ...     "raw": {"stage": "ingest"},
    ...     "split": {"stage": "prepare", "source": "raw", "rule": "leave_last_out"},
    ...     "ease": {"stage": "train_baseline", "source": "split", "model": "ease"},
    ...     "lists": {"stage": "score", "source": "split", "model": "ease"},
    ... }
    >>> list(added(steps, Production(score="lists"), "my.yaml"))
    ['split_now', 'ease_now', 'lists_now', 'publish_now']
    """
    where = f"{source}, production.score"
    score = _step(steps, production.score, ("score",), where)
    split = _step(steps, score["source"], ("prepare",), where)
    name = score["source"] + NOW
    new = {name: _everything(split, split.get("split") or split.get("rule", "leave_last_out"))}
    model = _step(steps, score["model"], TRAINED, where)
    fitted = {key: value for key, value in model.items() if key not in ("search", "candidates")}
    if model["stage"] == "train_deep":
        shards = _step(steps, model["shards"], ("export_shards",), where)
        new[model["shards"] + NOW] = {**shards, "source": name, "fit": "train"}
        again = {"shards": model["shards"] + NOW, "refit": None}
    else:
        again = {"source": name, "fit": "train"}
    rarely = {"every_days": production.retrain_days} if production.retrain_days else {}
    new[score["model"] + NOW] = {**fitted, **again, "again": score["model"], **rarely}
    new[production.score + NOW] = {
        **{key: value for key, value in score.items() if key != "candidates"},
        "model": score["model"] + NOW,
        "source": name,
        "part": "now",
        "task": "ranking",
        "k": production.k * SPARE,
        "changed": bool(production.retrain_days),
    }
    publish = production.model_dump(exclude={"score", "exports", "similar", "retrain_days"})
    publish |= {"of": production.score + NOW, "experiment": production.score}
    new[PUBLISH] = {"stage": "publish", **publish}
    if production.similar:
        nearest = {"model": score["model"] + NOW, "source": name, "k": production.similar}
        new[SIMILAR] = {"stage": "similar_items", **nearest}
    for name, place in production.exports.items():
        new[f"export_{name}{NOW}"] = {"stage": "export_lists", "of": PUBLISH, **place}
    return new


def _everything(split: dict[str, Any], name: str) -> dict[str, Any]:
    """The prepare step over all events. A user with few events has a list too: filters by a user's
    events are left out.
    """
    filters = {k: v for k, v in (split.get("filters") or {}).items() if "user" not in k}
    return {
        "stage": "prepare",
        "source": split["source"],
        "split": name + NOW,
        "rule": "everything",
        "filters": filters,
    }


def _step(
    steps: dict[str, dict[str, Any]], name: str, stages: tuple[str, ...], where: str
) -> dict[str, Any]:
    if name not in steps:
        raise ConfigError(
            where,
            found=repr(name),
            expected=f"the name of a step: {', '.join(steps)}{nearest(name, steps)}",
        )
    if steps[name].get("stage") not in stages:
        raise ConfigError(
            where,
            found=f"{name}, of stage {steps[name].get('stage')}",
            expected=f"a step of stage {' or '.join(stages)}",
        )
    return steps[name]
