"""Counts of each item in the fitted events: one list for all users (or for all users of a segment),
without the items that a user has seen.

Paper: nothing; the usual point of reference (compare P. Cremonesi et al. Performance of Recommender
    Algorithms on Top-N Recommendation Tasks. RecSys 2010, doi:10.1145/1864708.1864721, "TopPop").
Differs: nothing known.

Time is that of the fitted events: `last` is the latest of them, independent of the clock and of
held-out events. Every kind sums integers, so the result does not depend on the order of the rows.

For: the point of reference of every ranking, and the fallback of models that know nothing of a
    user.
Needs: events; for `by_segment` a field of the users.
Cold: new users get the list; new items are not in it.
Memory: 4 bytes an item, once for each segment.
Not for: a personal list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError, nearest

TASK = "ranking"
DAY_S = 86_400
# Decayed: weight of an event at `last`; an item may have 2**31 such events before a sum exceeds
# int64 (Spark raises an error then)
ONE = 2**32


class Config(Settings):
    """kind: all_time; decayed (an event weighs half after every half-life before `last`); last_days
    (events of the window before `last`); by_segment (counts within the user's segment).
    """

    # What counts: all events alike, less the older, of the last days, or of the user's segment
    kind: Literal["all_time", "decayed", "last_days", "by_segment"] = "all_time"
    # Decayed: days in which the weight of an event halves
    half_life_days: float = Field(30.0, gt=0)
    days: float = Field(30.0, gt=0)  # last_days: length of the window
    segment: str = ""  # a field of the users, such as gender
    # Minimum of users with an event: a smaller segment gets the counts of all users
    min_users: int = Field(50, ge=1)
    max_segments: int = Field(64, ge=1)  # largest segments; users of others get the counts of all
    # Number of events, distributed as those of all users, added to each segment's own
    prior: float = Field(0.0, ge=0)
    # all_time: events of this action alone, such as clicks; empty: all
    action: str = ""
    of: Literal["events", "users"] = "events"  # all_time: what is counted of an item
    # An item that more than this share of the users have is ranked after all others
    novelty_cap: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _segment_is_named(self) -> Config:
        if self.kind == "by_segment" and not self.segment:
            raise ValueError("by_segment needs `segment`, the name of a field of the users")
        if self.kind != "all_time" and (self.action or self.of != "events"):
            raise ValueError("action and of: users go with kind: all_time")
        return self


def reads(config: Config) -> tuple[str, ...]:
    """Columns of an event that are counted by."""
    return (
        *((c.ACTION,) if config.action else ()),
        *((c.USER_ID,) if config.of == "users" else ()),
    )


class Segments(NamedTuple):
    """users: (query_idx int, place int), for users in the users table. place: position from 1 in
    `names`; 0: the counts of all users.
    """

    users: DataFrame
    names: list[str]


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: column 0 has the scores for all users; kind by_segment
    adds one column per segment.

    Raises DataError where the users have no such field.
    """
    capped = _too_common(training, config)
    counts = artifact.counts(_counted(training, config), training.num_items)
    facts = {
        "events": int(counts.sum(dtype=np.float64)),
        "cold_items": int((counts[1:] == 0).sum()),
    }
    if capped.any():
        facts["capped_items"] = int(capped.sum())
    if config.kind == "by_segment":
        segments = _segments(training, config)
        own = _segment_counts(training, segments)
        scores = np.column_stack(
            [counts, own + config.prior * counts[:, None] / counts.sum(dtype=np.float64)]
        ).astype(np.float32)
        scores[capped] = -1.0
        queries = _queries(training, segments)
        artifact.write_dot(
            folder, model="popularity", items=scores, popularity=scores[:, 0], queries=queries
        )
        in_segments = segments.users.where(F.col("place") > 0).count()
        return facts | {"segments": len(segments.names), "users_in_segments": in_segments}
    if config.kind != "all_time":
        counts, used = _recent(training, config)
        facts["events_used"] = used
        facts["cold_items"] = int((counts[1:] == 0).sum())
    counts[capped] = -1.0
    artifact.write_dot(
        folder, model="popularity", items=counts[:, None], popularity=counts, constant=(1.0,)
    )
    return facts


def _counted(training: Training, config: Config) -> DataFrame:
    """Rows of which each counts one. Raises DataError where no event has the action."""
    events = training.events
    if config.action:
        events = events.where(F.col(c.ACTION) == config.action)
        if events.isEmpty():
            raise DataError(
                "popularity by action",
                found=f"no event of action {config.action!r}",
                expected="an action of the fitted events",
                remedy="correct config.action, or leave it out",
            )
    return events.select(c.USER_ID, c.ITEM_IDX).distinct() if config.of == "users" else events


def _recent(training: Training, config: Config) -> tuple[NDArray[np.float32], int]:
    """(weight of each item's events (I + 1,), number of events with a weight above 0)."""
    last = training.events.agg(F.max(c.TS)).collect()[0][0]
    age_days = (F.lit(last) - F.col(c.TS)) / DAY_S
    if config.kind == "last_days":
        weight = (age_days < config.days).cast("long")
    else:
        weight = F.round(F.pow(F.lit(2.0), -age_days / config.half_life_days) * ONE).cast("long")
    weighted = training.events.select(c.ITEM_IDX, weight.alias("weight")).where(F.col("weight") > 0)
    weights = (
        weighted.groupBy(c.ITEM_IDX)
        .agg(F.sum("weight").alias("weight"), F.count("*").alias("events"))
        .toArrow()
    )
    scores = np.zeros(training.num_items + 1)
    scores[weights.column(c.ITEM_IDX).to_numpy()] = weights.column("weight").to_numpy()
    scores /= ONE if config.kind == "decayed" else 1
    return scores.astype(np.float32), int(weights.column("events").to_numpy().sum())


def _too_common(training: Training, config: Config) -> NDArray[np.bool_]:
    """(I + 1,): whether more than the capped share of the users with events have the item."""
    capped = np.zeros(training.num_items + 1, dtype=bool)
    if config.novelty_cap < 1:
        pairs = training.events.select(c.QUERY_IDX, c.ITEM_IDX).distinct()
        most = config.novelty_cap * training.events.select(c.QUERY_IDX).distinct().count()
        common = pairs.groupBy(c.ITEM_IDX).count().where(F.col("count") > most).toArrow()
        capped[common.column(c.ITEM_IDX).to_numpy()] = True
    return capped


def _segments(training: Training, config: Config) -> Segments:
    """The segments with enough users, the largest first (equal ones by name). Raises DataError
    where the users have no such field.
    """
    field_names: list[str] = []
    if training.users is not None:
        field_names = sorted(
            row[0]
            for row in training.users.select(F.explode(F.map_keys("fields"))).distinct().collect()
        )
    if training.users is None or config.segment not in field_names:
        raise DataError(
            f"popularity by segment {config.segment!r}",
            found="no such field of the users",
            expected=f"one of {', '.join(field_names)}{nearest(config.segment, field_names)}"
            if field_names
            else "users with fields",
            remedy="set config.segment, or take another kind of popularity",
        )
    value = F.nullif(F.trim(F.col("fields").getItem(config.segment)), F.lit(""))
    users = training.users.select(c.QUERY_IDX, value.alias("name"))
    active = users.join(
        training.events.select(c.QUERY_IDX).distinct(), on=c.QUERY_IDX, how="left_semi"
    ).where(F.col("name").isNotNull())
    sizes = active.groupBy("name").count().where(F.col("count") >= config.min_users)
    names = [
        row["name"]
        for row in sizes.orderBy(F.desc("count"), "name").limit(config.max_segments).collect()
    ]
    places = training.users.sparkSession.createDataFrame(
        pa.table(
            {
                "name": pa.array(names, pa.string()),
                "place": pa.array(range(1, len(names) + 1), pa.int32()),
            }
        )
    )
    placed = users.join(F.broadcast(places), on="name", how="left")
    return Segments(placed.select(c.QUERY_IDX, F.coalesce("place", F.lit(0)).alias("place")), names)


def _segment_counts(training: Training, segments: Segments) -> NDArray[np.float64]:
    """Events of each item by the users of each segment, (I + 1, S); at most 64 numbers per item
    reach the driver.
    """
    segment_events = training.events.join(
        segments.users.where(F.col("place") > 0), on=c.QUERY_IDX, how="inner"
    )
    counted = segment_events.groupBy(c.ITEM_IDX, "place").count().toArrow()
    counts = np.zeros((training.num_items + 1, len(segments.names)))
    counts[counted.column(c.ITEM_IDX).to_numpy(), counted.column("place").to_numpy() - 1] = (
        counted.column("count").to_numpy()
    )
    return counts


def _queries(training: Training, segments: Segments) -> DataFrame:
    """(query_idx, vector): a vector that selects one column, for every user of the table or of the
    events.
    """
    events = training.events.select(c.QUERY_IDX).distinct()
    users = segments.users.join(events, on=c.QUERY_IDX, how="full").select(
        c.QUERY_IDX, F.coalesce("place", F.lit(0)).alias("place")
    )
    columns = F.sequence(F.lit(0), F.lit(len(segments.names)))
    chosen = F.transform(columns, lambda column: (column == F.col("place")).cast("float"))
    return users.select(c.QUERY_IDX, chosen.alias(artifact.VECTOR))
