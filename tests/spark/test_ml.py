"""`DeepRecommender` beside Spark's ALS: the same schemas and, for ALS, the same numbers; the
conventions of pyspark.ml; the lists of the command line.
"""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RankingEvaluator, RegressionEvaluator
from pyspark.ml.recommendation import ALS
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.ml import DeepRecommender, DeepRecommenderModel
from recsys_spark.ml import saved as saving
from recsys_spark.pipeline import runner, steps

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "recsys_spark" / "ml"
USERS, ITEMS, K = 20, 15, 4
RANK = {"rank": 3, "iterations": 2, "reg": 0.05, "alpha": 2.0}


@pytest.fixture(scope="module")
def ratings(spark: SparkSession) -> DataFrame:
    draw = random.Random(4)
    rows = [
        (user, item, float(draw.randint(1, 5)), draw.randrange(1000))
        for user in range(1, USERS + 1)
        for item in draw.sample(range(101, 101 + ITEMS), 6)
    ]
    return spark.createDataFrame(rows, "user int, item int, rating float, at long").cache()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def als(ratings: DataFrame, root: Path) -> DeepRecommenderModel:
    """Its transform gives lists, as the step `lists` of its pipeline."""
    made = DeepRecommender(
        model="als", modelParams=RANK, timestampCol="at", output="lists", k=K, lake=str(root)
    )
    return made.fit(ratings)


@pytest.fixture(scope="module")
def network(ratings: DataFrame, root: Path) -> DeepRecommenderModel:
    settings = {"dim": 4, "train": {"epochs": 1, "batch_size": 32}}
    made = DeepRecommender(
        model="bpr_mf", modelParams=settings, timestampCol="at", lake=str(root), excludeSeen=True
    )
    return made.fit(ratings)


@pytest.fixture(scope="module")
def scores(als: DeepRecommenderModel) -> dict[tuple[int, int], float]:
    """Of every user and item, by the model of fixture `als`."""
    return {
        (user, row.item): row.rating
        for user, best in lists(als.recommendForAllUsers(ITEMS)).items()
        for row in best
    }


def top(scores: dict[tuple[int, int], float], user: int) -> list[int]:
    """The K best items, best first."""
    own = {item: score for (of, item), score in scores.items() if of == user}
    return sorted(own, key=lambda item: -own[item])[:K]


def lists(frame: DataFrame) -> dict[int, list[Row]]:
    return {row[0]: row[1] for row in frame.collect()}


def pairs(model: DeepRecommenderModel, **params: Any) -> DeepRecommenderModel:
    return model.copy({model.getParam(name): value for name, value in params.items()})


def test_lists_are_those_of_sparks_als(
    als: DeepRecommenderModel, ratings: DataFrame, scores: dict[tuple[int, int], float]
) -> None:
    """Which Spark fitted on the numbers that the lake gave the ids. Sums are added in another
    order: scores agree to 1e-5.
    """
    fitted = als._fitted()
    users = {row[1]: int(row[0]) for row in fitted.users().collect()}
    items = {row[1]: int(row[0]) for row in fitted.items().select(c.ITEM_ID, c.ITEM_IDX).collect()}
    user_numbers, item_numbers = ({v: k for k, v in side.items()} for side in (users, items))
    rows = [(user_numbers[row.user], item_numbers[row.item], 1.0) for row in ratings.collect()]
    numbered = als._fitted().spark.createDataFrame(rows, "user int, item int, one double")
    spark_als = ALS(
        rank=3, maxIter=2, regParam=0.05, alpha=2.0, implicitPrefs=True, seed=1, ratingCol="one"
    ).setParams(numUserBlocks=4, numItemBlocks=4)
    theirs = spark_als.fit(numbered)
    every = theirs.recommendForAllUsers(ITEMS)
    expected = {
        (users[user], items[item]): score
        for user, best in lists(every).items()
        for item, score in best
    }
    assert len(scores) == USERS * ITEMS and scores == pytest.approx(expected, abs=1e-5)
    some = ratings.limit(2)
    for name in ("UserSubset", "ItemSubset"):
        own, other = (getattr(each, f"recommendFor{name}")(some, K) for each in (als, theirs))
        assert own.schema.simpleString() == other.schema.simpleString()
    ours = als.recommendForAllUsers(K)
    assert ours.schema.simpleString() == every.schema.simpleString()


