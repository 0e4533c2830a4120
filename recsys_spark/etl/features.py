"""Fields of users, items and events -> what training reads of them. Vocabularies and normalisers are fitted on the training part alone.

Users and items: those with a training event, each counted once; their values become side files by index (CSR of codes, or numbers).
Events: the training rows; their values become columns of the rows. Known of every event, whatever the data set:

    hour      of the day, 0 to 23, and `weekday`, 0 (Monday) to 6, both in UTC: categories
    position  ln(1 + events that the user had in earlier seconds, of all parts): a number, and known when the event happens
    ts        when it was, in seconds: for models that follow time

A field of users or items holds one value, or several joined by "|" (then each is a tag); `kind` may say otherwise. The driver holds the
vocabularies (at most MOST values a field, the most frequent; others are out of vocabulary) and 12 bytes an entity of each number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from recsys_spark.core.contracts import Column, Feature, Numbers
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.etl import side

MOST = 100_000
EVENT_KINDS: dict[str, Literal["category", "number", "time"]] = {
    "hour": "category", "weekday": "category", "position": "number", "ts": "time"}
_DTYPES: dict[str, Literal["int32", "float32", "int64"]] = {"category": "int32", "number": "float32", "time": "int64"}
_DERIVED = {"zip_region": ("zip", 1)}  # name: (field of the table, characters of it); the first digit of a US zip is a group of states


class Wanted(Settings):
    """A field of users or items. In configuration a bare name stands for {name: ...}."""

    name: str
    field: str = ""  # of the table; empty: `name`
    first: int = Field(0, ge=0)  # characters kept; 0: all
    kind: Literal["auto", "category", "tags", "number"] = "auto"  # auto: tags where some value has several parts, else a category

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
                raise ValueError(f"event: one of {', '.join(EVENT_KINDS)}, not {name!r}{nearest(name, EVENT_KINDS)}")
        names = [*(one.name for one in (*self.user, *self.item)), *self.event]
        if len(set(names)) != len(names):
            raise ValueError(f"names that differ, not {', '.join(names)}")
        return self


@dataclass(frozen=True)
class Entities:
    """Users or items: `table` (id, fields), `index` (id, number), how many numbers there are."""

    side: Literal["user", "item"]
    table: DataFrame
    index: DataFrame
    count: int

    @property
    def id(self) -> str:
        return c.USER_ID if self.side == "user" else c.ITEM_ID

    @property
    def idx(self) -> str:
        return c.USER_IDX if self.side == "user" else c.ITEM_IDX


def check(table: DataFrame, wanted: Iterable[Wanted], thing: str) -> None:
    """Raises ConfigError for a field that no row of the table has, with the nearest name."""
    there = {row[0] for row in table.select(F.explode(F.map_keys("fields"))).distinct().collect()}
    for one in wanted:
        if one.source not in there:
            raise ConfigError(thing, found=repr(one.source), expected=f"one of {', '.join(sorted(there))}{nearest(one.source, there)}",
                              remedy="name a field of the table, or leave it out")


def write(of: Entities, wanted: Sequence[Wanted], train: DataFrame, folder: str) -> list[Feature]:
    """Side files of the fields in `folder`. train: events with the entities' index. Raises ConfigError for a number that is none."""
    if not wanted:
        return []
    values = F.array(*(F.struct(F.lit(number).alias("field"), _cut(one).alias("value")) for number, one in enumerate(wanted)))
    rows = of.index.join(of.table, on=of.id, how="inner").select(of.idx, F.explode(values).alias("one")).select(of.idx, "one.*")
    rows = rows.where(F.length("value") > 0).persist()
    try:
        fitted = rows.join(train.select(of.idx).distinct(), on=of.idx, how="left_semi")
        made = _fitted(of, wanted, fitted)
        return [*_with_codes(of, made, rows, folder)]
    finally:
        rows.unpersist()


def raw(events: DataFrame, names: Sequence[str]) -> DataFrame:
    """The events with a column for each of these fields of theirs: text, a number, or the time. Give it all events of a user."""
    for name in names:
        if name == "position":
            earlier = Window.partitionBy(c.USER_IDX).orderBy(c.TS).rangeBetween(Window.unboundedPreceding, -1)
            events = events.withColumn(c.EVENT + name, F.log1p(F.count(F.lit(1)).over(earlier)))
        elif name != "ts":
            events = events.withColumn(c.EVENT + name, _moment(name).cast("string"))
    return events


def of_events(events: DataFrame, names: Sequence[str]) -> tuple[DataFrame, list[Feature]]:
    """Events of all parts -> the same with their fields as rows hold them, and what these mean, fitted on the training part."""
    told = raw(events, names)
    made = _of_training(told.where(F.col(c.PART) == c.TRAIN), names) if names else []
    return told.withColumns({one.column: _encoded(one) for one in made if one.kind != "time"}), made


def columns(made: Iterable[Feature]) -> tuple[Column, ...]:
    """Of the rows."""
    return tuple(Column(name=one.column, dtype=_DTYPES[one.kind]) for one in made if one.side == "event")


def _cut(one: Wanted) -> Expression:
    value = F.trim(F.col("fields")[one.source])
    return F.substring(value, 1, one.first) if one.first else value


