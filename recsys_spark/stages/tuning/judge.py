"""The validation metric of a fitted model, by which a search chooses. Scoring is that of stage
`score`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Seen
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.metrics import ranking
from recsys_spark.metrics.tasks import TASKS
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context
from recsys_spark.scoring.queries import PREDICTION
from recsys_spark.stages.bridge.scored import Scoring


class Judge:
    """Judges the model in a folder on the validation part of the split of step `source`.

    metric: a ranking metric at one cut-off, or a rating metric. users: the most users to rank,
        chosen by a hash of their number.
    candidates: the step that drew the items among which the targets are ranked; None: all items.
    Raises DataError when there is no validation event, ConfigError for an unknown metric or
    candidates that do not fit.
    """

    def __init__(
        self,
        ctx: Context,
        source: str,
        *,
        task: str,
        metric: str,
        users: int,
        candidates: str | None = None,
        seen: Seen = "leave_out",
    ) -> None:
        self.ctx, self.source, self.candidates, self.seen = ctx, source, candidates, seen
        kind = TASKS[task]
        self.metric = kind.monitor(metric, f"step {ctx.step}, search.metric")
        cut = self.metric.partition("@")[2]
        self.k = int(cut or 1)
        if candidates is not None:
            lineage.require_candidates(
                ctx,
                candidates,
                source=source,
                part=c.VALID,
                remedy=f"add a candidates step with source: {source} and part: valid",
            )
            if kind.scored != "lists":
                raise ConfigError(
                    f"step {ctx.step}, candidates",
                    found=f"{candidates}, for a model that predicts {task}s",
                    expected="a model that ranks",
                    remedy="leave out candidates",
                )
        valid = Scoring(ctx, source, c.VALID, Path(), 1).events().where(F.col(c.PART) == c.VALID)
        if valid.isEmpty():
            raise DataError(
                f"split {ctx.inputs[source].summary['split']}, validation part",
                found="no event",
                expected="at least one, to choose settings on",
                remedy="take a split with a validation part, or leave `search` out",
            )
        self.users: DataFrame | None = None
        if kind.scored == "lists":
            # Whole arrays are compared, because a user's targets are a set without an order.
            targets = valid.groupBy(c.QUERY_IDX).agg(F.collect_set(c.ITEM_IDX).alias("targets"))
            drawn = targets.orderBy(F.xxhash64(F.lit(ctx.seed), c.QUERY_IDX)).limit(users).toArrow()
            order = np.argsort(drawn.column(c.QUERY_IDX).to_numpy())
            self.targets = drawn.take(order)
            few = ctx.spark.createDataFrame(self.targets.select([c.QUERY_IDX]))
            self.users = F.broadcast(few)

    def __call__(self, folder: Path) -> float:
        scoring = Scoring(
            self.ctx,
            self.source,
            c.VALID,
            folder,
            self.k,
            candidates=self.candidates,
            seen=self.seen,
            only=self.users,
        )
        if self.users is None:
            return self._rating(scoring)
        listed = scoring.lists().select(c.QUERY_IDX, c.ITEM_IDX).toArrow()
        listed = listed.take(np.argsort(listed.column(c.QUERY_IDX).to_numpy()))
        assert listed.column(c.QUERY_IDX).equals(self.targets.column(c.QUERY_IDX)), (
            "every judged user gets a list"
        )
        items = np.zeros((len(listed), self.k), dtype=np.int64)
        for row, best in enumerate(listed.column(c.ITEM_IDX).to_numpy()):
            items[row, : min(len(best), self.k)] = best[: self.k]  # candidate lists are not cut
        lists = self.targets.column("targets").combine_chunks()
        indptr = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        values = ranking.from_lists(items, indptr, lists.flatten().to_numpy(), ks=(self.k,))
        return float(values[self.metric].mean())

    def _rating(self, scoring: Scoring) -> float:
        error = F.col(PREDICTION) - F.col(c.LABEL)
        squares, absolute = (
            scoring.predictions().agg(F.avg(error * error), F.avg(F.abs(error))).collect()[0]
        )
        return math.sqrt(squares) if self.metric == "rmse" else float(absolute)
