"""Fields in exported shards: what they hold, what they were fitted on, and what they mean when a
model is scored.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import shardset
from recsys_spark.core.contracts import Feature, ShardSet
from recsys_spark.core.errors import ConfigError
from recsys_spark.pipeline.context import Outcome
from recsys_spark.stages import evaluate, export_shards, prepare, score, train_baseline, train_deep
from recsys_spark.stages.bridge.shard_set import FOLDER
from tests.spark.prepared import Steps, crowd

DAY = 86400
AGES = ["18", "25", "35"]
FIELDS = {
    "user": ["age", "zip_region", {"name": "income", "kind": "number"}],
    "item": ["genres", "year"],
    "event": ["hour", "weekday", "position", "ts"],
}


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """30 users, 25 items; user 17 and item 24 alone have an age of 99 and a genre Noir. New users
    are held out whole in `cold`.
    """
    made = Steps(spark, tmp_path_factory.mktemp("features"))
    made.ingest([(user, item, 5 * DAY + 4000 * ts, value) for user, item, ts, value in crowd()])
    users = [
        (f"u{n}", {"age": age_of(n), "zip": f"{n % 4}4321" if n % 5 else "", "income": str(10 * n)})
        for n in range(30)
    ]
    items = [
        (f"i{n}", f"Item {n}", {"genres": genres_of(n), "year": str(1990 + n % 2)})
        for n in range(25)
    ]
    for table, rows, shape in (
        (c.USERS, users, "user_id string, fields map<string,string>"),
        (c.ITEMS, items, "item_id string, title string, fields map<string,string>"),
    ):
        made.lake.create(table)
        spark.createDataFrame(rows, shape).write.format("delta").mode("append").save(
            made.lake.where(table)
        )
    made._record(
        "ingest",
        "ingest",
        Outcome(
            tables={table: made.lake.version(table) for table in (c.INTERACTIONS, c.USERS, c.ITEMS)}
        ),
        {},
    )
    made.run("clicks", prepare, source="ingest", rule="click_time", threshold=4.0)
    made.run("cold", prepare, source="ingest", rule="cold_users", valid_users=3, test_users=3)
    made.run("rows", export_shards, source="clicks", features=FIELDS)
    made.run("cold_rows", export_shards, source="cold", features=FIELDS)
    return made


def age_of(n: int) -> str:
    return "99" if n == 17 else AGES[n % 3]


def genres_of(n: int) -> str:
    return "Noir" if n == 24 else "|".join(["Drama", "War", "Comedy"][: 1 + n % 3])


def opened(steps: Steps, step: str) -> tuple[Path, ShardSet, dict[str, Feature]]:
    folder = steps.root / "runs" / step / FOLDER
    shards = shardset.load(folder, digests=True)
    return folder, shards, {feature.name: feature for feature in shards.features}


def trained(steps: Steps, split: str, column: str) -> set[str]:
    rows = steps.lake.read(c.SPLITS).where((F.col(c.SPLIT) == split) & (F.col(c.PART) == c.TRAIN))
    return {row[0] for row in rows.select(column).distinct().collect()}


def test_users_and_items_have_side_files_by_index(steps: Steps) -> None:
    folder, shards, fields = opened(steps, "rows")
    numbers = {row["user_id"]: row["user_idx"] for row in steps.lake.read(c.USER_INDEX).collect()}
    known = [int(user[1:]) for user in trained(steps, "click_time", c.USER_ID)]
    assert set(fields["age"].vocabulary) == {age_of(n) for n in known}
    counts = [sum(age_of(n) == age for n in known) for age in fields["age"].vocabulary]
    assert counts == sorted(counts, reverse=True), "the most frequent among trained users first"
    for n in range(30):
        for name, value in (("age", age_of(n)), ("zip_region", str(n % 4) if n % 5 else "")):
            found = [
                fields[name].vocabulary[code - 1]
                for code in codes(folder, fields[name], numbers[f"u{n}"])
            ]
            assert found == ([value] if value in fields[name].vocabulary else [])
    income = fields["income"]
    assert income.kind == "number" and income.numbers is not None
    values = np.load(folder / income.numbers.path)
    assert math.isnan(values[0]) and [values[numbers[f"u{n}"]] for n in range(30)] == [
        10 * n for n in range(30)
    ]
    assert (income.mean, income.std) == pytest.approx(
        (np.mean([10 * n for n in known]), np.std([10 * n for n in known]))
    )
    items = {row["item_id"]: row["item_idx"] for row in steps.lake.read(c.ITEM_INDEX).collect()}
    genres = fields["genres"]
    assert (genres.kind, genres.slots, fields["year"].kind) == ("tags", 3, "category")
    for name, number in items.items():
        found = {genres.vocabulary[code - 1] for code in codes(folder, genres, number)}
        assert found == set(genres_of(int(name[1:])).split("|")) & set(genres.vocabulary)


def codes(folder: Path, feature: Feature, entity: int) -> list[int]:
    assert feature.codes is not None
    indptr, indices = (
        np.load(folder / feature.codes.indptr),
        np.load(folder / feature.codes.indices),
    )
    return indices[indptr[entity] : indptr[entity + 1]].tolist()


def test_rows_have_the_fields_of_their_event(steps: Steps) -> None:
    folder, shards, fields = opened(steps, "rows")
    events = steps.lake.read(c.SPLITS).where(F.col(c.SPLIT) == "click_time").toPandas()
    train = events[events.part == "train"]
    position = {
        (e.query_idx, e.item_idx): math.log1p(
            ((events.query_idx == e.query_idx) & (events.ts < e.ts)).sum()
        )
        for e in events.itertuples()
    }
    assert (fields["ts"].low, fields["ts"].high) == (train.ts.min(), train.ts.max())
    of_train = [position[e.query_idx, e.item_idx] for e in train.itertuples()]
    assert (fields["position"].mean, fields["position"].std) == pytest.approx(
        (np.mean(of_train), np.std(of_train))
    )
    assert fields["hour"].vocabulary == tuple(
        sorted({str(ts % DAY // 3600) for ts in train.ts}, key=int)
    )
    assert set(fields["weekday"].vocabulary) == {str((ts // DAY + 3) % 7) for ts in train.ts}
    for part in ("train", "valid"):
        table = pa.concat_tables(
            [pq.read_table(folder / file.path) for file in shards.parts[part].files]
        ).to_pandas()
        mine = events[events.part == part]
        assert sorted(
            zip(table.query_idx, table.item_idx, table.ts, table.label, strict=True)
        ) == sorted(zip(mine.query_idx, mine.item_idx, mine.ts, mine.value, strict=True))
        for row in table.itertuples():
            hour, vocabulary = str(row.ts % DAY // 3600), fields["hour"].vocabulary
            assert row.event_hour == (vocabulary.index(hour) + 1 if hour in vocabulary else 0)
            expected = (position[row.query_idx, row.item_idx] - fields["position"].mean) / fields[
                "position"
            ].std
            assert row.event_position == pytest.approx(expected, abs=1e-5)


def test_what_training_never_met_is_out_of_vocabulary(steps: Steps) -> None:
    """User 17 has an age of its own, and is held out of one split."""
    number = next(row[1] for row in steps.lake.read(c.USER_INDEX).collect() if row[0] == "u17")
    assert "u17" in trained(steps, "click_time", c.USER_ID) and "u17" not in trained(
        steps, "cold_users", c.USER_ID
    )
    for step, known in (("rows", True), ("cold_rows", False)):
        folder, _, fields = opened(steps, step)
        assert (
            ("99" in fields["age"].vocabulary)
            == known
            == bool(codes(folder, fields["age"], number))
        )
        assert codes(folder, fields["zip_region"], number), "what others have, too, is known"


def test_a_rerun_gives_the_same_set(steps: Steps) -> None:
    first = steps.done["rows"].shard_fingerprint
    assert (
        steps.run("rows", export_shards, source="clicks", features=FIELDS).shard_fingerprint
        == first
    )
    assert steps.done["rows"].summary["features"] == {
        "age": len(opened(steps, "rows")[2]["age"].vocabulary),
        "zip_region": 4,
        "income": "number",
        "genres": 4,
        "year": 2,
        "hour": len(opened(steps, "rows")[2]["hour"].vocabulary),
        "weekday": len(opened(steps, "rows")[2]["weekday"].vocabulary),
        "position": "number",
        "ts": "time",
    }


def test_a_field_that_is_not_there_is_named_with_its_neighbour(steps: Steps) -> None:
    for stage in (export_shards.run, export_shards.plan):
        with pytest.raises(
            ConfigError,
            match=r"features.item: found 'genre'; expected one of genres, year \(did you mean "
            r"'genres'\?\)",
        ):
            stage(
                steps.context("bad"),
                export_shards.Job(source="clicks", features={"item": ["genre"]}),
            )
    with pytest.raises(ConfigError, match=r"features.item, genres: found '.*'; expected numbers"):
        steps.run(
            "bad",
            export_shards,
            source="clicks",
            features={"item": [{"name": "genres", "kind": "number"}]},
        )
    with pytest.raises(ValidationError, match=r"not 'hours' \(did you mean 'hour'\?\)"):
        export_shards.Job(source="clicks", features={"event": ["hours"]})
    with pytest.raises(ValidationError, match="rows of layout profile are no single events"):
        export_shards.Job(source="clicks", layout="profile", features={"event": ["hour"]})
    with pytest.raises(ValidationError, match="names that differ"):
        export_shards.Job(source="clicks", features={"user": ["age"], "item": ["age"]})
    bare = steps.done["clicks"].model_copy(update={"output_versions": {}})
    ctx = steps.context("bad")
    ctx.inputs = {"clicks": bare}
    with pytest.raises(
        ConfigError,
        match=r"features.user: found age; expected none, for the data set has no table users",
    ):
        export_shards.plan(ctx, export_shards.Job(source="clicks", features={"user": ["age"]}))


def test_clicks_from_shards_to_metrics(steps: Steps) -> None:
    """Trained on clicks with all fields, scored as probabilities, evaluated as clicks; every row
    has its prediction.
    """
    train = {"epochs": 2, "batch_size": 32, "reader": {"engine": "arrow"}}
    made = steps.run(
        "fm", train_deep, shards="rows", model="fm", config={"task": "click", "dim": 4}, train=train
    )
    assert 0 < made.summary["best"]["log_loss"] < 1
    assert (
        train_deep.plan(
            steps.context("fm"), train_deep.Job(shards="rows", model="fm", config={"task": "click"})
        )["parameters"]
        > 0
    )
    steps.done["fm"] = made.model_copy(update={"upstream": {"clicks": steps.done["clicks"].run_id}})
    steps.run("score_fm", score, model="fm", source="clicks")
    assert steps.done["score_fm"].summary["task"] == "click"
    rows = steps.lake.read(c.PREDICTIONS).where(F.col(c.TASK) == "click").toPandas()
    events = (
        steps.lake.read(c.SPLITS)
        .where((F.col(c.SPLIT) == "click_time") & (F.col(c.PART) == "test"))
        .toPandas()
    )
    assert (
        len(rows) == len(events)
        and rows.value.between(0, 1, inclusive="neither").all()
        and set(rows.label) <= {0.0, 1.0}
    )
    assert rows.value.nunique() > len(rows) / 2
    steps.run("evaluation", evaluate, source="clicks", of=("score_fm",), replicas=100)
    results = {row["metric"]: row["value"] for row in steps.done["evaluation"].summary["results"]}
    p, label = rows.value.to_numpy(), rows.label.to_numpy()
    assert results["log_loss"] == pytest.approx(
        -np.where(label > 0, np.log(p), np.log1p(-p)).mean(), rel=1e-9
    )
    assert "auc" in results
    with pytest.raises(
        ConfigError,
        match=r"task: found rating, of fm, which is made for click; expected ranking or click",
    ):
        steps.run("bad", score, model="fm", source="clicks", task="rating")


def test_new_users_get_ratings_from_their_fields(steps: Steps) -> None:
    train = {"epochs": 2, "batch_size": 32, "reader": {"engine": "arrow"}}
    made = steps.run(
        "mf_side", train_deep, shards="cold_rows", model="mf_side", config={"dim": 4}, train=train
    )
    steps.done["mf_side"] = made.model_copy(
        update={"upstream": {"cold": steps.done["cold"].run_id}}
    )
    steps.run("score_side", score, model="mf_side", source="cold")
    steps.run("bias", train_baseline, source="cold", model="global_bias")
    steps.done["bias"] = steps.done["bias"].model_copy(
        update={"upstream": {"cold": steps.done["cold"].run_id}}
    )
    steps.run("score_bias", score, model="bias", source="cold")
    steps.run(
        "cold_evaluation", evaluate, source="cold", of=("score_bias", "score_side"), replicas=100
    )
    rows = steps.lake.read(c.PREDICTIONS).where(F.col(c.RUN_ID) == "score_side-1").toPandas()
    assert len(rows) and not set(rows.query_id) & trained(steps, "cold_users", c.USER_ID)
    assert rows.groupby("item_id").value.nunique().max() > 1, (
        "new users differ by what is known of them"
    )
