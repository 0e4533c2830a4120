"""challenge_scenarios
            The ten scenarios of the RecSys Challenge 2018, each of a tenth of the held-out
            playlists: what is known of one is its title alone, its title and the first track, the
            first 5 or 10 tracks with and without the title, or 25 or 100 tracks with the title, the
            first ones or random ones. Every other track is to be found, at least one.
A playlist is what has one `session_id`. Which: the scenarios that need the longest playlists choose
first; each takes those with the lowest hash(seed, session_id) that are long enough and not taken,
for test, then for valid. How many: a number of playlists or a share of them, of which each scenario
gets a tenth to the nearest whole number. A random track has a low hash(seed, session_id, item_id,
ts, step). Tracks that stand in a playlist several times are held out as any other: those that are
also known cannot be found by lists that leave out what is known.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.etl import order, queries
from recsys_spark.etl.queries import newest_first
from recsys_spark.etl.split.held_out import Perhaps, Some
from recsys_spark.etl.split.rule import Rule, count_of, with_part

SCENARIO = "scenario"
_HASH, _COUNT, _PLACE, _DRAWN = "_hash", "_count", "_place", "_drawn"


class Scenario(NamedTuple):
    name: str
    known: int  # tracks
    titled: bool = True
    random: bool = False


SCENARIOS = (  # in the organisers' order
    Scenario("title", 0),
    Scenario("title_first_1", 1),
    Scenario("title_first_5", 5),
    Scenario("first_5", 5, titled=False),
    Scenario("title_first_10", 10),
    Scenario("first_10", 10, titled=False),
    Scenario("title_first_25", 25),
    Scenario("title_random_25", 25, random=True),
    Scenario("title_first_100", 100),
    Scenario("title_random_100", 100, random=True),
)
_ALWAYS, _TITLES = ("num_tracks",), ("name", "title")  # fields that the challenge set gives
UNTITLED = tuple(scenario.name for scenario in SCENARIOS if not scenario.titled)


class ChallengeScenarios(Rule):
    held_out: ClassVar[bool] = True
    query_kind: ClassVar[queries.Kind] = "playlist"
    valid_playlists: Perhaps = 0.01
    test_playlists: Some = 0.01

    def divide(self, events: DataFrame, seed: int) -> DataFrame:
        """Raises DataError for events without session_id, and where a scenario lacks playlists that
        are long enough.
        """
        queries.require_session_ids(events, "")
        chosen = F.broadcast(self.scenarios(events, seed))
        others = events.join(chosen, on=c.QUERY_ID, how="left_anti")
        return with_part(others, F.lit(c.TRAIN)).unionByName(self._held_out(events, chosen, seed))

    def scenarios(self, events: DataFrame, seed: int) -> DataFrame:
        """(query_id, part, scenario, known, random) of the held-out playlists, whose number is
        bounded by the arguments. events: all events of the split, with their query_id.
        """
        drawn = order.hashed(seed, "scenarios", c.QUERY_ID).alias(_HASH)
        playlists = events.groupBy(c.QUERY_ID).agg(F.count(F.lit(1)).alias(_COUNT))
        playlists = playlists.select(c.QUERY_ID, _COUNT, drawn).persist()
        try:
            return self._chosen(playlists)
        finally:
            playlists.unpersist()

    def known_fields(self, users: DataFrame, events: DataFrame, seed: int) -> DataFrame:
        """Of a held-out playlist, as in the challenge set, its number of tracks and, unless its
        scenario withholds it, its title.
        """
        chosen = self.scenarios(events, seed).select(c.QUERY_ID, SCENARIO)
        scenario = F.col(SCENARIO)
        known = F.map_filter(
            "fields",
            lambda name, _: (
                scenario.isNull()
                | name.isin(*_ALWAYS)
                | (name.isin(*_TITLES) & ~scenario.isin(*UNTITLED))
            ),
        )
        joined = users.join(F.broadcast(chosen), on=c.QUERY_ID, how="left")
        return joined.withColumn("fields", known).select(*users.columns)

    def _chosen(self, playlists: DataFrame) -> DataFrame:
        """The driver holds 16 bytes a playlist."""
        numbers = playlists.select(_COUNT, _HASH).toArrow().sort_by(_HASH)
        counts, hashes = (numbers[name].to_numpy() for name in (_COUNT, _HASH))
        free = np.ones(len(counts), bool)
        sizes = {
            part: _tenth(wanted, len(counts))
            for part, wanted in ((c.TEST, self.test_playlists), (c.VALID, self.valid_playlists))
        }
        rows: list[tuple[int, str, str, int, bool]] = []
        for known in sorted({scenario.known for scenario in SCENARIOS}, reverse=True):
            level = [scenario for scenario in SCENARIOS if scenario.known == known]
            wanted = [
                (part, scenario)
                for part, size in sizes.items()
                for scenario in level
                for _ in range(size)
            ]
            long_enough = np.flatnonzero(free & (counts > known))
            if len(long_enough) <= len(wanted):
                raise DataError(
                    f"playlists for scenario {level[0].name}",
                    found=f"{len(long_enough)} of more than {known} tracks that no other "
                    "scenario has",
                    expected=f"{len(wanted)}, and more to train on",
                    remedy="lower test_playlists and valid_playlists, or add playlists",
                )
            taken = long_enough[: len(wanted)]
            free[taken] = False
            rows += [
                (int(drawn), part, scenario.name, scenario.known, scenario.random)
                for drawn, (part, scenario) in zip(hashes[taken], wanted, strict=True)
            ]
        shape = f"{_HASH} long, {c.PART} string, {SCENARIO} string, known int, random boolean"
        spark = playlists.sparkSession
        named = playlists.join(F.broadcast(spark.createDataFrame(rows, shape)), on=_HASH)
        return spark.createDataFrame(named.drop(_HASH, _COUNT).toArrow())

    def _held_out(self, events: DataFrame, chosen: DataFrame, seed: int) -> DataFrame:
        drawn = order.hashed(seed, "random_tracks", c.QUERY_ID, c.ITEM_ID, c.TS, c.STEP)
        in_order = newest_first(c.QUERY_ID)
        by_hash = Window.partitionBy(c.QUERY_ID).orderBy(_DRAWN, c.ITEM_ID, c.TS, c.STEP)
        held = events.drop(c.PART).join(chosen, on=c.QUERY_ID, how="inner")
        placed = held.withColumns(
            {_DRAWN: drawn, _PLACE: count_of(in_order) - F.row_number().over(in_order)}
        )
        place = F.when(F.col("random"), F.row_number().over(by_hash) - 1).otherwise(F.col(_PLACE))
        fold_in = F.concat(c.PART, F.lit("_fold_in"))
        return with_part(placed, F.when(place < F.col("known"), fold_in).otherwise(F.col(c.PART)))


def _tenth(wanted: float, total: int) -> int:
    """Playlists of each scenario; at least one where any are wanted."""
    number = wanted if wanted >= 1 else wanted * total
    return max(1, round(number / len(SCENARIOS))) if number else 0