def _fitted(of: Entities, wanted: Sequence[Wanted], fitted: DataFrame) -> list[Feature]:
    number = F.expr("try_cast(value AS double)")
    found = {row["field"]: row for row in fitted.groupBy("field").agg(
        F.max(F.contains("value", F.lit("|"))).alias("several"), F.avg(number).alias("mean"), F.stddev_pop(number).alias("std"),
        F.min("value").alias("least")).collect()}
    kinds = [one.kind if one.kind != "auto" else "tags" if place in found and found[place]["several"] else "category"
             for place, one in enumerate(wanted)]
    vocabularies = _vocabularies(fitted, [place for place, kind in enumerate(kinds) if kind != "number"],
                                 [place for place, kind in enumerate(kinds) if kind == "tags"])
    made = []
    for place, (one, kind) in enumerate(zip(wanted, kinds, strict=True)):
        if kind != "number":
            made.append(Feature(name=one.name, side=of.side, kind=kind, vocabulary=vocabularies.get(place, ())))
            continue
        row = found.get(place)
        if row is None or row["mean"] is None:
            raise ConfigError(f"features.{of.side}, {one.name}", found=repr(row["least"]) if row else "no value", expected="numbers",
                              remedy="leave out `kind: number`")
        made.append(Feature(name=one.name, side=of.side, kind="number", mean=row["mean"], std=row["std"] or 1.0))
    return made


def _vocabularies(fitted: DataFrame, places: list[int], tags: list[int]) -> dict[int, tuple[str, ...]]:
    counts = _parts(fitted.where(F.col("field").isin(places)), tags).groupBy("field", "value").count()
    most = Window.partitionBy("field").orderBy(F.desc("count"), "value")
    kept = counts.withColumn("place", F.row_number().over(most)).where(F.col("place") <= MOST).orderBy("field", "place")
    found: dict[int, list[str]] = {}
    for row in kept.collect():
        found.setdefault(row["field"], []).append(row["value"])
    return {place: tuple(values) for place, values in found.items()}


def _parts(rows: DataFrame, tags: list[int]) -> DataFrame:
    """Each part of a list of tags as a row of its own."""
    parts = F.when(F.col("field").isin(tags), F.split("value", r"\|")).otherwise(F.array("value"))
    return rows.withColumn("value", F.explode(parts)).where(F.length("value") > 0)


def _with_codes(of: Entities, made: list[Feature], rows: DataFrame, folder: str) -> Iterable[Feature]:
    """Writes the side files, and says where they are."""
    tags = [place for place, one in enumerate(made) if one.kind == "tags"]
    coded = [(place, value, code + 1) for place, one in enumerate(made) for code, value in enumerate(one.vocabulary)]
    numbers = rows.sparkSession.createDataFrame(coded, "field int, value string, code int")
    codes = _parts(rows, tags).join(F.broadcast(numbers), on=["field", "value"], how="inner").select(
        "field", F.col(of.idx).alias(c.USER_IDX), F.col("code").alias(c.ITEM_IDX))
    sides = {f"{of.side}.{place}": codes.where(F.col("field") == place) for place, one in enumerate(made) if one.kind != "number"}
    written = side.write(sides, folder, num_users=of.count, events=of.count * len(sides)) if sides else {}
    for place, one in enumerate(made):
        if one.kind == "number":
            path = Path(folder) / f"{of.side}.{place}.npy"
            yield one.model_copy(update={"numbers": _numbers(of, rows.where(F.col("field") == place), path)})
            continue
        csr = written[f"{of.side}.{place}"]
        longest = int(np.diff(np.load(Path(folder) / csr.indptr, mmap_mode="r")).max(initial=1))
        yield one.model_copy(update={"codes": csr, "slots": max(1, longest)})


def _numbers(of: Entities, rows: DataFrame, path: Path) -> Numbers:
    table = rows.select(of.idx, F.expr("try_cast(value AS double)").alias("value")).toArrow()
    values = np.full(of.count + 1, np.nan, np.float32)
    values[table[of.idx].to_numpy()] = table["value"].to_numpy()
    np.save(path, values)
    return Numbers(path=path.name, rows=of.count + 1, digest=artifacts.file_digest(path))


def _moment(name: str) -> Expression:
    if name == "hour":
        return F.expr(f"pmod({c.TS}, 86400) div 3600")
    return F.pmod(F.floor(F.col(c.TS) / 86400) + 3, F.lit(7))  # 1 January 1970 was a Thursday


def _of_training(rows: DataFrame, names: Sequence[str]) -> list[Feature]:
    asked: list[Expression] = []
    for name in names:
        if EVENT_KINDS[name] == "category":
            asked.append(F.sort_array(F.collect_set(c.EVENT + name)).alias(name))
        elif EVENT_KINDS[name] == "number":
            asked += [F.avg(c.EVENT + name).alias(f"{name}_mean"), F.stddev_pop(c.EVENT + name).alias(f"{name}_std")]
        else:
            asked += [F.min(name).alias(f"{name}_low"), F.max(name).alias(f"{name}_high")]
    found = rows.agg(*asked).collect()[0].asDict()
    return [_of_event(name, found) for name in names]


def _of_event(name: str, found: Mapping[str, Any]) -> Feature:
    kind = EVENT_KINDS[name]
    if kind == "category":
        vocabulary = tuple(sorted(found[name], key=lambda value: (len(value), value)))
        return Feature(name=name, side="event", kind=kind, vocabulary=vocabulary)
    if kind == "number":
        return Feature(name=name, side="event", kind=kind, mean=found[f"{name}_mean"] or 0.0, std=found[f"{name}_std"] or 1.0)
    return Feature(name=name, side="event", kind=kind, low=float(found[f"{name}_low"] or 0), high=float(found[f"{name}_high"] or 0))


def _encoded(one: Feature) -> Expression:
    """The raw column of an event's field as rows hold it."""
    value = F.col(one.column)
    if one.kind == "number":
        return ((value - F.lit(one.mean)) / F.lit(one.std)).cast("float")
    codes = F.create_map(*(F.lit(part) for code, name in enumerate(one.vocabulary, 1) for part in (name, code)))
    return F.coalesce(codes[value], F.lit(0)).cast("int")
