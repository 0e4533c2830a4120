"""Each feature of a list that was shown, worked out by hand."""

from __future__ import annotations

from math import isnan, log

import pytest
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.etl import shown_features

DAY = 86_400
NOW = 10 * DAY + 500


def test_by_hand(spark: SparkSession) -> None:
    """Query q met b (twice, two actions) and then x, which is not on its list a, b, d; a query
    without events or prices has a list too.
    """
    listed = [("q", "a", 1, {"price": "10"}), ("q", "b", 2, {"price": "30"})]
    listed += [("q", "d", 3, {"price": "20"}), ("new", "a", 1, {}), ("new", "b", 2, {})]
    shape = "query_id string, item_id string, position int, context map<string, string>, ts long"
    lists = spark.createDataFrame([(*row, NOW) for row in listed], shape)
    events = [("b", NOW - 100, 1, "look"), ("b", NOW - 60, 2, "save"), ("x", NOW - 9, 3, "look")]
    known = spark.createDataFrame(
        [("q", item, ts, step, action, None, 1.0) for item, ts, step, action in events],
        "query_id string, item_id string, ts long, step int, action string, position int, "
        "value double",
    )
    shown = [("q", "b", NOW - 70, 0.0), ("q", "b", NOW - 50, 0.0), ("q", "a", NOW + 1, 0.0)]
    # Of yesterday, of the same day, of a query that is not fitted on, and without an answer
    shown += [("old", "a", NOW - DAY, 1.0), ("old", "b", NOW - DAY, 0.0)]
    shown += [("old", "a", NOW - 3 * DAY, 1.0), ("old", "a", NOW - 400, 1.0)]
    shown += [("other", "b", NOW - DAY, 1.0), ("old", "b", NOW - DAY, None)]
    impressions = spark.createDataFrame(
        shown, "query_id string, item_id string, ts long, value double"
    )
    fitted = spark.createDataFrame([("old",), ("q",)], "query_id string")
    rows = shown_features.of_lists(lists, known, c.SHOWN_FEATURES, impressions, fitted)
    of = {(row.query_id, row.item_id): row.asDict() for row in rows.collect()}
    assert len(of) == 5
    nan = float("nan")
    expected = {
        "a": {"shown_place": 0.0, "shown_price": 0.5, "shown_cheaper": 0.0, "shown_length": 3,
              "shown_met": 0.0, "shown_last": 0, "shown_kinds": 0, "shown_since": nan,
              "shown_ago": nan, "shown_again": 0, "shown_from_last": -1,
              "shown_to_met": log(1 / 3), "shown_events": log(4), "shown_items": log(3),
              "shown_began": log(101), "shown_paused": log(10),
              "shown_times": log(3), "shown_chosen": log(3), "shown_rate": 3 / 27},
        "b": {"shown_place": log(2), "shown_price": 1.5, "shown_cheaper": 1.0,
              "shown_met": log(3), "shown_last": 0, "shown_kinds": 2, "shown_since": 1,
              "shown_ago": log(61), "shown_again": 2, "shown_from_last": 0,
              "shown_to_met": 0.0, "shown_times": log(2), "shown_chosen": 0.0,
              "shown_rate": 1 / 26},
        "d": {"shown_cheaper": 0.5, "shown_from_last": 1, "shown_to_met": log(2 / 3),
              "shown_times": 0.0, "shown_rate": 1 / 25},
    }  # fmt: skip
    for item, features in expected.items():
        for name, value in features.items():
            assert of["q", item][name] == pytest.approx(value, abs=1e-6, nan_ok=True), (item, name)
    new = of["new", "b"]
    assert new["shown_price"] == 1.0 and new["shown_place"] == pytest.approx(log(2))
    for name in ("shown_cheaper", "shown_from_last", "shown_to_met", "shown_began"):
        assert isnan(new[name]), name
    assert new["shown_events"] == new["shown_items"] == new["shown_again"] == 0


def test_what_is_not_asked_for_needs_no_table(spark: SparkSession) -> None:
    row = ("q", "a", 4, {"price": "10"}, NOW)
    shape = "query_id string, item_id string, position int, context map<string, string>, ts long"
    lists = spark.createDataFrame([row], shape)
    known = spark.createDataFrame(
        [],
        "query_id string, item_id string, ts long, step int, action string, position int, "
        "value double",
    )
    [features] = shown_features.of_lists(lists, known, ("shown_place",)).collect()
    assert features.asDict().keys() == {*lists.columns, "shown_place"}
    with pytest.raises(AssertionError, match="answers of earlier days"):
        shown_features.of_lists(lists, known, ("shown_rate",))
