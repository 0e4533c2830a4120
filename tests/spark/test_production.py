"""From experiment to current lists: fitted on all events, published, switched, rolled back, and
ranked without Spark.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark import load
from recsys_spark.commands import rollback
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    QualityError,
    TableError,
)
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.pipeline import runner, steps
from recsys_spark.stages import publish
from recsys_spark.stages.bridge import gate

USERS, ITEMS = 30, 12
PIPELINE = """
name: shop
seed: 3
env: {{lake: {root}/lake, runs: {root}/runs}}
steps:
  ingest:
    stage: ingest
    dataset: shop
    data: {root}/raw
    delimited: {{files: "*.csv", separator: ",", header: true, columns: [user_id, item_id, ts]}}
  last: {{stage: prepare, source: ingest, rule: leave_last_out, filters: {{min_user_events: 4}}}}
  ease: {{stage: train_baseline, source: last, model: ease, config: {{l2: 9.0}},
         search: {{trials: 1, space: {{l2: [2.0, 5.0]}}}}}}
  profiles: {{stage: export_shards, source: last, layout: profile, label: one, num_workers: 1,
             virtual_shards: 2}}
  dae: {{stage: train_deep, shards: profiles, model: multi_dae, config: {{hidden_dim: 4}},
        workers: {{num_workers: 1}}, train: {{epochs: 2, batch_size: 8}}}}
  ials: {{stage: train_baseline, source: last, model: ials, config: {{dim: 3, iterations: 2}}}}
  score_ials: {{stage: score, model: ials, source: last, k: 5}}
  score_ease: {{stage: score, model: ease, source: last, k: 5}}
  score_dae: {{stage: score, model: dae, source: last, k: 5}}
  popularity: {{stage: train_baseline, source: last, model: popularity}}
  score_popularity: {{stage: score, model: popularity, source: last, k: 5}}
  ranking: {{stage: evaluate, source: last, ks: [5],
            of: [score_popularity, score_ease, score_ials]}}
