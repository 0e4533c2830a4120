"""Playlists with the same title, or with words of it: an item's score is its share of those
playlists, and with a small weight of all.

Paper: nothing; what most teams of the RecSys Challenge 2018 did for playlists of which the title
    alone is known (compare C.-W. Chen et al. RecSys Challenge 2018: Automatic Music Playlist
    Continuation. RecSys 2018, doi:10.1145/3240323.3240342).
Differs: nothing known.

The title is a field of the query. A title that was never met, or none, leaves its words, and these
leave what all playlists have. Work: pairs x (1 + words of a title) rows are exchanged.

For: playlists of which only the title is known.
Needs: a text field of the queries.
Cold: a new title is ranked by its words; without known words all get the same list.
Memory: 8 bytes for each pair of a title or word and an item.
Not for: queries with a history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError

TASK = "ranking"
_KEY, _WEIGHT, _COUNT = "key", "weight", "count"
_ALL = ""  # key that every query has


class Config(Settings):
    field: str = "title"  # of the queries; its words are parted by blanks
    words: float = Field(0.2, ge=0)  # weight of all words of a title together; of the title: 1
    everybody: float = Field(0.01, gt=0)  # weight of the share of all queries that have the item
    shrink: float = Field(3.0, ge=0)  # queries without any item, added to those of a title or word


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`: a matrix of titles and words x items, and the rows of
    each query. Raises DataError where the queries have no such field.
    """
    keyed = _keys(training, config).persist()
    pairs = training.events.select(c.QUERY_IDX, c.ITEM_IDX).distinct()
    fitted = keyed.join(pairs.select(c.QUERY_IDX).distinct(), on=c.QUERY_IDX, how="left_semi")
    number = F.row_number().over(Window.orderBy(_KEY))  # one task: as many rows as titles
    rows = fitted.groupBy(_KEY).count().withColumn(ROW, number).persist()
    try:
        num_rows = rows.count()
        entries = (
            pairs.join(fitted, on=c.QUERY_IDX, how="inner")
            .join(rows, on=_KEY, how="inner")
            .groupBy(ROW, F.col(c.ITEM_IDX).alias(COLUMN))
            .agg((F.count("*") / (F.first(_COUNT) + config.shrink)).cast("float").alias(ENTRY))
        )
        weighted = F.sort_array(F.collect_list(F.struct(ROW, _WEIGHT)))
        numbered = keyed.join(rows, on=_KEY, how="inner").groupBy(c.QUERY_IDX)
        queries = numbered.agg(weighted.alias("pair")).select(
            c.QUERY_IDX,
            F.col(f"pair.{ROW}").alias(artifact.ROWS),
            F.col(f"pair.{_WEIGHT}").alias(artifact.WEIGHTS),
        )
        popularity = artifact.counts(pairs, training.num_items)
        with matrix.scratch(folder) as work:
            kept = matrix.write({"titles": Rows(entries, num_rows)}, work)
            facts = {
                "keys": num_rows,
                "entries": len(matrix.mapped(kept["titles"]).data),
                "cold_items": int((popularity[1:] == 0).sum()),
            }
            artifact.write_sparse(
                folder,
                model="title_lookup",
                num_rows=num_rows,
                matrix=kept["titles"],
                popularity=popularity.astype(np.float32),
                queries=queries,
            )
    finally:
        rows.unpersist()
        keyed.unpersist()
    return facts


def _keys(training: Training, config: Config) -> DataFrame:
    """(query_idx, key, weight): of every query the title, its words, and what all have."""
    users = training.users
    title = F.lower(F.trim(F.col("fields").getItem(config.field)))
    if users is None or users.where(title.isNotNull()).isEmpty():
        raise DataError(
            f"title_lookup, field {config.field!r}",
            found="no query with it",
            expected="titles of playlists in the table `users`, whose user_id names the playlist",
            remedy="set config.field, or take another baseline",
        )
    words = F.array_distinct(F.filter(F.split(title, r"\s+"), lambda word: word != ""))
    of_word = F.lit(config.words) / F.size(words)

    def key(text: Column, weight: Column) -> Column:
        return F.struct(text.alias(_KEY), weight.cast("float").alias(_WEIGHT))

    # A word is marked, so that a title of one word is not the word
    told = F.concat(
        F.array(key(title, F.lit(1.0))),
        F.transform(words, lambda word: key(F.concat(F.lit("a word: "), word), of_word)),
    )
    of_all = F.array(key(F.lit(_ALL), F.lit(config.everybody)))
    keys = F.concat(of_all, F.when(title.isNotNull() & (title != ""), told).otherwise(F.array()))
    return users.select(c.QUERY_IDX, F.explode(keys).alias("one")).select(c.QUERY_IDX, "one.*")
