"""Spark ALS and its search: finds a planted structure, goes on where it was stopped, says when the best lies at an edge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import als
from recsys_spark.core.errors import DataError
from recsys_spark.stages import als_search
from recsys_spark.stages.als_search import Search

USERS, ITEMS = 60, 30


@pytest.fixture(scope="module")
def events(spark: SparkSession) -> DataFrame:
    """Two groups of users, each with its own half of the items; one held-out item of the user's own half."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(1, USERS + 1):
        own = rng.permutation(15)[:9] + 1 + 15 * (user % 2)
        rows += [(user, int(item), 1.0, "valid" if place == 0 else "train") for place, item in enumerate(own)]
    return spark.createDataFrame(rows, "user_idx int, item_idx int, value double, part string").repartition(3).persist()


def choose(events: DataFrame, folder: Path, search: Search) -> tuple[als.Config, dict]:
    return als_search.choose(events, als.Config(iterations=3), search, folder=folder, num_items=ITEMS, seed=1, blocks=2)


def test_the_search_goes_on_where_it_was_stopped(events: DataFrame, tmp_path: Path) -> None:
    search = Search(trials=2, rank=(2, 4, 8), reg=(0.01, 0.1), alpha=(0.5, 5.0))
    chosen, facts = choose(events, tmp_path, search)
    trials = [json.loads(line) for line in (tmp_path / als_search.TRIALS).read_text().splitlines()]
    assert len(trials) == facts["trials"] == 2 and facts["valid"] == max(trial["value"] for trial in trials) > 0.2  # chance: about .13
    assert chosen.model_dump() in [trial["config"] for trial in trials]
    with open(tmp_path / als_search.TRIALS, "a") as out:
        out.write('{"trial": 2, "conf')  # killed while it wrote
    again, more = choose(events, tmp_path, search.model_copy(update={"trials": 3}))
    lines = [json.loads(line) for line in (tmp_path / als_search.TRIALS).read_text().splitlines()]
    assert lines[:2] == trials and len(lines) == more["trials"] == 3


def test_the_same_factors_however_the_events_lie(events: DataFrame) -> None:
    config = als.Config(rank=4, reg=0.05, iterations=3)
    one, two = (als.fit(rows, config, num_items=ITEMS, seed=1, blocks=2).items for rows in (events, events.repartition(5, "value")))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
    assert not one[0].any() and one[1:].any(axis=1).all()


def test_an_explicit_model_adds_the_mean_and_is_judged_by_rmse(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(u, i, 4.0 if (u + i) % 2 else 2.0, "valid" if (u * 7 + i) % 9 == 0 else "train") for u in range(1, 21) for i in range(1, 21)]
    rated = spark.createDataFrame(rows, "user_idx int, item_idx int, value double, part string")
    search = Search(trials=1, rank=(4,), reg=(0.01, 0.02))
    _, facts = als_search.choose(rated, als.Config(implicit=False, iterations=5), search, folder=tmp_path, num_items=20, seed=1, blocks=2)
    assert facts["metric"] == "rmse" and facts["valid"] < 0.5  # the mean alone: 1


def test_no_validation_event_is_named(events: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation part: found no event.*leave `search` out"):
        choose(events.where("part = 'train'"), tmp_path, Search(trials=1))


def test_draws_do_not_depend_on_how_many_follow_and_edges_are_told() -> None:
    few, many = (list(als_search.draws(als.Config(), Search(trials=trials), seed=3)) for trials in (4, 9))
    assert many[:4] == few and len({config.reg for config in many}) == 9
    search = Search(rank=(8, 16, 32), reg=(0.01, 1.0), alpha=(0.1, 10.0))
    assert als_search.edges(als.Config(rank=16, reg=0.1, alpha=1.0), search) == []
    assert als_search.edges(als.Config(rank=32, reg=0.0101, alpha=1.0), search) == ["rank", "reg"]


@pytest.mark.parametrize("space", [{"reg": (0.1, 0.1)}, {"alpha": (0.0, 1.0)}, {"rank": ()}])
def test_a_space_that_is_none_is_refused(space: dict) -> None:
    with pytest.raises(ValidationError):
        Search(**space)
