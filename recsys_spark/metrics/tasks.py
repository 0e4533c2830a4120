"""The kinds of task, one row each: what is scored, how it is measured, its baseline, its texts.

All code that depends on the kind of a task uses this table. A kind is not the name of an objective:
a model may have several objectives that predict rows of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.metrics import candidates, ctr, exposure, lists, ranking, rating
from recsys_spark.metrics.challenge import clickouts, engagements, playlists

Errors = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Task:
    """One kind of task. The cut-off k of a metric follows an @: `ndcg@10`."""

    name: str
    scored: Literal["lists", "rows"]  # a list for each query, or a value for each row
    measured: Literal["ranking", "candidates", "rating", "click"]  # method of the engines
    metrics: tuple[str, ...]
    main: str  # metric that decides the order of a table
    title: str  # title of its part of a page
    best: str  # "MODEL {best}"
    columns: tuple[str, ...]  # columns of the terminal's table
    baseline: str = ""  # a model that must be measured too; empty: none
    among: str = ""  # lists: the source of the candidates that they rank; empty: the catalogue
    # lists: measures those that were made for another kind, by a block of its own and (0: as `ks`
    # says) of so many places
    block: Callable[..., Any] | None = None
    places: int = 0
    # Metrics by which a training may choose its epochs; the default is the first
    monitors: tuple[str, ...] = ()
    # rows: (labels, predictions), both (n,) -> one number per row, for every metric of `monitors`;
    # the metric is their mean, or for those in `roots` the root of the mean
    errors: Errors | None = None
    roots: tuple[str, ...] = ()
    binary: bool = False  # rows: every label is 0 or 1
    official: bool = False  # a second measure of what another kind scores
    remedy: str = ""  # remedy in the error for a set whose labels are not binary

    def monitor(self, requested: str, thing: str) -> str:
        """`requested`, or the task's own where it is empty. Raises ConfigError for another's.

        A task that ranks may be watched by any of its ranking metrics at any k.
        """
        name, _, k = requested.partition("@")
        any_k = self.measured == "ranking" and name in ranking.METRICS and k.isdecimal() and int(k)
        if requested and requested not in self.monitors and not any_k:
            others = f", or another of {', '.join(ranking.METRICS)} at any number of items"
            raise ConfigError(
                thing,
                found=repr(requested),
                expected=f"one of {', '.join(self.monitors)}"
                f"{others if self.measured == 'ranking' else ''}"
                f"{nearest(requested, self.monitors)}",
            )
        return requested or self.monitors[0]

    def mean(self, metric: str, total: float, count: float) -> float:
        """A metric of `monitors` from the sum of its errors."""
        value = total / count
        return float(value**0.5) if metric in self.roots else value


def _rating_errors(label: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    error = predicted - label
    return {"rmse": np.square(error), "mae": np.abs(error)}


def _click_errors(label: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    return {"log_loss": ctr.log_loss(label, predicted)}


_AMONG_CANDIDATES = {
    "scored": "lists",
    "measured": "candidates",
    "metrics": candidates.METRICS,
    "main": "ndcg",
    "baseline": "popularity",
}

RANKING = Task(
    "ranking",
    scored="lists",
    measured="ranking",
    metrics=(*ranking.METRICS, *lists.METRICS, *exposure.METRICS),
    main="ndcg",
    title="Ranking",
    best="ranks best",
    columns=("ndcg", "recall", "mrr", "coverage"),
    baseline="popularity",
    monitors=("ndcg@10", "recall@10", "ndcg@20", "recall@20"),
)
NEW_ITEMS = Task(
    "new_item_ranking",  # among all items without training events
    title="Ranking of new items",
    best="ranks new items best",
    columns=("ndcg", "recall", "mrr", "auc"),
    among=c.NEW_ITEMS,
    **_AMONG_CANDIDATES,  # type: ignore[arg-type]
)
SHOWN = Task(
    "shown_ranking",  # of the list that was shown to the query
    title="Ranking of shown lists",
    best="ranks shown lists best",
    columns=("ndcg", "mrr", "hit_rate", "auc"),
    among=c.SHOWN,
    **_AMONG_CANDIDATES,  # type: ignore[arg-type]
)
CLICKOUTS = Task(
    "clickouts",  # the same lists, by the rules of the RecSys Challenge 2019
    scored="lists",
    measured="candidates",
    metrics=clickouts.METRICS,
    main="official_mrr",
    title="RecSys Challenge 2019: click-outs",
    best="answers click-outs best",
    columns=clickouts.METRICS,
    among=c.SHOWN,
    official=True,
)
SAMPLED = Task(
    # Among drawn candidates: always shown with the word "sampled", and with the full ranking where
    # it exists
    "sampled_ranking",
    title="Sampled ranking",
    best="ranks the candidates best",
    columns=("ndcg", "hit_rate", "mrr", "auc"),
    among=c.SAMPLED,
    **_AMONG_CANDIDATES,  # type: ignore[arg-type]
)
PLAYLISTS = Task(
    # Full lists, measured as in the RecSys Challenge 2018
    "playlist_continuation",
    scored="lists",
    measured="ranking",
    metrics=playlists.METRICS,
    main="r_precision_artist",
    title="Playlists continued",
    best="continues playlists best",
    columns=("r_precision_artist", "r_precision", "playlist_ndcg", "clicks"),
    baseline="popularity",
    block=playlists.block,
    places=playlists.PLACES,
)
RATING = Task(
    "rating",
    scored="rows",
    measured="rating",
    metrics=rating.METRICS,
    main="rmse",
    title="Ratings",
    best="predicts ratings best",
    columns=("rmse", "mae"),
    baseline="global_bias",
    monitors=rating.METRICS,
    errors=_rating_errors,
    roots=("rmse",),
)
CLICK = Task(
    "click",
    scored="rows",
    measured="click",
    metrics=ctr.METRICS,
    main="rce",
    title="Clicks",
    best="predicts clicks best",
    columns=("rce", "log_loss", "auc", "calibration"),
    monitors=("log_loss",),
    errors=_click_errors,
    binary=True,
    remedy="export a split of rule click_time, or one whose values are 0 and 1",
)
ENGAGEMENTS = Task(
    "engagements",  # the same rows, by the rules of the RecSys Challenge 2020
    scored="rows",
    measured="click",
    metrics=engagements.METRICS,
    main="official_rce",
    title="RecSys Challenge 2020: engagements",
    best="predicts engagements best",
    columns=engagements.METRICS,
    monitors=("log_loss",),
    errors=_click_errors,
    binary=True,
    official=True,
)

TASKS = {  # in the order of a page
    task.name: task
    for task in (
        *(RANKING, PLAYLISTS, NEW_ITEMS, SHOWN, CLICKOUTS, SAMPLED),
        *(RATING, CLICK, ENGAGEMENTS),
    )
}
# Kinds as which lists of the whole catalogue can be measured
OF_RANKINGS = (RANKING.name, *(name for name, task in TASKS.items() if task.block))
# Kinds that a model can have; any model that ranks can rank candidates
OF_MODELS = tuple(
    name for name, task in TASKS.items() if not (task.among or task.official or task.block)
)


def of_lists(among: str) -> Task:
    """The kind of lists that rank candidates of this source; empty: the catalogue. The first places
    of united lists are a ranking of the catalogue: what none of them has is not found.
    """
    if among == c.UNION:
        return RANKING
    drawn = [task for task in TASKS.values() if task.scored == "lists" and task.among == among]
    return drawn[0] if drawn else SAMPLED  # published candidates are a sample, too
