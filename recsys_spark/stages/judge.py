"""One number for a fitted model on the validation part: what a search chooses by. Scored the way `score` does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.metrics import ranking, rating
from recsys_spark.scoring.queries import PREDICTION
from recsys_spark.stages.candidates import require
from recsys_spark.stages.context import Context
from recsys_spark.stages.scored import Scoring, arrow_batches

DEFAULT = {"ranking": "ndcg@10", "rating": "rmse"}


class Judge:
    """Judges the model in a folder on the validation part of the split of step `source`.

    metric: a ranking metric at one cut-off, or a rating metric. users: at most so many are ranked, chosen by a hash of their number.
    candidates: the step that drew the items among which the targets are ranked; None: all items.
    Raises DataError when there is no validation event, ConfigError for an unknown metric or candidates that do not fit.
    """

    def __init__(self, ctx: Context, source: str, *, task: str, metric: str, users: int, candidates: str | None = None) -> None:
        self.ctx, self.source, self.metric, self.candidates = ctx, source, metric or DEFAULT[task], candidates
        name, _, cut = self.metric.partition("@")
        known = rating.METRICS if task == "rating" else tuple(f"{one}@10" for one in ranking.METRICS)
        if (name not in rating.METRICS) if task == "rating" else (name not in ranking.METRICS or not cut.isdigit() or int(cut) < 1):
            raise ConfigError(f"step {ctx.step}, search.metric", found=self.metric,
                              expected=f"one of {', '.join(known)}{nearest(self.metric, known)}")
        self.k = int(cut or 1)
        if candidates is not None:
            require(ctx, candidates, source=source, part=c.VALID, remedy=f"add a candidates step with source: {source} and part: valid")
            if task != "ranking":
                raise ConfigError(f"step {ctx.step}, candidates", found=f"{candidates}, for a model that predicts {task}s",
                                  expected="a model that ranks", remedy="leave out candidates")
        valid = Scoring(ctx, source, c.VALID, Path(), 1).events().where(F.col(c.PART) == c.VALID)
        if valid.isEmpty():
            raise DataError(f"split {ctx.inputs[source].summary['split']}, validation part", found="no event",
                            expected="at least one, to choose settings on",
                            remedy="take a split with a validation part, or leave `search` out")
        self.users: DataFrame | None = None
        if task == "ranking":
            # Whole arrays, because a list has no order of its own: a user's targets are a set.
            targets = valid.groupBy(c.USER_IDX).agg(F.collect_set(c.ITEM_IDX).alias("targets"))
            drawn = targets.orderBy(F.xxhash64(F.lit(ctx.seed), c.USER_IDX)).limit(users).toArrow()
            order = np.argsort(drawn.column(c.USER_IDX).to_numpy())
            self.targets = drawn.take(order)
            self.users = ctx.spark.createDataFrame(self.targets.select([c.USER_IDX]))

    def __call__(self, folder: Path) -> float:
        scoring = Scoring(self.ctx, self.source, c.VALID, folder, self.k, candidates=self.candidates, only=self.users)
        with arrow_batches(self.ctx):
            if self.users is None:
                return self._rating(scoring)
            found = scoring.lists().select(c.USER_IDX, c.ITEM_IDX).toArrow()
        found = found.take(np.argsort(found.column(c.USER_IDX).to_numpy()))
        assert found.column(c.USER_IDX).equals(self.targets.column(c.USER_IDX)), "every judged user gets a list"
        items = np.zeros((len(found), self.k), dtype=np.int64)
        for row, best in enumerate(found.column(c.ITEM_IDX).to_numpy()):
            items[row, : min(len(best), self.k)] = best[: self.k]  # candidates come all of them
        lists = self.targets.column("targets").combine_chunks()
        indptr = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        values = ranking.from_lists(items, indptr, lists.flatten().to_numpy(), ks=(self.k,))
        return float(values[self.metric].mean())

    def _rating(self, scoring: Scoring) -> float:
        error = F.col(PREDICTION) - F.col(c.LABEL)
        squares, absolute = scoring.predictions().agg(F.avg(error * error), F.avg(F.abs(error))).collect()[0]
        return math.sqrt(squares) if self.metric == "rmse" else float(absolute)
