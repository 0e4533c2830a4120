"""What is said of each item, as weighted terms: the vectors that content_knn compares and content_latent condenses.

A term is a word of a field (of the fields in `words`), or a whole value of it (of the others; several values of one are joined by "|"). The
vocabulary and its frequencies come from the items that have a fitted event. All others are put into the same terms: that is how cold
items are described, and what is said of them changes nothing for the rest.

Spark splits, counts and writes; the driver holds the vocabulary (about 100 bytes a term) and a few numbers an item.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines import matrix
from recsys_spark.baselines.artifact import Csr
from recsys_spark.baselines.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.baselines.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError, nearest

TITLE, FIELD, TOKEN, TIMES, TERM, FACTOR = "title", "field", "token", "times", "term", "factor"
SEPARATORS = r"[^\p{L}\p{M}\p{N}]+"  # between words: what is neither a letter, a mark on one, nor a digit
CHUNK = 1 << 22  # entries read at once


class Config(Settings):
    """Which fields, as what, and how much they weigh. tfidf: (1 + ln tf) ln(N / n). bm25: as the paper's equation 3.15, a field by itself:
    ln(1 + (N - n + 1/2) / (n + 1/2)) tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)). N: fitted items that say anything;
    n: those of them that have the term; length: of the field, in terms.

    Paper: S. Robertson, H. Zaragoza. The Probabilistic Relevance Framework: BM25 and Beyond. FnTIR 3(4), 2009, doi:10.1561/1500000019.
    """

    fields: dict[str, float] = Field(default_factory=dict)  # a field of the items, or title: its weight. Empty: all of them, each 1
    words: tuple[str, ...] = (TITLE,)  # fields that are text
    weighting: Literal["tfidf", "bm25"] = "tfidf"
    k1: float = Field(1.2, ge=0)  # bm25: how soon a repeated term counts no more
    b: float = Field(0.75, ge=0, le=1)  # bm25: how much a long field is held against each of its terms
    min_items: int = Field(2, ge=1)  # a term of fewer fitted items is left out
    max_share: float = Field(1.0, gt=0, le=1)  # and one of more than this share of them: work grows with the square of a term's items
    max_terms: int = Field(100_000, ge=1)  # of the rest, those of most items

    @field_validator("fields")
    @classmethod
    def _weigh_something(cls, fields: dict[str, float]) -> dict[str, float]:
        if any(not 0 < weight < np.inf for weight in fields.values()):
            raise ValueError("weights above 0; to leave a field out, do not name it")
        return fields


class Content(NamedTuple):
    """items: (I + 1, T + 1) float32, row 0 and column 0 empty. terms: the fitted items' rows of it, turned. Both are mapped files.

    norms: (I + 1,) squared length of each item's row. fitted: (I + 1,) items with a fitted event.
    """

    items: Csr
    terms: Csr
    norms: NDArray[np.float64]
    fitted: NDArray[np.bool_]

    def facts(self) -> dict[str, int]:
        """For a run's summary."""
        return {"terms": len(matrix.mapped(self.terms).lengths) - 1, "items_without_content": int((self.norms[1:] == 0).sum()),
                "cold_items": int((~self.fitted[1:]).sum())}


def read(training: Training, config: Config, work: Path) -> Content:
    """The matrix, in files of the folder `work`. Raises DataError: no items table, an unknown field, or no term that says anything."""
    if training.items is None:
        raise DataError("table items", found="none", expected="titles or fields of the items",
                        remedy="ingest a data set that describes its items, or leave the content baselines out")
    spark, known = training.events.sparkSession, training.events.select(c.ITEM_IDX).distinct().persist()
    counts = _counts(training.items, config).persist()
    try:
        fitted_counts = counts.join(known, on=c.ITEM_IDX, how="left_semi")
        vocabulary = _vocabulary(fitted_counts, config)
        weight = _weight(counts, fitted_counts, config)
        entries = weight.join(F.broadcast(spark.createDataFrame(vocabulary)), on=[FIELD, TOKEN], how="inner").select(
            F.col(c.ITEM_IDX).alias(ROW), F.col(TERM).alias(COLUMN), (F.col("weight") * F.col(FACTOR)).cast("float").alias(ENTRY))
        turned = entries.join(known.withColumnRenamed(c.ITEM_IDX, ROW), on=ROW, how="left_semi").select(
            F.col(COLUMN).alias(ROW), F.col(ROW).alias(COLUMN), ENTRY)
        files = matrix.write({"items": Rows(entries, training.num_items), "terms": Rows(turned, len(vocabulary))}, work)
        fitted = np.zeros(training.num_items + 1, dtype=bool)
        fitted[known.toArrow().column(c.ITEM_IDX).to_numpy()] = True
    finally:
        counts.unpersist()
        known.unpersist()
    return Content(files["items"], files["terms"], _norms(files["items"]), fitted)


