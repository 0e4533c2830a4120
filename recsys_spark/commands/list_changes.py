"""Popularity of recommended items and changes for users, counted by Spark; only small aggregates
reach the driver.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.report.content import Change, Counted
from recsys_spark.stages.results.examples import Ranked

HIT_BY = "hit_by"  # ids of the runs whose list has a held-out event of the user


def popularity(ranked: Ranked, runs: Sequence[str]) -> tuple[Counted, ...]:
    """For each number of training events: items, held-out events, and places in the lists of each
    run.

    One row per distinct number of events, so the data on the driver grow far slower than the
    catalogue.
    """
    places = [f"run_{number}" for number in range(len(runs))]
    events = ranked.train.groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("events"))
    held = ranked.held.groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("held"))
    shown = ranked.lists.groupBy(c.ITEM_ID).agg(
        *(
            F.count_if(F.col(c.RUN_ID) == run).alias(name)
            for run, name in zip(runs, places, strict=True)
        )
    )
    items = (
        events.join(held, on=c.ITEM_ID, how="full_outer")
        .join(shown, on=c.ITEM_ID, how="full_outer")
        .fillna(0)
    )
    sums = [F.sum(name).alias(name) for name in ("held", *places)]
    rows = (
        items.groupBy("events")
        .agg(F.count(F.lit(1)).alias("items"), *sums)
        .orderBy("events")
        .collect()
    )
    return tuple(
        Counted(
            row["events"],
            row["items"],
            row["held"],
            {run: row[name] for run, name in zip(runs, places, strict=True)},
        )
        for row in rows
    )


def hits(ranked: Ranked) -> DataFrame:
    """query_id, hit_by (sorted): every user with a held-out event."""
    held_out = ranked.held.select(c.QUERY_ID, c.ITEM_ID).distinct()
    listed = ranked.lists.where(~F.isnan(c.SCORE)).select(c.QUERY_ID, c.ITEM_ID, c.RUN_ID)
    matches = held_out.join(listed, on=[c.QUERY_ID, c.ITEM_ID], how="left")
    return matches.groupBy(c.QUERY_ID).agg(F.sort_array(F.collect_set(c.RUN_ID)).alias(HIT_BY))


def differing(hit: DataFrame, runs: Sequence[str]) -> DataFrame:
    """Users for whom at least one run hits and another does not."""
    return hit.where((F.size(HIT_BY) > 0) & (F.size(HIT_BY) < len(runs)))


def changes(
    ranked: Ranked, hit: DataFrame, runs: Sequence[str], reference: str
) -> tuple[Change, ...]:
    """Changes of each run against the reference, in the order of `runs`. hit: result of `hits`."""
    counted = [(set(row[HIT_BY]), row["count"]) for row in hit.groupBy(HIT_BY).count().collect()]
    users = sum(count for _, count in counted)
    entries = ranked.lists.select(c.QUERY_ID, c.ITEM_ID, c.RUN_ID).distinct()
    base = entries.where(F.col(c.RUN_ID) == reference).select(c.QUERY_ID, c.ITEM_ID)
    shared = (
        entries.join(base, on=[c.QUERY_ID, c.ITEM_ID], how="left_semi").groupBy(c.RUN_ID).count()
    )
    common = {row[c.RUN_ID]: row["count"] for row in shared.collect()}
    return tuple(
        Change(
            run_id=run,
            both=sum(count for by, count in counted if {run, reference} <= by),
            gained=sum(count for by, count in counted if run in by and reference not in by),
            lost=sum(count for by, count in counted if reference in by and run not in by),
            neither=sum(count for by, count in counted if run not in by and reference not in by),
            shared=common.get(run, 0) / users if users else 0.0,
        )
        for run in runs
        if run != reference
    )
