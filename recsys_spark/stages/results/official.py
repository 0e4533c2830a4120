"""The figures of a challenge, as its organisers compute them, of runs that an evaluate step
measures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError
from recsys_spark.metrics.challenge import clickouts, engagements
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.tasks import CLICKOUTS, ENGAGEMENTS
from recsys_spark.pipeline import lineage
from recsys_spark.pipeline.context import Context
from recsys_spark.stages.results.evaluated import Scored


def of_clickouts(
    ctx: Context, source: str, part: str, scored: list[Scored], *, seed: int, replicas: int
) -> list[tuple[Scored, Partial]]:
    """A row of 30 bytes for each click-out comes to the driver. Raises ConfigError for a split
    whose parts have more than one event a session, or runs that give no lists.
    """
    asked = _asked(lineage.split_rows(ctx, source), part).persist()
    try:
        if asked.count() != asked.select(c.QUERY_ID).distinct().count():
            raise ConfigError(
                f"step {ctx.step}, challenge",
                found=f"clickouts, of {source}, where a query has several events to find",
                expected="one click-out a session",
                remedy="set rule: next_in_session and action: clickout item in the prepare step",
            )
        return [
            (replace(run, task=CLICKOUTS.name), _measured(asked, run, seed=seed, replicas=replicas))
            for run in scored
            if run.table == c.RECOMMENDATIONS
        ]
    finally:
        asked.unpersist()


def _asked(events: DataFrame, part: str) -> DataFrame:
    """(query_id, query_idx, item_id, step, before)."""
    known = events.where(F.col(c.PART).isin(*c.KNOWN[part])).select(c.QUERY_ID).distinct()
    of_part = events.where(F.col(c.PART) == part)
    return of_part.join(known.withColumn("before", F.lit(True)), c.QUERY_ID, "left").select(
        c.QUERY_ID,
        c.QUERY_IDX,
        c.ITEM_ID,
        F.coalesce(c.STEP, F.lit(0)).alias(c.STEP),
        F.coalesce("before", F.lit(False)).alias("before"),
    )


def _measured(asked: DataFrame, run: Scored, *, seed: int, replicas: int) -> Partial:
    hits = (
        run.rows.join(asked.select(c.QUERY_ID, c.ITEM_ID), [c.QUERY_ID, c.ITEM_ID], "left_semi")
        .groupBy(c.QUERY_ID)
        .agg(F.min(c.RANK).alias("place"), F.count(F.lit(1)).alias("times"))
    )
    table = asked.join(hits, c.QUERY_ID, "left").drop(c.QUERY_ID, c.ITEM_ID)
    rows = table.fillna(0, ["place", "times"]).toArrow().sort_by(c.QUERY_IDX)
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    measured = clickouts.measure(
        columns["place"],
        columns["times"],
        columns[c.STEP],
        columns["before"].astype(bool),
        units=columns[c.QUERY_IDX].astype(np.int64),
        seed=seed,
        replicas=replicas,
    )
    return Partial(measured, {"clicked_item_not_listed": int((columns["place"] == 0).sum())})


def of_engagements(
    ctx: Context, source: str, part: str, scored: list[Scored], *, seed: int, replicas: int
) -> list[tuple[Scored, Partial]]:
    """24 bytes a row of the part come to the driver."""
    pairs = []
    for run in scored:
        if run.table == c.PREDICTIONS:
            unit = F.xxhash64(c.QUERY_ID).alias("unit")
            rows = run.rows.select(unit, c.LABEL, c.VALUE).toArrow()
            # In an order of their own, so that sums do not depend on the partitions
            rows = rows.sort_by(
                [("unit", "ascending"), (c.VALUE, "ascending"), (c.LABEL, "ascending")]
            )
            label, p, units = (rows[name].to_numpy() for name in (c.LABEL, c.VALUE, "unit"))
            usable = np.isfinite(p)
            p = np.where(usable, p, p[usable].mean() if usable.any() else 0.0)
            measured = engagements.measure(label, p, units, seed=seed, replicas=replicas)
            odd = {"rows_without_prediction": int((~usable).sum())}
            pairs.append((replace(run, task=ENGAGEMENTS.name), Partial(measured, odd)))
    return pairs