production: {{score: score_ease, k: 4}}
"""


class Shop:
    """A pipeline with two models, and what was run of it."""

    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.spark, self.root = spark, root
        (root / "raw").mkdir(parents=True)
        lines = ["user_id,item_id,ts"]
        for user in range(USERS):
            # The newest user has two events, fewer than the experiment's filter asks for
            items = random.Random(user).sample(range(ITEMS), 2 if user == USERS - 1 else 6)
            lines += [f"u{user},i{item},{100 * user + n}" for n, item in enumerate(items)]
        (root / "raw" / "events.csv").write_text("\n".join(lines) + "\n")
        self.file = root / "shop.yaml"
        self.file.write_text(PIPELINE.format(root=root))
        self.lake = Lake(spark, str(root / "lake"), root / "runs")

    def run(self, *settings: str, step: str = "publish_now") -> dict[str, Run]:
        pipeline, known = steps.load(self.file, settings, in_production=True)
        chosen = steps.closure(known, [step])
        return runner.run(pipeline, chosen, lake=self.lake, listener=lambda event: None)

    def current(self) -> dict[str, list[str]]:
        rows = self.lake.read(c.CURRENT).orderBy(c.QUERY_ID, c.RANK).collect()
        lists: dict[str, list[str]] = {}
        for row in rows:
            lists.setdefault(row[c.QUERY_ID], []).append(row[c.ITEM_ID])
        return lists

    def history(self, user: str) -> list[str]:
        events = self.lake.read(c.INTERACTIONS).where(F.col(c.USER_ID) == user)
        return [row[c.ITEM_ID] for row in events.orderBy(c.TS).collect()]

    def facts(self) -> tuple[int, str]:
        [row] = self.lake.read(c.CURRENT).select(c.GENERATION, c.RUN_ID).distinct().collect()
        return row[0], row[1]


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(spark, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def published(shop: Shop) -> dict[str, Run]:
    return shop.run()


def test_what_was_chosen_is_fitted_on_all_events(shop: Shop, published: dict[str, Run]) -> None:
    split = published["last_now"].summary
    assert (split["train"], split["valid"], split["test"]) == (6 * (USERS - 1) + 2, 0, 0)
    chosen = published["ease"].summary["chosen"]["l2"]
    assert published["ease_now"].summary["l2"] == chosen != 9.0


def test_every_user_has_a_list_without_what_is_known_of_it(
    shop: Shop, published: dict[str, Run]
) -> None:
    lists = shop.current()
    assert set(lists) == {f"u{user}" for user in range(USERS)}
    for user, items in lists.items():
        assert len(items) == 4 and not set(items) & set(shop.history(user))


def test_a_history_is_ranked_without_spark_as_in_the_table(
    shop: Shop, published: dict[str, Run]
) -> None:
    recommender = load(Path(published["publish_now"].run_dir) / publish.SERVING)
    assert recommender.facts.run_id == published["score_ease_now"].run_id
    for user, items in shop.current().items():
        history = shop.history(user)
        ranked = recommender.recommend(history, k=4)
        assert [item for item, _ in ranked] == items
        assert not recommender.is_cold(history)
    history = shop.history("u0")
    best = recommender.recommend(history, k=1)[0].item_id
    assert best not in {item for item, _ in recommender.recommend(history, exclude=[best])}
    kept = {item for item, _ in recommender.recommend(history, k=12, seen=True)}
    assert kept == {f"i{item}" for item in range(ITEMS)}
    assert recommender.is_cold(["never seen"]) and recommender.recommend(["never seen"], k=3)
    with pytest.raises(ConfigError, match="k: found 0; expected 1 to 100"):
        recommender.recommend(history, k=0)


def test_the_nearest_items_are_a_table(shop: Shop, published: dict[str, Run]) -> None:
    """Of a model of histories what a history of the item alone gets, else the cosine of vectors."""
    ease = shop.run("production.similar=3", step="similar_now")["similar_now"]
    serving = load(Path(published["publish_now"].run_dir) / publish.SERVING)
    rows = shop.lake.read(c.SIMILAR_ITEMS).where(F.col(c.RUN_ID) == ease.run_id)
    lists = nearest(rows)
    assert set(lists) == {f"i{item}" for item in range(ITEMS)}
    for item, similar in lists.items():
        assert similar == [other for other, _ in serving.recommend([item], k=3)]
    assert ease.summary["by"] == "history" and c.ITEM_VECTORS not in ease.output_versions

    settings = ("production.similar=11", "production.score=score_ials")
    ials = shop.run(*settings, step="similar_now")["similar_now"]
    rows = shop.lake.read(c.ITEM_VECTORS).where(F.col(c.RUN_ID) == ials.run_id)
    vectors = {row[c.ITEM_ID]: np.array(row[c.VECTOR]) for row in rows.collect()}
    assert len(vectors) == ITEMS and all(vector.shape == (3,) for vector in vectors.values())
    unit = {item: vector / np.linalg.norm(vector) for item, vector in vectors.items()}
    rows = shop.lake.read(c.SIMILAR_ITEMS).where(F.col(c.RUN_ID) == ials.run_id)
    for item, similar in nearest(rows).items():
        cosines = [float(unit[item] @ unit[other]) for other in similar]
        assert len(set(similar) - {item}) == ITEMS - 1
        assert np.allclose(cosines, sorted(cosines, reverse=True), atol=1e-6)
    for row in rows.collect():
        expected = float(unit[row[c.ITEM_ID]] @ unit[row[c.SIMILAR_ID]])
        assert row[c.SCORE] == pytest.approx(expected, abs=1e-6)


def nearest(rows: DataFrame) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for row in rows.orderBy(c.ITEM_ID, c.RANK).collect():
        lists.setdefault(row[c.ITEM_ID], []).append(row[c.SIMILAR_ID])
    return lists


def test_a_serving_folder_that_is_not_whole_is_refused(
    published: dict[str, Run], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="the folder of a publish step"):
        load(tmp_path)


def test_withdrawn_and_excluded_items_are_left_out(
    shop: Shop, published: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shop.current()
    gone = before["u0"][0]
    own = before["u1"][0]
    query = f"SELECT 'u1' AS query_id, '{own}' AS item_id"
    done = shop.run(f'production.exclude="{query}"')
    lists = shop.current()
    assert own not in lists["u1"] and len(lists["u1"]) == 4, "scored to spare"
    assert lists["u0"] == before["u0"]
    shop.lake.overwrite(
        c.ITEMS,
        shop.spark.createDataFrame(
            [(f"i{n}", None, {"stock": str(int(f"i{n}" != gone))}) for n in range(ITEMS)],
            "item_id string, title string, fields map<string, string>",
        ),
    )
    shop.run("production.available=\"fields['stock'] > 0\"")
    assert all(gone not in items for items in shop.current().values())
    assert done["publish_now"].summary["left_out"] == 0


@pytest.mark.parametrize(
    ("setting", "error", "problem"),
    [
        (
            "production.available=stok > 0",
            ConfigError,
            "available and exclude: found A column.*stok",
        ),
        (
            "production.exclude=SELECT 1 AS item",
            ConfigError,
            "found columns item; expected item_id",
        ),
        ("production.available=item_id = 'x'", DataError, "none that may be published"),
    ],
)
def test_nothing_is_switched_by_a_mistake(
    shop: Shop, published: dict[str, Run], setting: str, error: type, problem: str
) -> None:
    before = shop.facts()
    with pytest.raises(error, match=problem):
        shop.run(setting)
    assert shop.facts() == before


def test_back_and_forth(shop: Shop, published: dict[str, Run], tmp_path: Path) -> None:
    second = shop.run("production.score=score_dae")
    assert second["dae_now"].summary["phase_epochs"] == second["dae"].summary["phase_epochs"]
    generation, run_id = shop.facts()
    assert run_id == second["score_dae_now"].run_id
    lists = shop.current()
    first = published["publish_now"]

    def back(to: str) -> Run:
        run = rollback.target(shop.lake, "default", to)
        return rollback.rollback(
            shop.lake, run, pipeline="shop", runs_dir=shop.root / "runs", now=generation
        )

    back(first.run_id)
    assert shop.facts() == (generation + 1, published["score_ease_now"].run_id)
    with pytest.raises(ConfigError, match="none published before the current ones"):
        rollback.target(shop.lake, "default")
    with pytest.raises(ConfigError, match="no publish run of the lists"):
        rollback.target(shop.lake, "default", "publish_now-1")
    record = back(second["publish_now"].run_id)
    assert shop.facts() == (generation + 2, run_id) and shop.current() == lists
    assert rollback.export(shop.lake, record, {"files": {"parquet": {"path": str(tmp_path)}}})
    pointer = json.loads((tmp_path / "default" / "current.json").read_text())
    assert pointer["generation"] == generation + 2 and pointer["rows"] == 4 * USERS
    assert [run.stage for run in shop.lake.runs()].count("rollback") == 2


def test_a_gate_is_shut_until_a_model_is_better(shop: Shop, published: dict[str, Run]) -> None:
    """Of these two, on 30 users whose items are drawn at random, none is."""
    first = published["publish_now"]
    back = rollback.target(shop.lake, "default", first.run_id)
    rollback.rollback(shop.lake, back, pipeline="shop", runs_dir=shop.root / "runs", now=3.0)
    before = shop.facts()
    ials = ["production.score=score_ials", "production.gate=ranking", "production.metric=ndcg@5"]
    with pytest.raises(
        QualityError,
        match=r"score_ials against score_ease, lists 'default': found ndcg@5 [+-]0\.\d{4} \(.* to "
        r".*\); expected an interval on the better side of 0",
    ):
        shop.run(*ials, "production.must=be_better")
    assert shop.facts() == before
    with pytest.raises(ConfigError, match="found ndcg@7; expected a metric of ranking"):
        shop.run(*ials[:2], "production.metric=ndcg@7")
    done = shop.run(*ials)["publish_now"]
    assert done.summary["against"] == "score_ease" and shop.facts()[0] == before[0] + 1
    with pytest.raises(ConfigError, match="those of score_ials, which ranking does not measure"):
        shop.run(
            *("production.gate=ranking", "production.metric=ndcg@5"),
            "steps.ranking.of=[score_popularity,score_ease]",
        )
    same = shop.run(*ials, "production.k=3")["publish_now"]
    assert "against" not in same.summary, "nothing to compare with itself"


def test_a_difference_is_judged_by_the_side_that_is_better() -> None:
    ones = np.ones((41, 1))

    def measured(name: str, value: float) -> Replicates:
        return Replicates((name,), value * ones, ones)

    for name, better, worse in (("ndcg@10", 0.3, 0.2), ("rmse", 0.8, 0.9)):
        new, old = measured(name, better), measured(name, worse)
        for must in gate.EXPECTED:
            gate.verdict(new, old, name, must, "als against ease")
            with pytest.raises(QualityError, match="als against ease: found"):
                gate.verdict(old, new, name, must, "als against ease")
        gate.verdict(new, new, name, "not_be_worse", "als against ease")
        with pytest.raises(QualityError, match="the better side of 0; the lists before it stay"):
            gate.verdict(new, new, name, "be_better", "als against ease")


def test_lists_that_went_with_an_erasure_are_not_brought_back(
    shop: Shop, published: dict[str, Run]
) -> None:
    before = shop.facts()
    latest = shop.lake.version(c.CURRENT)  # what an erasure makes earlier runs name
    run = published["publish_now"].model_copy(
        update={
            "output_versions": {c.CURRENT: latest},
            "summary": published["publish_now"].summary | {"of_run_id": "gone-1"},
        }
    )
    with pytest.raises(TableError, match="went with an erasure"):
        rollback.rollback(shop.lake, run, pipeline="shop", runs_dir=shop.root / "runs", now=1.0)
    assert shop.facts() == before


def test_of_two_publishers_one_comes_through(
    shop: Shop, published: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = shop.lake.read(c.CURRENT)
    stale = publish.current_generation(shop.lake, "default")
    generation, _ = publish.switch(shop.lake, lists, "default", now=11.0)
    assert generation == stale + 1
    monkeypatch.setattr(publish, "current_generation", lambda lake, name: stale)
    with pytest.raises(TableError, match="of another publisher"):
        publish.switch(shop.lake, lists.limit(1), "default", now=12.0)
    assert shop.facts()[0] == generation and shop.lake.read(c.CURRENT).count() > 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("production: {score: score_eas}", "production.score: found 'score_eas'.*'score_ease'"),
        ("production: {score: ease}", "found ease, of stage train_baseline; expected a step of"),
        ("", "production: found nothing; expected the step whose model was chosen"),
        (
            "production: {score: score_dae, gate: ranking}",
            "publish_now.gate: found ranking, which does not measure score_dae",
        ),
    ],
)
def test_a_pipeline_that_names_no_model_is_refused(
    shop: Shop, tmp_path: Path, change: str, problem: str
) -> None:
    text = shop.file.read_text().replace("production: {score: score_ease, k: 4}", change)
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        steps.load(tmp_path / "p.yaml", in_production=True)


def test_settings_are_those_of_another_model_or_chosen_twice(shop: Shop, tmp_path: Path) -> None:
    wrong: list[tuple[str, Any]] = [
        ("again: dae, model: multi_vae", "a step of model multi_dae; expected one of model multi"),
        (
            "again: dae, model: multi_dae, search: {space: {l2: [0.1, 0.2]}}",
            "a search beside again",
        ),
    ]
    for fields, problem in wrong:
        step = f"  more: {{stage: train_deep, shards: profiles, {fields}}}\nproduction:"
        (tmp_path / "p.yaml").write_text(shop.file.read_text().replace("production:", step))
        with pytest.raises(ConfigError, match=problem):
            steps.load(tmp_path / "p.yaml")
