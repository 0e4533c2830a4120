"""The union of several models' lists: what is known of each candidate, and both stages of a
recommender that ranks them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.baselines import union_boosted
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import union
from recsys_spark.stages import candidates, evaluate, prepare, score, train_baseline
from tests.spark.chained import Chain
from tests.spark.prepared import crowd

NAMES = ("popularity", "item_knn")


def of(spark: SparkSession, rows: list[tuple[str, str, int, float]]) -> DataFrame:
    return spark.createDataFrame(rows, "query_id string, item_id string, rank int, score float")


def test_by_hand(spark: SparkSession) -> None:
    lists = {
        "a": of(spark, [("q", "x", 1, 9.0), ("q", "y", 2, 5.0), ("q", "z", 3, 1.0)]),
        "b": of(spark, [("q", "y", 1, 0.1), ("q", "v", 2, 0.1), ("r", "x", 1, 2.0)]),
    }
    events = spark.createDataFrame(
        [("q", "w", "train"), ("r", "x", "train"), ("q", "y", "valid"), ("r", "v", "valid")]
        + [("q", "v", "test")],
        "query_id string, item_id string, part string",
    )
    rows = union.of_lists(lists, events, "valid").collect()
    of_query = {(row.query_id, row.item_id): row for row in rows}
    # y is on both lists; x and z by their places, v at place 2 of one
    placed = sorted((row.position, row.item_id) for row in rows if row.query_id == "q")
    assert placed == [(1, "y"), (2, "x"), (3, "v"), (4, "z")]
    sources = {key: row.source for key, row in of_query.items()}
    assert [key for key, source in sources.items() if source == c.TARGET] == [("q", "y")]
    known = {
        key: {name: float(text) for name, text in row.context.items()}
        for key, row in of_query.items()
    }
    assert known["q", "y"] == pytest.approx(
        {"a_rank": 2, "a_score": 5, "a_level": 0.5, "b_rank": 1, "b_score": 0.1, "b_level": 1}
        | {"fused": 1 / 62 + 1 / 61, "lists": 2, "item_events": 0, "query_events": 1}
    )
    assert known["r", "x"] == pytest.approx(
        {"b_rank": 1, "b_score": 2, "b_level": 1, "fused": 1 / 61, "lists": 1}
        | {"item_events": 1, "query_events": 1}
    )
    assert set(known["q", "y"]) == set(union.features(["a", "b"]))


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(spark, tmp_path_factory.mktemp("union"))
    chain.ingest(crowd(users=60, items=12, most=9))
    chain.run("split", prepare, source="ingest", rule="leave_last_out")
    for name in NAMES:
        chain.run(name, train_baseline, source="split", model=name, fit="train")
        for part in ("valid", "test"):
            listed = {"model": name, "source": "split", "part": part, "k": 4}
            chain.run(f"{name}_{part}", score, **listed)
    for part in ("valid", "test"):
        lists = [f"{name}_{part}" for name in NAMES]
        united = {"source": "split", "part": part, "among": "union", "of": lists}
        chain.run(f"united_{part}", candidates, **united)
    chain.run(
        "boosted", train_baseline, source="split", model="union_boosted",
        candidates="united_valid", config={"min_items": 2, "trees": 20},
    )  # fmt: skip
    return chain


def test_both_stages_are_measured_as_a_ranking_of_the_catalogue(steps: Chain) -> None:
    listed = {
        (row.query_id, row.item_id)
        for name in NAMES
        for row in steps.rows(c.RECOMMENDATIONS, f"{name}_test")
    }
    offered = steps.rows(c.CANDIDATES, "united_test")
    assert {(row.query_id, row.item_id) for row in offered} == listed
    facts = steps.done["united_test"].summary
    found = sum(row.source == c.TARGET for row in offered)
    assert facts["targets_not_among_candidates"] == facts["targets"] - found > 0 < found
    assert steps.done["boosted"].summary["lists"] > 10
    run = steps.run("ranked", score, model="boosted", source="split", candidates="united_test", k=3)
    assert run.summary["k"] == 3 and run.summary["among"] == c.UNION
    rows = steps.rows(c.RECOMMENDATIONS, "ranked")
    assert {(row.query_id, row.item_id) for row in rows} <= listed
    assert max(row.rank for row in rows) == 3
    steps.run("fused", train_baseline, source="split", model="shown_order")
    steps.run("in_order", score, model="fused", source="split", candidates="united_test", k=3)
    by_place = {(row.query_id, row.position): row.item_id for row in offered}
    for row in steps.rows(c.RECOMMENDATIONS, "in_order"):
        assert by_place[row.query_id, row.rank] == row.item_id
    measured = steps.run(
        "measured", evaluate, source="split", ks=[3],
        of=["popularity_test", "item_knn_test", "ranked", "in_order"],
    )  # fmt: skip
    assert {result["task"] for result in measured.summary["results"]} == {"ranking"}


def test_lists_that_were_not_fitted_on_are_refused(steps: Chain) -> None:
    steps.run(
        "fewer", candidates, source="split", part="test", among="union", of=["popularity_test"]
    )
    with pytest.raises(ConfigError, match="item_knn_rank"):
        steps.run("ranked_fewer", score, model="boosted", source="split", candidates="fewer")
    with pytest.raises(ConfigError, match="none of its candidates"):
        steps.run("ranked_none", score, model="boosted", source="split")


def test_lists_without_a_target_teach_nothing(steps: Chain, tmp_path: Path) -> None:
    run = steps.done["united_valid"]
    version = steps.lake.read(c.CANDIDATES, run.output_versions[c.CANDIDATES])
    lists = version.where(f"run_id = '{run.run_id}' AND source != 'target'")
    assert union.to_fit(lists, ["fused"]).isEmpty()
    training = Training(version.limit(0), 1, 1, 1, lists=union.to_fit(lists, ["fused"]))
    with pytest.raises(DataError, match="unite longer lists"):
        union_boosted.write(training, union_boosted.Config(), tmp_path / "index")