def _counts(items: DataFrame, config: Config) -> DataFrame:
    """(item_idx, field, token, times), tokens in lower case. `title` is the column, not a field of that name."""
    title = items.select(c.ITEM_IDX, F.lit(TITLE).alias(FIELD), F.col(TITLE).alias("text"))
    fields = items.select(c.ITEM_IDX, F.explode("fields").alias(FIELD, "text")).where(F.col(FIELD) != TITLE)
    texts = title.unionByName(fields).where(F.col("text").isNotNull())
    if config.fields:
        _check(texts, config)
        texts = texts.where(F.col(FIELD).isin(*config.fields))
    words = F.split(F.lower("text"), SEPARATORS)
    values = F.transform(F.split("text", r"\|"), lambda value: F.lower(F.trim(value)))
    tokens = F.when(F.col(FIELD).isin(*config.words), words).otherwise(values)
    single = texts.select(c.ITEM_IDX, FIELD, F.explode(tokens).alias(TOKEN)).where(F.col(TOKEN) != "")
    return single.groupBy(c.ITEM_IDX, FIELD, TOKEN).agg(F.count("*").alias(TIMES))


def _check(texts: DataFrame, config: Config) -> None:
    known = sorted(row[0] for row in texts.select(FIELD).distinct().collect())
    for field in config.fields:
        if field not in known:
            raise DataError(f"content of the items, field {field!r}", found="no item with it",
                            expected=f"one of {', '.join(known)}{nearest(field, known)}" if known else "items with a title or fields",
                            remedy="correct config.fields")


def _vocabulary(fitted: DataFrame, config: Config) -> pa.Table:
    """(field, token, term int from 1, factor double), in the order of the names. factor: the field's weight times that of the rarity."""
    num_items = fitted.select(c.ITEM_IDX).distinct().count()
    terms = fitted.groupBy(FIELD, TOKEN).agg(F.count("*").alias("items"))
    useful = terms.where((F.col("items") >= config.min_items) & (F.col("items") <= config.max_share * num_items))
    if config.weighting == "tfidf":
        useful = useful.where(F.col("items") < num_items)  # of all items: its weight would be 0
    found = useful.orderBy(F.desc("items"), FIELD, TOKEN).limit(config.max_terms).toArrow()
    if not len(found):
        raise DataError("content of the items", found=f"no term that tells {num_items} items with events apart",
                        expected=f"one in at least {config.min_items} of them, but not in all",
                        remedy="name other config.fields, or lower config.min_items")
    found = found.sort_by([(FIELD, "ascending"), (TOKEN, "ascending")])
    n = found.column("items").to_numpy().astype(np.float64)
    idf = np.log(num_items / n) if config.weighting == "tfidf" else np.log(1 + (num_items - n + 0.5) / (n + 0.5))
    weights = np.array([config.fields.get(field, 1.0) for field in found.column(FIELD).to_pylist()])
    numbers = pa.array(np.arange(1, len(found) + 1, dtype=np.int32))
    return found.select([FIELD, TOKEN]).append_column(TERM, numbers).append_column(FACTOR, pa.array(weights * idf))


def _weight(counts: DataFrame, fitted: DataFrame, config: Config) -> DataFrame:
    """(item_idx, field, token, weight): what the times that an item has a term come to."""
    times: Column = F.col(TIMES)
    if config.weighting == "tfidf":
        return counts.select(c.ITEM_IDX, FIELD, TOKEN, (1 + F.log(times)).alias("weight"))
    length = F.sum(TIMES).alias("length")
    means = fitted.groupBy(c.ITEM_IDX, FIELD).agg(length).groupBy(FIELD).agg((F.sum("length") / F.count("*")).alias("mean"))
    lengths = counts.groupBy(c.ITEM_IDX, FIELD).agg(length).join(F.broadcast(means), on=FIELD, how="inner")
    below = times + config.k1 * (1 - config.b + config.b * F.col("length") / F.col("mean"))
    return counts.join(lengths, on=[c.ITEM_IDX, FIELD], how="inner").select(
        c.ITEM_IDX, FIELD, TOKEN, (times * (config.k1 + 1) / below).alias("weight"))


def _norms(files: Csr) -> NDArray[np.float64]:
    items, squares = matrix.mapped(files), []
    for first, last in items.chunks(CHUNK):
        some = items.rows(first, last)
        rows = np.repeat(np.arange(last - first), some.lengths)
        squares.append(np.bincount(rows, weights=some.data.astype(np.float64) ** 2, minlength=last - first))
    return np.concatenate(squares)
