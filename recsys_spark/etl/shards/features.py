"""Features for training from fields of users and items. Vocabularies and normalisers are fitted on
the training part alone.

Users and items are fitted on those with a training event, each counted once; their values become
side files by index (CSR of codes, or numbers). Fields of events: event_fields.py.

A field of users or items has one value, or several joined by "|" (then each is a tag); `kind`
overrides this. The driver holds the vocabularies (the MOST most frequent values of a field; others
are out of vocabulary) and, for each number field, 12 bytes per entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import artifacts
from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Feature, Numbers
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.etl.shards import side
from recsys_spark.etl.shards.event_fields import EVENT_KINDS

MOST = 100_000
# Name: (field of the table, characters of it); the first digit of a US zip is a group of states
_DERIVED = {"zip_region": ("zip", 1)}


class Wanted(Settings):
    """A field of users or items. In configuration a bare name means {name: ...}."""

    name: str
    field: str = ""  # name in the table; empty: `name`
    first: int = Field(0, ge=0)  # number of leading characters kept; 0: all
    kind: Literal["auto", "category", "tags", "number"] = (
        "auto"  # auto: tags if any value has several parts, else a category
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        value = {"name": value} if isinstance(value, str) else dict(value)
        if value.get("name") in _DERIVED and not value.get("field"):
            value["field"], value["first"] = _DERIVED[value["name"]]
        return value

    @property
    def source(self) -> str:
        return self.field or self.name


class Features(Settings):
    user: tuple[Wanted, ...] = ()
    item: tuple[Wanted, ...] = ()
    event: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Features:
        for name in self.event:
            if name not in EVENT_KINDS:
                raise ValueError(
                    f"event: one of {', '.join(EVENT_KINDS)}, not "
                    f"{name!r}{nearest(name, EVENT_KINDS)}"
                )
        names = [*(field.name for field in (*self.user, *self.item)), *self.event]
        if len(set(names)) != len(names):
            raise ValueError(f"names that differ, not {', '.join(names)}")
        return self


@dataclass(frozen=True)
class Entities:
    """Users or items. table: (id, fields); index: (id, number); count: the highest number."""

    side: Literal["user", "item"]
    table: DataFrame
    index: DataFrame
    count: int

    @property
    def id(self) -> str:
        return c.USER_ID if self.side == "user" else c.ITEM_ID

    @property
    def idx(self) -> str:
        return c.QUERY_IDX if self.side == "user" else c.ITEM_IDX


def check(table: DataFrame, fields: Iterable[Wanted], thing: str) -> None:
    """Raises ConfigError for a field that no row of the table has, with the nearest name."""
    stored = {row[0] for row in table.select(F.explode(F.map_keys("fields"))).distinct().collect()}
    for field in fields:
        if field.source not in stored:
            raise ConfigError(
                thing,
                found=repr(field.source),
                expected=f"one of {', '.join(sorted(stored))}{nearest(field.source, stored)}",
                remedy="name a field of the table, or leave it out",
            )


def write(
    entities: Entities, fields: Sequence[Wanted], train: DataFrame, folder: str
) -> list[Feature]:
    """Writes side files of the fields into `folder`. train: events with the entities' index. Raises
    ConfigError for a number field without numbers.
    """
    if not fields:
        return []
    values = F.array(
        *(
            F.struct(F.lit(number).alias("field"), _cut(field).alias("value"))
            for number, field in enumerate(fields)
        )
    )
    rows = (
        entities.index.toDF(entities.id, entities.idx)
        .join(entities.table, on=entities.id, how="inner")
        .select(entities.idx, F.explode(values).alias("one"))
        .select(entities.idx, "one.*")
    )
    rows = rows.where(F.length("value") > 0).persist()
    try:
        fitted = rows.join(train.select(entities.idx).distinct(), on=entities.idx, how="left_semi")
        features = _fitted(entities, fields, fitted)
        return [*_with_codes(entities, features, rows, folder)]
    finally:
        rows.unpersist()


def _cut(field: Wanted) -> Expression:
    value = F.trim(F.col("fields")[field.source])
    return F.substring(value, 1, field.first) if field.first else value


def _fitted(entities: Entities, fields: Sequence[Wanted], fitted: DataFrame) -> list[Feature]:
    number = F.expr("try_cast(value AS double)")
    row_of_field = {
        row["field"]: row
        for row in fitted.groupBy("field")
        .agg(
            F.max(F.contains("value", F.lit("|"))).alias("several"),
            F.avg(number).alias("mean"),
            F.stddev_pop(number).alias("std"),
            F.min("value").alias("least"),
        )
        .collect()
    }
    kinds = [
        field.kind
        if field.kind != "auto"
        else "tags"
        if place in row_of_field and row_of_field[place]["several"]
        else "category"
        for place, field in enumerate(fields)
    ]
    vocabularies = _vocabularies(
        fitted,
        [place for place, kind in enumerate(kinds) if kind != "number"],
        [place for place, kind in enumerate(kinds) if kind == "tags"],
    )
    features = []
    for place, (field, kind) in enumerate(zip(fields, kinds, strict=True)):
        if kind != "number":
            features.append(
                Feature(
                    name=field.name,
                    side=entities.side,
                    kind=kind,
                    vocabulary=vocabularies.get(place, ()),
                )
            )
            continue
        row = row_of_field.get(place)
        if row is None or row["mean"] is None:
            raise ConfigError(
                f"features.{entities.side}, {field.name}",
                found=repr(row["least"]) if row else "no value",
                expected="numbers",
                remedy="leave out `kind: number`",
            )
        features.append(
            Feature(
                name=field.name,
                side=entities.side,
                kind="number",
                mean=row["mean"],
                std=row["std"] or 1.0,
            )
        )
    return features


def _vocabularies(
    fitted: DataFrame, places: list[int], tags: list[int]
) -> dict[int, tuple[str, ...]]:
    counts = (
        _parts(fitted.where(F.col("field").isin(places)), tags).groupBy("field", "value").count()
    )
    most = Window.partitionBy("field").orderBy(F.desc("count"), "value")
    kept = (
        counts.withColumn("place", F.row_number().over(most))
        .where(F.col("place") <= MOST)
        .orderBy("field", "place")
    )
    values_of_field: dict[int, list[str]] = {}
    for row in kept.collect():
        values_of_field.setdefault(row["field"], []).append(row["value"])
    return {place: tuple(values) for place, values in values_of_field.items()}


def _parts(rows: DataFrame, tags: list[int]) -> DataFrame:
    """Splits lists of tags: one row per tag."""
    parts = F.when(F.col("field").isin(tags), F.split("value", r"\|")).otherwise(F.array("value"))
    return rows.withColumn("value", F.explode(parts)).where(F.length("value") > 0)


def _with_codes(
    entities: Entities, features: list[Feature], rows: DataFrame, folder: str
) -> Iterable[Feature]:
    """Writes the side files and yields the features with their files."""
    tags = [place for place, feature in enumerate(features) if feature.kind == "tags"]
    coded = [
        (place, value, code + 1)
        for place, feature in enumerate(features)
        for code, value in enumerate(feature.vocabulary)
    ]
    numbers = rows.sparkSession.createDataFrame(coded, "field int, value string, code int")
    codes = (
        _parts(rows, tags)
        .join(F.broadcast(numbers), on=["field", "value"], how="inner")
        .select("field", F.col(entities.idx).alias(c.QUERY_IDX), F.col("code").alias(c.ITEM_IDX))
    )
    sides = {
        f"{entities.side}.{place}": side.Side(codes.where(F.col("field") == place))
        for place, feature in enumerate(features)
        if feature.kind != "number"
    }
    written = (
        side.write(sides, folder, num_users=entities.count, events=entities.count * len(sides))
        if sides
        else {}
    )
    for place, feature in enumerate(features):
        if feature.kind == "number":
            path = Path(folder) / f"{entities.side}.{place}.npy"
            yield feature.model_copy(
                update={"numbers": _numbers(entities, rows.where(F.col("field") == place), path)}
            )
            continue
        csr = written[f"{entities.side}.{place}"]
        longest = int(np.diff(np.load(Path(folder) / csr.indptr, mmap_mode="r")).max(initial=1))
        yield feature.model_copy(update={"codes": csr, "slots": max(1, longest)})


def _numbers(entities: Entities, rows: DataFrame, path: Path) -> Numbers:
    table = rows.select(entities.idx, F.expr("try_cast(value AS double)").alias("value")).toArrow()
    values = np.full(entities.count + 1, np.nan, np.float32)
    values[table[entities.idx].to_numpy()] = table["value"].to_numpy()
    np.save(path, values)
    return Numbers(path=path.name, rows=entities.count + 1, digest=artifacts.file_digest(path))
