"""Item descriptions as vectors of weighted terms, which content_knn compares and content_latent
reduces.

A term is a word of a field (for fields in `words`), or a whole value of it (for others, where
several values are joined by "|"). The vocabulary and its frequencies come from the items that have
a fitted event. Other items are described by the same terms, so cold items have a description that
does not affect the rest.

Spark splits, counts and writes; the driver holds the vocabulary (about 100 bytes per term) and a
few numbers per item.
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

from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.neighbours import matrix
from recsys_spark.baselines.neighbours.matrix import COLUMN, ENTRY, ROW, Rows
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError, nearest

TITLE, FIELD, TOKEN = "title", "field", "token"
TIMES, TERM, FACTOR = "times", "term", "factor"
SEPARATORS = r"[^\p{L}\p{M}\p{N}]+"  # word separator: neither letters, combining marks nor digits
CHUNK = 1 << 22  # entries read at a time


class Config(Settings):
    """Fields, their terms and their weights. tfidf: (1 + ln tf) ln(N / n). bm25: equation 3.15 of
    the paper, for each field separately: ln(1 + (N - n + 1/2) / (n + 1/2)) tf (k1 + 1) / (tf + k1
    (1 - b + b length / mean length)). N: fitted items with any text; n: those of them with the
    term; length: of the field, in terms.

    Paper: S. Robertson, H. Zaragoza. The Probabilistic Relevance Framework: BM25 and Beyond. FnTIR
    3(4), 2009, doi:10.1561/1500000019.
    """

    # {a field of the items, or title: its weight}. Empty: all fields, with weight 1
    fields: dict[str, float] = Field(default_factory=dict)
    words: tuple[str, ...] = (TITLE,)  # fields that are text
    weighting: Literal["tfidf", "bm25"] = "tfidf"  # of an item's terms
    k1: float = Field(1.2, ge=0)  # bm25: saturation of a repeated term
    # Bm25: normalisation by field length
    b: float = Field(0.75, ge=0, le=1)
    min_items: int = Field(2, ge=1)  # a term of fewer fitted items is left out
    # A term of more than this share of them is left out: work grows with the square of its items
    max_share: float = Field(1.0, gt=0, le=1)
    max_terms: int = Field(100_000, ge=1)  # of the remaining terms, those with the most items

    @field_validator("fields")
    @classmethod
    def _weigh_something(cls, fields: dict[str, float]) -> dict[str, float]:
        if any(not 0 < weight < np.inf for weight in fields.values()):
            raise ValueError("weights above 0; to leave a field out, do not name it")
        return fields


class Content(NamedTuple):
    """items: (I + 1, T + 1) float32, row 0 and column 0 empty. terms: the transpose of its rows of
    fitted items. Both are memory-mapped files.

    norms: (I + 1,) squared length of each item's row. fitted: (I + 1,) items with a fitted event.
    """

    items: Csr
    terms: Csr
    norms: NDArray[np.float64]
    fitted: NDArray[np.bool_]

    def facts(self) -> dict[str, int]:
        """Facts for a run's summary."""
        return {
            "terms": len(matrix.mapped(self.terms).lengths) - 1,
            "items_without_content": int((self.norms[1:] == 0).sum()),
            "cold_items": int((~self.fitted[1:]).sum()),
        }


def read(training: Training, config: Config, work: Path) -> Content:
    """The matrices, as files in the folder `work`. Raises DataError without an items table, for an
    unknown field, or if no useful term is left.
    """
    if training.items is None:
        raise DataError(
            "table items",
            found="none",
            expected="titles or fields of the items",
            remedy="describe them under `source.items` of the ingest step (title, keep), or leave "
            "the content baselines out",
        )
    spark = training.events.sparkSession
    fitted_items = training.events.select(c.ITEM_IDX).distinct().persist()
    counts = _counts(training.items, config).persist()
    try:
        fitted_counts = counts.join(fitted_items, on=c.ITEM_IDX, how="left_semi")
        vocabulary = _vocabulary(fitted_counts, config)
        weight = _weight(counts, fitted_counts, config)
        entries = weight.join(
            F.broadcast(spark.createDataFrame(vocabulary)), on=[FIELD, TOKEN], how="inner"
        ).select(
            F.col(c.ITEM_IDX).alias(ROW),
            F.col(TERM).alias(COLUMN),
            (F.col("weight") * F.col(FACTOR)).cast("float").alias(ENTRY),
        )
        turned = entries.join(
            fitted_items.withColumnRenamed(c.ITEM_IDX, ROW), on=ROW, how="left_semi"
        ).select(F.col(COLUMN).alias(ROW), F.col(ROW).alias(COLUMN), ENTRY)
        files = matrix.write(
            {"items": Rows(entries, training.num_items), "terms": Rows(turned, len(vocabulary))},
            work,
        )
        fitted = np.zeros(training.num_items + 1, dtype=bool)
        fitted[fitted_items.toArrow().column(c.ITEM_IDX).to_numpy()] = True
    finally:
        counts.unpersist()
        fitted_items.unpersist()
    return Content(files["items"], files["terms"], _norms(files["items"]), fitted)


