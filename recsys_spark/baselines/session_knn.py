"""Sessions, or histories of users, with the same items: an item's score is the sum of the
similarities of the nearest past sessions that have it. The query is a history, of which the newest
items may count most.

Paper: Malte Ludewig, Dietmar Jannach. Evaluation of Session-based Recommendation Algorithms. User
    Modeling and User-Adapted Interaction 28, 2018, arXiv:1803.09587 (SKNN; `decay` below 1 and
    `normalise: 0` is V-SKNN, `nearness` below 1 is S-SKNN); weights by idf as in its authors' code,
    session-rec.
Differs: weights fall by a constant factor an event, where the paper has a linear decay; candidates
    are the latest sessions that share any of the items, as in the paper, and of one time those of
    the highest query number; a query that was fitted is no neighbour of itself. No filter by what
    follows what (SF-SKNN).

For: the next event of short sessions, also of new ones; a strong baseline there.
Needs: events with their times; with `decay`, `last` or `nearness` their order.
Cold: a new query with a history is ranked at once; new items are never found.
Memory: 16 bytes an event, fewer with `sample`, mapped by each scoring worker; 8 bytes a session.
Not for: long histories: most sessions share an item with them, and `sample` leaves most of those
    out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
LENGTH, FREQUENCY = "length", "frequency"


class Config(Settings):
    neighbours: int = Field(100, ge=1)  # sessions whose items are scored
    # the latest sessions that share an item with the history, of which these are; 0: all
    sample: int = Field(1000, ge=0)
    last: int = Field(0, ge=0)  # of a history only so many newest items count; 0: all
    decay: float = Field(1.0, gt=0, le=1)  # similarity: weight of an item against the next one
    normalise: float = Field(0.5, ge=0, le=1)  # exponent of a session's length; 0.5: cosine, 0: dot
    # score: weight of a session whose newest item in common is one event older than another's
    nearness: float = Field(1.0, gt=0, le=1)
    similarity_idf: bool = False  # rare items in common count more
    score_idf: float = Field(0.0, ge=0)  # an item counts 1 + this * its idf


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: sessions x items, and of each item its latest
    sessions. Queries are histories. Raises DataError where no two sessions share an item.
    """
    sessions = training.events.groupBy(c.QUERY_IDX).agg(
        F.max(c.TS).alias(c.TS), F.countDistinct(c.ITEM_IDX).alias(LENGTH)
    )
    latest = _latest(sessions, training.num_users)
    pairs = training.events.select(c.QUERY_IDX, c.ITEM_IDX).distinct()
    entries = pairs.join(sessions, on=c.QUERY_IDX).join(_frequencies(pairs, sessions), c.ITEM_IDX)
    with matrix.scratch(folder) as work:
        entries = entries.persist()
        files = matrix.write(
            {
                "sessions": Rows(_scored(entries, config), training.num_users),
                "postings": Rows(_postings(entries, config), training.num_items),
            },
            work,
        )
        entries.unpersist()
        postings = matrix.mapped(files["postings"])
        if postings.lengths.max() < 2:
            raise DataError(
                "sessions of session_knn",
                found="no item in two of them",
                expected="sessions that share items",
                remedy="take another baseline, such as popularity",
            )
        facts = {
            "sessions": int((matrix.mapped(files["sessions"]).lengths > 0).sum()),
            "pairs": len(matrix.mapped(files["sessions"]).data),
            "postings": len(postings.data),
        }
        artifact.write_sessions(
            folder,
            model="session_knn",
            num_rows=training.num_users,
            matrix=files["sessions"],
            postings=files["postings"],
            latest=latest,
            popularity=artifact.counts(training.events, training.num_items),
            **config.model_dump(include={"neighbours", "sample", "last", "decay", "nearness"}),
        )
    return facts


def _latest(sessions: DataFrame, num_sessions: int) -> NDArray[np.int64]:
    """(num_sessions + 1,): the time of each one's last event."""
    table = sessions.select(c.QUERY_IDX, c.TS).toArrow()
    latest = np.zeros(num_sessions + 1, np.int64)
    latest[table.column(c.QUERY_IDX).to_numpy()] = table.column(c.TS).to_numpy()
    return latest


def _frequencies(pairs: DataFrame, sessions: DataFrame) -> DataFrame:
    """(item_idx, frequency): inverse document frequency, as in neighbours/similarity.py."""
    number = float(sessions.count())
    has_item = F.count("*")
    return pairs.groupBy(c.ITEM_IDX).agg(
        F.log((F.lit(number) + 1) / (has_item + 1)).alias(FREQUENCY)
    )


def _scored(entries: DataFrame, config: Config) -> DataFrame:
    """(row, column, entry): sessions x items."""
    value = 1 + config.score_idf * F.col(FREQUENCY)
    return entries.select(
        F.col(c.QUERY_IDX).alias(ROW),
        F.col(c.ITEM_IDX).alias(COLUMN),
        value.cast("float").alias(ENTRY),
    )


def _postings(entries: DataFrame, config: Config) -> DataFrame:
    """(row, column, entry): items x sessions. Of the latest `sample` sessions that share any item
    with a history, and are not its own, each is among the latest `sample` + 1 of one of its items.
    """
    if config.sample:
        newest = Window.partitionBy(c.ITEM_IDX).orderBy(F.desc(c.TS), F.desc(c.QUERY_IDX))
        place = F.row_number().over(newest)
        entries = entries.withColumn(c.PLACE, place).where(F.col(c.PLACE) <= config.sample + 1)
    value = F.pow(F.col(LENGTH), F.lit(-config.normalise))
    if config.similarity_idf:
        value = value * F.col(FREQUENCY)
    return entries.select(
        F.col(c.ITEM_IDX).alias(ROW),
        F.col(c.QUERY_IDX).alias(COLUMN),
        value.cast("float").alias(ENTRY),
    )
