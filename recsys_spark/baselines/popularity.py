"""How often each item occurs in the fitted events: one list for everybody (or for everybody of a segment), less what each has seen.

Paper: nothing; the usual point of reference (compare P. Cremonesi et al. Performance of Recommender Algorithms on Top-N
    Recommendation Tasks. RecSys 2010, doi:10.1145/1864708.1864721, "TopPop").
Differs: nothing known.

Time is that of the fitted events: `last` is the latest of them, whatever the clock says and whatever was held out. Every kind adds up
whole numbers, so the order of the rows changes nothing.
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

from recsys_spark.baselines import artifact
from recsys_spark.baselines.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError, nearest

TASK = "ranking"
DAY_S = 86_400
ONE = 2**32  # decayed: an event of the last moment; an item may have 2**31 of them before a sum leaves int64 (Spark would say so)


class Config(Settings):
    """kind: all_time; decayed (an event weighs half after every half-life before `last`); last_days (events of the window before `last`);
    by_segment (counts within the user's segment)."""

    kind: Literal["all_time", "decayed", "last_days", "by_segment"] = "all_time"
    half_life_days: float = Field(30.0, gt=0)
    days: float = Field(30.0, gt=0)
    segment: str = ""  # a field of the users, such as gender
    min_users: int = Field(50, ge=1)  # with an event: a smaller segment gets the counts of all
    max_segments: int = Field(64, ge=1)  # the largest: the users of others get the counts of all
    prior: float = Field(0.0, ge=0)  # as many events, dealt like those of all, are added to each segment's own
    novelty_cap: float = Field(1.0, gt=0, le=1)  # an item that more than this share of the users have comes after all others

    @model_validator(mode="after")
    def _segment_is_named(self) -> Config:
        if self.kind == "by_segment" and not self.segment:
            raise ValueError("by_segment needs `segment`, the name of a field of the users")
        return self


class Segments(NamedTuple):
    """users: (user_idx int, place int): 1 and up in `names`, 0 for the counts of all. Only users of the users table."""

    users: DataFrame
    names: list[str]


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """The index at `folder`: column 0 holds the scores for all, and by_segment one column more for each segment.

    Raises DataError where the users have no such field.
    """
    capped = _too_common(training, config)
    counts = artifact.counts(training.events, training.num_items)
    facts = {"events": int(counts.sum(dtype=np.float64)), "cold_items": int((counts[1:] == 0).sum())}
    if capped.any():
        facts["capped_items"] = int(capped.sum())
    if config.kind == "by_segment":
        segments = _segments(training, config)
        own = _segment_counts(training, segments)
        scores = np.column_stack([counts, own + config.prior * counts[:, None] / counts.sum(dtype=np.float64)]).astype(np.float32)
        scores[capped] = -1.0
        queries = _queries(training, segments)
        artifact.write_dot(folder, model="popularity", items=scores, popularity=scores[:, 0], queries=queries)
        in_segments = segments.users.where(F.col("place") > 0).count()
        return facts | {"segments": len(segments.names), "users_in_segments": in_segments}
    if config.kind != "all_time":
        counts, used = _recent(training, config)
        facts["events_used"] = used
        facts["cold_items"] = int((counts[1:] == 0).sum())
    counts[capped] = -1.0
    artifact.write_dot(folder, model="popularity", items=counts[:, None], popularity=counts, constant=(1.0,))
    return facts


def _recent(training: Training, config: Config) -> tuple[NDArray[np.float32], int]:
    """(weight of each item's events (I + 1,), the events that weigh anything)."""
    last = training.events.agg(F.max(c.TS)).collect()[0][0]
    age_days = (F.lit(last) - F.col(c.TS)) / DAY_S
    if config.kind == "last_days":
        weight = (age_days < config.days).cast("long")
    else:
        weight = F.round(F.pow(F.lit(2.0), -age_days / config.half_life_days) * ONE).cast("long")
    weighted = training.events.select(c.ITEM_IDX, weight.alias("weight")).where(F.col("weight") > 0)
    found = weighted.groupBy(c.ITEM_IDX).agg(F.sum("weight").alias("weight"), F.count("*").alias("events")).toArrow()
    scores = np.zeros(training.num_items + 1)
    scores[found.column(c.ITEM_IDX).to_numpy()] = found.column("weight").to_numpy()
    scores /= ONE if config.kind == "decayed" else 1
    return scores.astype(np.float32), int(found.column("events").to_numpy().sum())


def _too_common(training: Training, config: Config) -> NDArray[np.bool_]:
    """(I + 1,): the items that more than the capped share of the users with events have."""
    capped = np.zeros(training.num_items + 1, dtype=bool)
    if config.novelty_cap < 1:
        pairs = training.events.select(c.USER_IDX, c.ITEM_IDX).distinct()
        most = config.novelty_cap * training.events.select(c.USER_IDX).distinct().count()
        found = pairs.groupBy(c.ITEM_IDX).count().where(F.col("count") > most).toArrow()
        capped[found.column(c.ITEM_IDX).to_numpy()] = True
    return capped


def _segments(training: Training, config: Config) -> Segments:
    """The segments with enough users, the largest first (equal ones by name). Raises DataError where the users have no such field."""
    known: list[str] = []
    if training.users is not None:
        known = sorted(row[0] for row in training.users.select(F.explode(F.map_keys("fields"))).distinct().collect())
    if training.users is None or config.segment not in known:
        raise DataError(f"popularity by segment {config.segment!r}", found="no such field of the users",
                        expected=f"one of {', '.join(known)}{nearest(config.segment, known)}" if known else "users with fields",
                        remedy="set config.segment, or take another kind of popularity")
    value = F.nullif(F.trim(F.col("fields").getItem(config.segment)), F.lit(""))
    users = training.users.select(c.USER_IDX, value.alias("name"))
    active = users.join(training.events.select(c.USER_IDX).distinct(), on=c.USER_IDX, how="left_semi").where(F.col("name").isNotNull())
    sizes = active.groupBy("name").count().where(F.col("count") >= config.min_users)
    names = [row["name"] for row in sizes.orderBy(F.desc("count"), "name").limit(config.max_segments).collect()]
    places = training.users.sparkSession.createDataFrame(
        pa.table({"name": pa.array(names, pa.string()), "place": pa.array(range(1, len(names) + 1), pa.int32())}))
    placed = users.join(F.broadcast(places), on="name", how="left")
    return Segments(placed.select(c.USER_IDX, F.coalesce("place", F.lit(0)).alias("place")), names)


def _segment_counts(training: Training, segments: Segments) -> NDArray[np.float64]:
    """Events of each item by the users of each segment, (I + 1, S); at most 64 numbers an item reach the driver."""
    mine = training.events.join(segments.users.where(F.col("place") > 0), on=c.USER_IDX, how="inner")
    found = mine.groupBy(c.ITEM_IDX, "place").count().toArrow()
    counts = np.zeros((training.num_items + 1, len(segments.names)))
    counts[found.column(c.ITEM_IDX).to_numpy(), found.column("place").to_numpy() - 1] = found.column("count").to_numpy()
    return counts


def _queries(training: Training, segments: Segments) -> DataFrame:
    """(user_idx, vector): every user of the table or of the events chooses one column."""
    events = training.events.select(c.USER_IDX).distinct()
    users = segments.users.join(events, on=c.USER_IDX, how="full").select(c.USER_IDX, F.coalesce("place", F.lit(0)).alias("place"))
    columns = F.sequence(F.lit(0), F.lit(len(segments.names)))
    chosen = F.transform(columns, lambda column: (column == F.col("place")).cast("float"))
    return users.select(c.USER_IDX, chosen.alias(artifact.VECTOR))