def test_methods_agree_on_the_score_of_a_pair(
    als: DeepRecommenderModel, ratings: DataFrame, scores: dict[tuple[int, int], float]
) -> None:
    model = pairs(als, output="pairs")
    some = ratings.where("user < 4 AND item < 108")
    subset = lists(model.recommendForUserSubset(some, K))
    assert set(subset) == {1, 2, 3}
    for user, best in subset.items():
        assert [row.item for row in best] == top(scores, user)
        assert [row.rating for row in best] == sorted((row.rating for row in best), reverse=True)
    for item, best in lists(model.recommendForItemSubset(some, K)).items():
        highest = sorted((scores[user, item] for user in range(1, USERS + 1)), reverse=True)[:K]
        assert [row.rating for row in best] == pytest.approx(highest, abs=1e-5)
    for row in model.transform(some).collect():
        assert row.prediction == pytest.approx(scores[row.user, row.item], abs=1e-5)
    users, items = (lists(part) for part in (model.userFactors, model.itemFactors))
    assert {pair: product(users[pair[0]], items[pair[1]]) for pair in scores} == pytest.approx(
        scores, abs=1e-5
    )
    near = lists(model.similarItems(some, 3))
    assert set(near) == {row.item for row in some.collect()}
    assert all(item not in {row.item for row in best} for item, best in near.items())


def product(user: list[float], item: list[float]) -> float:
    return sum(a * b for a, b in zip(user, item, strict=True))


def test_a_network_leaves_out_what_was_seen(
    network: DeepRecommenderModel, als: DeepRecommenderModel, ratings: DataFrame
) -> None:
    """Its lists hold every other item, with the score of the pair and the product of its factors,
    the item's bias among them.
    """
    met = {(row.user, row.item) for row in ratings.collect()}
    listed = {
        (user, row.item): row.rating
        for user, best in lists(network.recommendForAllUsers(ITEMS)).items()
        for row in best
    }
    assert len(listed) == USERS * (ITEMS - 6) and not set(listed) & met
    users, items = (lists(part) for part in (network.userFactors, network.itemFactors))
    expected = pytest.approx(listed, abs=1e-5)
    assert {pair: product(users[pair[0]], items[pair[1]]) for pair in listed} == expected
    asked = network._fitted().spark.createDataFrame(list(listed), "user int, item int")
    scored = network.transform(asked).collect()
    assert {(row.user, row.item): row.prediction for row in scored} == expected
    of_items = lists(pairs(als, excludeSeen=True).recommendForItemSubset(ratings.limit(2), USERS))
    assert not {(row.user, item) for item, best in of_items.items() for row in best} & met


def test_the_lists_of_the_command_line(
    als: DeepRecommenderModel, scores: dict[tuple[int, int], float]
) -> None:
    """Of the pipeline that the fit has written, in which every other step is kept."""
    pipeline, known = steps.load(als.folder / "als.yaml")
    lake, heard = als._fitted().lake, []
    done = runner.run(pipeline, list(known.values()), lake=lake, listener=heard.append)
    assert [event.step for event in heard if event.kind == "done"] == ["lists"]
    rows = lake.read(c.RECOMMENDATIONS).where(F.col(c.RUN_ID) == done["lists"].run_id).collect()
    written = {(int(row.query_id), int(row.item_id)): row.score for row in rows}
    best = {(user, item) for user in range(1, USERS + 1) for item in top(scores, user)}
    assert {pair: scores[pair] for pair in best} == pytest.approx(written, abs=1e-6)


def test_unknown_users_and_items_are_nan_or_dropped(
    spark: SparkSession, als: DeepRecommenderModel
) -> None:
    model = pairs(als, output="pairs", predictionCol="score")
    rows = spark.createDataFrame([(1, 101, "a"), (99, 101, "b"), (1, 999, "c"), (None, 101, "d")])
    rows = rows.toDF("user", "item", "query_id").select(
        F.col("user").cast("int"), F.col("item").cast("int"), "query_id"
    )
    scored = model.transform(rows)
    assert scored.schema["score"].dataType.simpleString() == "float"
    kept = {row.query_id: math.isnan(row.score) for row in scored.collect()}
    assert kept == {"a": False, "b": True, "c": True, "d": True}
    dropped = pairs(model, coldStartStrategy="drop").transform(rows)
    assert [row.query_id for row in dropped.collect()] == ["a"]


def test_ids_come_back_in_their_own_type(als: DeepRecommenderModel) -> None:
    other = DeepRecommenderModel(als.folder, als.run_ids, {"user": "string", "item": "bigint"})
    found = other.recommendForAllUsers(1)
    assert found.schema["user"].dataType.simpleString() == "string"
    assert "item:bigint" in found.schema.simpleString()
    assert {row.user for row in found.collect()} == {str(user) for user in range(1, USERS + 1)}


def test_lists_are_measured_by_the_evaluator_of_spark(
    als: DeepRecommenderModel, ratings: DataFrame, scores: dict[tuple[int, int], float]
) -> None:
    """Precision at K by hand."""
    met = {(row.user, row.item) for row in ratings.collect()}
    hits = sum((user, item) in met for user in range(1, USERS + 1) for item in top(scores, user))
    evaluator = RankingEvaluator(metricName="precisionAtK", k=K)
    assert evaluator.evaluate(als.transform(ratings)) == pytest.approx(hits / USERS / K)


