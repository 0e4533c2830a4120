"""The days after: a model that is fitted once a week, lists of users with new events made again,
all others kept, and the same table as if all were made anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark import load
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.pipeline import runner, steps
from recsys_spark.pipeline.runner import Event
from recsys_spark.stages import score
from tests.spark.test_production import USERS, Shop

SETTINGS = ("production.score=score_ials", "production.retrain_days=7")
NEW_EVENTS = ["u0,i99,9000", "fresh,i1,9000", "fresh,i2,9001", "fresh,i99,9002"]


class Days:
    """A shop on its first day and on the next, with what was run on each."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.first, self.ran_first = self.run(*SETTINGS)
        (shop.root / "raw" / "day2.csv").write_text(
            "\n".join(["user_id,item_id,ts", *NEW_EVENTS]) + "\n"
        )
        self.second, self.ran_second = self.run(*SETTINGS)

    def run(self, *settings: str) -> tuple[dict[str, Run], list[str]]:
        events: list[Event] = []
        pipeline, known = steps.load(self.shop.file, settings, in_production=True)
        chosen = steps.closure(known, ["publish_now"])
        done = runner.run(pipeline, chosen, lake=self.shop.lake, listener=events.append)
        return done, [event.step for event in events if event.kind == "done"]

    def lists(self, run_id: str) -> dict[tuple[str, int], tuple[str, float]]:
        rows = self.shop.lake.read(c.RECOMMENDATIONS).where(F.col(c.RUN_ID) == run_id).collect()
        return {(row.query_id, row.rank): (row.item_id, row.score) for row in rows}


@pytest.fixture(scope="module")
def days(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Days:
    return Days(Shop(spark, tmp_path_factory.mktemp("daily")))


def test_the_model_stands_and_only_what_changed_is_scored(days: Days) -> None:
    assert {"ials", "ials_now", "last", "score_ials_now"} <= set(days.ran_first)
    assert days.ran_second == ["ingest", "last_now", "score_ials_now", "publish_now"]
    assert days.second["ials_now"].run_id == days.first["ials_now"].run_id
    facts = days.second["score_ials_now"].summary
    assert (facts["kept"], facts["queries"]) == (USERS - 1, USERS + 1)
    assert days.first["score_ials_now"].summary["kept"] == 0


def test_the_table_is_that_of_scoring_everybody(days: Days) -> None:
    pipeline, known = steps.load(days.shop.file, SETTINGS, in_production=True)
    step = known["score_ials_now"]
    inputs = {name: days.second[name] for name in step.needs}
    ctx = runner.context(pipeline, step, inputs, lake=days.shop.lake)
    job = score.Job(**step.job.model_dump() | {"changed": False})
    score.run(replace(ctx, run_id="everybody"), job)
    everybody = days.lists("everybody")
    rescored = days.lists(days.second["score_ials_now"].run_id)
    assert everybody.keys() == rescored.keys()
    for key, (item, value) in everybody.items():
        assert rescored[key] == (item, pytest.approx(value, rel=1e-5)), key


def test_new_events_count_and_new_items_wait_for_the_next_fit(days: Days) -> None:
    lists = days.shop.current()
    assert set(lists) == {*(f"u{user}" for user in range(USERS)), "fresh"}
    assert not {"i1", "i2"} & set(lists["fresh"]) and len(lists["fresh"]) == 4
    assert "i99" not in {item for items in lists.values() for item in items}
    recommender = load(Path(days.second["publish_now"].run_dir) / "serving")
    for user in ("fresh", "u0"):  # both by the half step over the whole history
        ranked = recommender.recommend(days.shop.history(user), k=4)
        assert [item for item, _ in ranked] == lists[user]


def test_a_week_later_it_is_fitted_again(days: Days) -> None:
    done, ran = days.run(SETTINGS[0], "production.retrain_days=0.0000001")
    assert {"ials", "ials_now", "score_ials_now"} <= set(ran)
    assert done["ials_now"].run_id != days.first["ials_now"].run_id
    again, ran = days.run(*SETTINGS)
    assert ran == [] and again["ials_now"].run_id == done["ials_now"].run_id
    assert done["score_ials_now"].summary["kept"] == 0
    assert "i99" in {item for items in days.shop.current().values() for item in items}
