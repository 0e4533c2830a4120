"""Items that are described, some of them cold: what the tests of the content baselines share."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from recsys_spark.baselines.fitting.training import Training
from recsys_spark.baselines.item_content import content

Said = dict[int, tuple[str | None, dict[str, str]]]  # item: title, fields
EVENT = "query_idx int, item_idx int, ts long, value double"

GENRES = ("drama", "comedy", "war", "film noir")
WORDS = ("red", "planet", "dawn", "ape", "night", "été", "2001")


class World(NamedTuple):
    """Items 1..40 with genres, words and a year; 31..39 are cold, 40 says nothing. Users 1..12."""

    said: Said
    events: list[tuple[int, int, int, float]]

    def training(self, spark: SparkSession, partitions: int = 2) -> Training:
        items = [(item, title, fields) for item, (title, fields) in self.said.items()]
        described = spark.createDataFrame(
            items, "item_idx int, title string, fields map<string,string>"
        )
        events = spark.createDataFrame(self.events, EVENT)
        return Training(
            events.repartition(partitions),
            num_users=12,
            num_items=40,
            seed=1,
            items=described.repartition(partitions),
        )


def described() -> World:
    rng = np.random.default_rng(4)
    said: Said = {}
    for item in range(1, 40):
        genres = [GENRES[place].title() for place in rng.permutation(4)[: rng.integers(1, 4)]]
        words = [WORDS[place] for place in rng.integers(0, 7, rng.integers(1, 6))]
        said[item] = (
            " - ".join(words).upper(),
            {"genres": "|".join(genres), "year": str(1990 + rng.integers(5))},
        )
    said[40] = None, {}
    events = [
        (user, int(item), int(rng.integers(50)), float(rng.integers(1, 6)))
        for user in range(1, 13)
        for item in rng.permutation(30)[:8] + 1
    ]
    return World(said, events)


def dense(world: World, config: content.Config) -> np.ndarray:
    """Item vectors (41, terms), straight from the definitions."""
    tokens = {
        item: Counter(
            [("title", word.lower()) for word in (title or "").split(" - ") if word]
            + [
                (field, value.lower())
                for field, text in fields.items()
                for value in text.split("|")
            ]
        )
        for item, (title, fields) in world.said.items()
    }
    fitted = sorted({item for _, item, _, _ in world.events})
    names = sorted(
        {
            name
            for item in fitted
            for name in tokens[item]
            if not config.fields or name[0] in config.fields
        }
    )
    made = np.zeros((41, len(names)))
    for column, name in enumerate(names):
        n, of_field = sum(name in tokens[item] for item in fitted), name[0]
        if n < config.min_items:
            continue
        lengths = {
            item: sum(times for (field, _), times in tokens[item].items() if field == of_field)
            for item in tokens
        }
        mean = np.mean([lengths[item] for item in fitted if lengths[item]])
        for item in tokens:
            times = tokens[item][name]
            if not times:
                continue
            if config.weighting == "tfidf":
                weight = (1 + math.log(times)) * math.log(len(fitted) / n)
            else:
                idf = math.log(1 + (len(fitted) - n + 0.5) / (n + 0.5))
                weight = (
                    idf
                    * times
                    * (config.k1 + 1)
                    / (times + config.k1 * (1 - config.b + config.b * lengths[item] / mean))
                )
            made[item, column] = config.fields.get(of_field, 1.0) * weight
    return made


def asked(
    histories: list[list[int]], own: dict[int, tuple[list[int], list[float]]] | None = None
) -> pa.RecordBatch:
    """Queries 1, 2, ...; `own`: the pairs that some of them bring."""
    users = range(1, len(histories) + 1)
    columns = {
        "query_idx": pa.array(users, pa.int32()),
        "history": pa.array(histories, pa.list_(pa.int32())),
    }
    if own is not None:
        columns["rows"] = pa.array(
            [own[user][0] if user in own else None for user in users], pa.list_(pa.int32())
        )
        columns["weights"] = pa.array(
            [own[user][1] if user in own else None for user in users], pa.list_(pa.float32())
        )
    return pa.RecordBatch.from_pydict(columns)