def _counts(items: DataFrame, config: Config) -> DataFrame:
    """(item_idx, field, token, times), tokens in lower case. `title` means the column, not a field
    with that name.
    """
    title = items.select(c.ITEM_IDX, F.lit(TITLE).alias(FIELD), F.col(TITLE).alias("text"))
    fields = items.select(c.ITEM_IDX, F.explode("fields").alias(FIELD, "text")).where(
        F.col(FIELD) != TITLE
    )
    texts = title.unionByName(fields).where(F.col("text").isNotNull())
    if config.fields:
        _check(texts, config)
        texts = texts.where(F.col(FIELD).isin(*config.fields))
    words = F.split(F.lower("text"), SEPARATORS)
    values = F.transform(F.split("text", r"\|"), lambda value: F.lower(F.trim(value)))
    tokens = F.when(F.col(FIELD).isin(*config.words), words).otherwise(values)
    single = texts.select(c.ITEM_IDX, FIELD, F.explode(tokens).alias(TOKEN)).where(
        F.col(TOKEN) != ""
    )
    return single.groupBy(c.ITEM_IDX, FIELD, TOKEN).agg(F.count("*").alias(TIMES))


def _check(texts: DataFrame, config: Config) -> None:
    field_names = sorted(row[0] for row in texts.select(FIELD).distinct().collect())
    for field in config.fields:
        if field not in field_names:
            raise DataError(
                f"content of the items, field {field!r}",
                found="no item with it",
                expected=f"one of {', '.join(field_names)}{nearest(field, field_names)}"
                if field_names
                else "items with a title or fields",
                remedy="correct config.fields",
            )


def _vocabulary(fitted: DataFrame, config: Config) -> pa.Table:
    """(field, token, term int from 1, factor double), in the order of field and token. factor: the
    field's weight times the inverse document frequency.
    """
    num_items = fitted.select(c.ITEM_IDX).distinct().count()
    terms = fitted.groupBy(FIELD, TOKEN).agg(F.count("*").alias("items"))
    useful = terms.where(
        (F.col("items") >= config.min_items) & (F.col("items") <= config.max_share * num_items)
    )
    if config.weighting == "tfidf":
        useful = useful.where(F.col("items") < num_items)  # a term of all items has weight 0
    vocabulary = useful.orderBy(F.desc("items"), FIELD, TOKEN).limit(config.max_terms).toArrow()
    if not len(vocabulary):
        raise DataError(
            "content of the items",
            found=f"no term that tells {num_items} items with events apart",
            expected=f"one in at least {config.min_items} of them, but not in all",
            remedy="name other config.fields, or lower config.min_items",
        )
    vocabulary = vocabulary.sort_by([(FIELD, "ascending"), (TOKEN, "ascending")])
    n = vocabulary.column("items").to_numpy().astype(np.float64)
    idf = (
        np.log(num_items / n)
        if config.weighting == "tfidf"
        else np.log(1 + (num_items - n + 0.5) / (n + 0.5))
    )
    weights = np.array(
        [config.fields.get(field, 1.0) for field in vocabulary.column(FIELD).to_pylist()]
    )
    numbers = pa.array(np.arange(1, len(vocabulary) + 1, dtype=np.int32))
    return (
        vocabulary.select([FIELD, TOKEN])
        .append_column(TERM, numbers)
        .append_column(FACTOR, pa.array(weights * idf))
    )


def _weight(counts: DataFrame, fitted: DataFrame, config: Config) -> DataFrame:
    """(item_idx, field, token, weight): the weight of a term's frequency in an item."""
    times: Column = F.col(TIMES)
    if config.weighting == "tfidf":
        return counts.select(c.ITEM_IDX, FIELD, TOKEN, (1 + F.log(times)).alias("weight"))
    length = F.sum(TIMES).alias("length")
    means = (
        fitted.groupBy(c.ITEM_IDX, FIELD)
        .agg(length)
        .groupBy(FIELD)
        .agg((F.sum("length") / F.count("*")).alias("mean"))
    )
    lengths = (
        counts.groupBy(c.ITEM_IDX, FIELD)
        .agg(length)
        .join(F.broadcast(means), on=FIELD, how="inner")
    )
    below = times + config.k1 * (1 - config.b + config.b * F.col("length") / F.col("mean"))
    return counts.join(lengths, on=[c.ITEM_IDX, FIELD], how="inner").select(
        c.ITEM_IDX, FIELD, TOKEN, (times * (config.k1 + 1) / below).alias("weight")
    )


def _norms(files: Csr) -> NDArray[np.float64]:
    items, squares = matrix.mapped(files), []
    for first, last in items.chunks(CHUNK):
        some = items.rows(first, last)
        rows = np.repeat(np.arange(last - first), some.lengths)
        squares.append(
            np.bincount(rows, weights=some.data.astype(np.float64) ** 2, minlength=last - first)
        )
    return np.concatenate(squares)
