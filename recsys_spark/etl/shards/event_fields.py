"""Features for training from the events themselves: fitted on the training rows, their values
become columns of the rows. Every data set has these fields:

    hour      of the day, 0 to 23, and `weekday`, 0 (Monday) to 6, both in UTC: categories
    position  ln(1 + events that the user had in earlier seconds, of all parts): a number that is
              known when the event happens
    shown     the place of the item in the list from which it was taken (column position of the
              events): a number; unknown where the source has none
    ts        time of the event in seconds, for models that use time
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Column, Feature

EVENT_KINDS: dict[str, Literal["category", "number", "time"]] = {
    "hour": "category",
    "weekday": "category",
    "position": "number",
    "shown": "number",
    "ts": "time",
}
_DTYPES: dict[str, Literal["int32", "float32", "int64"]] = {
    "category": "int32",
    "number": "float32",
    "time": "int64",
}


def raw(events: DataFrame, names: Sequence[str]) -> DataFrame:
    """The events with a column for each of these event fields: text, a number, or the time.
    `events` must have all events of a user.
    """
    for name in names:
        if name == "position":
            earlier = (
                Window.partitionBy(c.QUERY_IDX)
                .orderBy(c.TS)
                .rangeBetween(Window.unboundedPreceding, -1)
            )
            events = events.withColumn(c.EVENT + name, F.log1p(F.count(F.lit(1)).over(earlier)))
        elif name != "ts":
            events = events.withColumn(c.EVENT + name, _known(name))
    return events


def of_candidates(rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """As `raw`, of the items of a list that was shown at `ts`. How many events its query had
    before is not counted: unknown.
    """
    unknown = F.lit(None).cast("double")
    return rows.withColumns(
        {
            c.EVENT + name: unknown if name == "position" else _known(name)
            for name in names
            if name != "ts"
        }
    )


def of_events(events: DataFrame, names: Sequence[str]) -> tuple[DataFrame, list[Feature]]:
    """Events of all parts -> (events with encoded field columns, the features), fitted on the
    training part.
    """
    with_fields = raw(events, names)
    features = _of_training(with_fields.where(F.col(c.PART) == c.TRAIN), names) if names else []
    return with_fields.withColumns(
        {feature.column: _encoded(feature) for feature in features if feature.kind != "time"}
    ), features


def columns(features: Iterable[Feature]) -> tuple[Column, ...]:
    """Columns of the rows for event features."""
    return tuple(
        Column(name=feature.column, dtype=_DTYPES[feature.kind])
        for feature in features
        if feature.side == "event"
    )


def _known(name: str) -> Expression:
    """What the time and the place of an event say."""
    if name == "shown":
        return F.col(c.POSITION).cast("double")
    if name == "hour":
        return F.expr(f"pmod({c.TS}, 86400) div 3600").cast("string")
    days = F.floor(F.col(c.TS) / 86400)
    return F.pmod(days + 3, F.lit(7)).cast("string")  # 1 January 1970 was a Thursday


def _of_training(rows: DataFrame, names: Sequence[str]) -> list[Feature]:
    aggregates: list[Expression] = []
    for name in names:
        if EVENT_KINDS[name] == "category":
            aggregates.append(F.sort_array(F.collect_set(c.EVENT + name)).alias(name))
        elif EVENT_KINDS[name] == "number":
            aggregates += [
                F.avg(c.EVENT + name).alias(f"{name}_mean"),
                F.stddev_pop(c.EVENT + name).alias(f"{name}_std"),
            ]
        else:
            aggregates += [F.min(name).alias(f"{name}_low"), F.max(name).alias(f"{name}_high")]
    aggregated = rows.agg(*aggregates).collect()[0].asDict()
    return [_of_event(name, aggregated) for name in names]


def _of_event(name: str, aggregated: Mapping[str, Any]) -> Feature:
    kind = EVENT_KINDS[name]
    if kind == "category":
        vocabulary = tuple(sorted(aggregated[name], key=lambda value: (len(value), value)))
        return Feature(name=name, side="event", kind=kind, vocabulary=vocabulary)
    if kind == "number":
        return Feature(
            name=name,
            side="event",
            kind=kind,
            mean=aggregated[f"{name}_mean"] or 0.0,
            std=aggregated[f"{name}_std"] or 1.0,
        )
    return Feature(
        name=name,
        side="event",
        kind=kind,
        low=float(aggregated[f"{name}_low"] or 0),
        high=float(aggregated[f"{name}_high"] or 0),
    )


def _encoded(feature: Feature) -> Expression:
    """The encoded column of an event feature: a normalised number, or a code (0: unknown)."""
    value = F.col(feature.column)
    if feature.kind == "number":
        return ((value - F.lit(feature.mean)) / F.lit(feature.std)).cast("float")
    codes = F.create_map(
        *(F.lit(part) for code, name in enumerate(feature.vocabulary, 1) for part in (name, code))
    )
    return F.coalesce(codes[value], F.lit(0)).cast("int")