@pytest.mark.soak  # three fits on two sets of rows
def test_a_grid_is_searched_by_ratings(ratings: DataFrame, root: Path) -> None:
    """The settings of the lowest error are fitted on all rows."""
    biases = DeepRecommender(
        model="global_bias", coldStartStrategy="drop", timestampCol="at", lake=str(root)
    )
    grid = [{"sweeps": 1, "reg_user": reg} for reg in (1000.0, 3.0)]
    maps = ParamGridBuilder().addGrid(biases.modelParams, grid).build()
    evaluator = RegressionEvaluator(labelCol="rating", metricName="rmse")
    search = TrainValidationSplit(
        estimator=biases, estimatorParamMaps=maps, evaluator=evaluator, parallelism=2, seed=3
    )
    found = search.fit(ratings)
    errors = found.validationMetrics
    assert all(0.3 < error < 3 for error in errors) and errors[0] != errors[1]
    best = found.bestModel
    assert best.getModelParams() == maps[errors.index(min(errors))][biases.modelParams]
    predicted = best.transform(ratings).select("prediction").collect()
    assert all(1 <= row.prediction <= 5 for row in predicted), "clamped to the ratings' range"


def test_saved_in_a_pipeline_and_loaded_without_the_lake(
    als: DeepRecommenderModel,
    ratings: DataFrame,
    scores: dict[tuple[int, int], float],
    tmp_path: Path,
) -> None:
    estimator = DeepRecommender(model="ease", modelParams={"l2": 3.0}, userCol="u", k=7)
    path = str(tmp_path / "pipeline")
    Pipeline(stages=[estimator]).write().overwrite().save(path)
    [loaded] = Pipeline.load(path).getStages()
    assert isinstance(loaded, DeepRecommender) and loaded.uid == estimator.uid
    assert loaded.extractParamMap() == estimator.extractParamMap()

    whole = PipelineModel([als])
    for _ in range(2):  # the second time over the first
        whole.write().overwrite().save(str(tmp_path / "model"))
    [again] = PipelineModel.load(str(tmp_path / "model")).stages
    assert again.uid == als.uid and again.folder != als.folder and again.getK() == K
    found = lists(again.recommendForUserSubset(ratings.where("user < 3"), K))
    assert {user: [row.item for row in best] for user, best in found.items()} == {
        user: top(scores, user) for user in (1, 2)
    }
    with pytest.raises(ConfigError, match="a folder that this machine sees"):
        saving.local("s3://bucket/model")


def test_parameters_are_copied_and_checked() -> None:
    estimator = DeepRecommender(model="neumf", modelParams={"dim": 4}, ratingCol="")
    other = estimator.copy({estimator.k: 3, estimator.modelParams: '{"dim": 8}'})
    assert (other.getK(), other.getModelParams()) == (3, '{"dim": 8}')
    assert (estimator.getK(), estimator.getModelParams()) == (10, '{"dim": 4}')
    assert estimator.setParams(seed=5) is estimator and estimator.getSeed() == 5
    with pytest.raises(ConfigError, match="modelParams: found 'rank=3'"):
        DeepRecommender(modelParams="rank=3")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"userCol": "usr"}, r"column 'usr' \(userCol\): .*did you mean 'user'"),
        ({"ratingCol": "note"}, r"column 'note' \(ratingCol\): found string; expected a number"),
        ({"itemCol": "rating"}, r"column 'rating' \(itemCol\): found float"),
        ({"timestampCol": "note"}, "expected a timestamp, or whole seconds"),
        ({"model": "alz"}, "model: found 'alz'; .*did you mean 'als'"),
        ({"coldStartStrategy": "zero"}, "coldStartStrategy: found 'zero'; expected one of nan"),
        ({"modelParams": {"rnk": 3}}, "rnk"),
    ],
)
def test_mistakes_are_told_in_one_line(
    params: dict[str, Any], message: str, ratings: DataFrame, root: Path
) -> None:
    noted = ratings.withColumn("note", F.lit("x"))
    with pytest.raises((ConfigError, DataError), match=message) as told:
        DeepRecommender(**{"lake": str(root)} | params).fit(noted)
    assert isinstance(told.value, RecsysError) and "\n" not in str(told.value)


def test_the_room_needs_nothing_that_spark_connect_lacks() -> None:
    for file in ROOM.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for word in ("_jvm", "sparkContext", ".rdd", "F.broadcast(", "_jsparkSession"):
            assert word not in text, f"{file.name}: {word}"


@pytest.mark.soak
def test_the_page_of_the_estimator(
    spark: SparkSession, ratings: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    numbered = ratings.withColumn("item", F.col("item") - 100)
    names: dict[str, Any] = {"spark": spark, "ratings": numbered}
    page = (ROOT / "docs" / "ml.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(block, names)
    assert names["best"].count() == USERS and names["users"].count() == 3
    assert names["scores"].count() == ratings.count() and names["near"].count() == 3
    assert all(len(row[1]) == ITEMS - 6 for row in names["unseen"].collect())
    assert None not in names["factors"]
