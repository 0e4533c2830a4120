"""The Delta tables: atomic, idempotent, checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError
from recsys_spark.lake import commits
from recsys_spark.lake.schemas import KEYS, PARTITIONS, SCHEMAS
from recsys_spark.lake.tables import Lake
from tests.spark.counted import num_jobs


def index_rows(spark: SparkSession, *pairs: tuple[str, int]) -> DataFrame:
    return spark.createDataFrame(pairs, SCHEMAS["user_index"])


def stored(lake: Lake, name: str = "user_index", version: int | None = None) -> list[tuple]:
    return sorted(tuple(row) for row in lake.read(name, version).collect())


def completed(run_id: str) -> Run:
    return Run(
        run_id=run_id,
        pipeline="p",
        step="ingest",
        stage="ingest",
        key="k",
        config={"a": [1, {"b": None}]},
        seed=7,
        upstream={"x": "x-1"},
        input_versions={},
        output_versions={"users": 3},
        run_dir="/r",
        code_version="1",
        started_at=2.5,
        ended_at=3.0,
        summary={"rows": 4},
    )


def test_every_key_and_partition_is_a_column() -> None:
    assert set(KEYS) == set(SCHEMAS)
    for name, keys in KEYS.items():
        assert set(keys) | set(PARTITIONS.get(name, ())) <= set(SCHEMAS[name].fieldNames())


def test_merge_new_inserts_only_new_keys_and_commits_only_when_there_are_some(
    spark: SparkSession, lake: Lake
) -> None:
    first = lake.merge_new("user_index", index_rows(spark, ("a", 1), ("b", 2)))
    assert stored(lake) == [("a", 1), ("b", 2)]
    assert lake.merge_new("user_index", index_rows(spark, ("a", 9))) == first
    second = lake.merge_new("user_index", index_rows(spark, ("a", 9), ("c", 3)))
    assert second == first + 1
    assert stored(lake) == [("a", 1), ("b", 2), ("c", 3)]
    assert stored(lake, version=first) == [("a", 1), ("b", 2)]


def test_vacuum_leaves_every_version(spark: SparkSession, lake: Lake) -> None:
    first = lake.replace("user_index", index_rows(spark, ("a", 1)), {"user_id": "a"})
    lake.replace("user_index", index_rows(spark, ("a", 2)), {"user_id": "a"})
    spark.sql(f"VACUUM delta.`{lake.where('user_index')}`")
    assert stored(lake, version=first) == [("a", 1)]
    kept = spark.sql(f"DESCRIBE DETAIL delta.`{lake.where('user_index')}`").collect()[0][
        "properties"
    ]
    assert kept == {
        "delta.deletedFileRetentionDuration": "interval 3650 days",
        "delta.logRetentionDuration": "interval 3650 days",
        "delta.checkpointInterval": "50",
    }


def test_a_retried_transaction_is_a_no_op(spark: SparkSession, lake: Lake) -> None:
    lake.merge_new("user_index", index_rows(spark, ("a", 1)), txn=("ingest", 1))
    lake.merge_new("user_index", index_rows(spark, ("b", 2)), txn=("ingest", 1))
    assert stored(lake) == [("a", 1)]
    lake.merge_new("user_index", index_rows(spark, ("b", 2)), txn=("ingest", 2))
    assert stored(lake) == [("a", 1), ("b", 2)]
    # The pair of an earlier write must not linger
    lake.merge_new("user_index", index_rows(spark, ("c", 3)))
    assert len(stored(lake)) == 3


def test_replace_touches_only_its_rows(spark: SparkSession, lake: Lake) -> None:
    def part(run_id: str, *labels: float) -> DataFrame:
        rows = [
            (run_id, "m", "s", "rating", str(i), "u", "i", label, 0.0)
            for i, label in enumerate(labels)
        ]
        return spark.createDataFrame(rows, SCHEMAS["predictions"])

    lake.replace("predictions", part("one", 1.0, 2.0), {"run_id": "one"})
    lake.replace("predictions", part("it's", 3.0), {"run_id": "it's"})
    lake.replace("predictions", part("one", 4.0), {"run_id": "one"}, txn=("score", 1))
    # Retried: no-op
    lake.replace("predictions", part("one", 5.0), {"run_id": "one"}, txn=("score", 1))
    assert sorted((row.run_id, row.label) for row in lake.read("predictions").collect()) == [
        ("it's", 3.0),
        ("one", 4.0),
    ]
    before = lake.version("predictions")
    with pytest.raises(Exception, match="(?i)replaceWhere|constraint"):
        lake.replace("predictions", part("two", 1.0), {"run_id": "one"})
    assert lake.version("predictions") == before


def test_a_write_gives_the_version_of_its_own_commit_when_another_job_commits_next(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.create("user_index")
    other = Lake(spark.newSession(), lake.root)
    commit = commits.commit

    def then_the_other(table: str, write: Callable) -> None:
        commit(table, write)
        with monkeypatch.context() as undone:
            undone.setattr(commits, "commit", commit)
            late = index_rows(other.spark, ("late", 9))
            other.replace("user_index", late, {"user_id": "late"})

    monkeypatch.setattr(commits, "commit", then_the_other)
    assert lake.replace("user_index", index_rows(spark, ("a", 1)), {"user_id": "a"}) == 1
    assert lake.merge_new("user_index", index_rows(spark, ("b", 2))) == 3
    assert lake.append("user_index", index_rows(spark, ("c", 3)), txn=("numbers", 1)) == 5
    assert stored(lake, version=3) == [("a", 1), ("b", 2), ("late", 9)]
    assert lake.append("user_index", index_rows(spark, ("c", 3)), txn=("numbers", 1)) is None


def test_a_missing_table_names_itself_and_the_remedy(lake: Lake) -> None:
    assert not lake.exists("splits")
    for use in (lake.read, lake.version):
        with pytest.raises(
            TableError,
            match=r"/lake/splits: found no such Delta table.*run the step that writes it",
        ):
            use("splits")
    with pytest.raises(ConfigError, match=r"table 'interaction'.*did you mean 'interactions'"):
        lake.exists("interaction")


def test_a_lake_of_an_earlier_version_is_refused(spark: SparkSession, lake: Lake) -> None:
    """The first table that a pipeline reads there says so."""
    columns = [field for field in SCHEMAS["interactions"] if field.name != "step"]
    old = spark.createDataFrame([], StructType(columns))
    old.write.format("delta").save(lake.where("interactions"))
    message = (
        r"interactions: found no column step; expected step int\. To mend: point env\.lake at "
        r"another folder \(a lake that an earlier version wrote is not read\)"
    )
    with pytest.raises(TableError, match=message):
        lake.read("interactions")


def test_a_table_of_another_schema_is_refused_and_left_alone(
    spark: SparkSession, lake: Lake
) -> None:
    other = spark.createDataFrame([("a", "1", 0.5)], "user_id string, user_idx string, age double")
    other.write.format("delta").save(lake.where("user_index"))
    message = (
        r"user_index: found unknown column age double, user_idx string; expected no age, "
        r"user_idx int"
    )
    for use in (
        lambda: lake.read("user_index"),
        lambda: lake.merge_new("user_index", index_rows(spark, ("a", 1))),
    ):
        with pytest.raises(TableError, match=message) as told:
            use()
        assert "env.lake" in told.value.remedy
    assert lake.version("user_index") == 0


def test_rows_of_another_schema_never_reach_a_table(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(
        TableError,
        match=r"rows for table .*user_index: found no column user_idx; expected user_idx int",
    ):
        lake.merge_new("user_index", spark.createDataFrame([("a",)], "user_id string"))
    assert not lake.exists("user_index")


def test_a_version_that_is_not_there(spark: SparkSession, lake: Lake) -> None:
    lake.create("user_index")
    with pytest.raises(TableError, match=r"user_index, version 7: .*a version up to 0"):
        lake.read("user_index", 7)


def test_a_folder_with_other_files_is_not_taken_for_a_table(
    lake: Lake, spark: SparkSession
) -> None:
    spark.range(3).write.parquet(lake.where("user_index"))
    assert not lake.exists("user_index")
    with pytest.raises(TableError, match=r"user_index: found no such Delta table"):
        lake.read("user_index")


def test_a_catalog_schema_is_a_root_too(spark: SparkSession) -> None:
    spark.sql("CREATE SCHEMA IF NOT EXISTS lake_test")
    lake = Lake(spark, "spark_catalog.lake_test")
    try:
        assert not lake.exists("user_index")
        first = lake.merge_new("user_index", index_rows(spark, ("a", 1)))
        lake.replace("user_index", index_rows(spark, ("a", 2)), {"user_id": "a"})
        assert stored(lake) == [("a", 2)] and stored(lake, version=first) == [("a", 1)]
    finally:
        spark.sql("DROP SCHEMA lake_test CASCADE")


def test_runs_come_back_as_they_went_in(lake: Lake) -> None:
    assert lake.runs() == []
    run = completed("ingest-1")
    lake.add_run(run)
    lake.add_run(run.model_copy(update={"run_id": "earlier", "started_at": 1.0}))
    lake.add_run(run.model_copy(update={"seed": 8}))
    assert [(r.run_id, r.seed) for r in lake.runs()] == [("earlier", 7), ("ingest-1", 8)]
    assert lake.runs()[1] == run.model_copy(update={"seed": 8})


def test_versions_and_known_runs_cost_no_spark_job(spark: SparkSession, lake: Lake) -> None:
    lake.add_run(completed("one"))
    assert num_jobs(spark, lake.runs) > 0
    assert num_jobs(spark, lambda: lake.version("runs")) == 0
    assert num_jobs(spark, lambda: lake.add_run(completed("two"))) == 1, "the rows are written"
    assert num_jobs(spark, lake.runs) == 0
    Lake(spark, lake.root).add_run(completed("of another process"))
    assert [run.run_id for run in lake.runs()] == ["of another process", "one", "two"]
    assert lake.runs() == Lake(spark, lake.root).runs()


def test_the_rows_of_a_version_are_planned_once(spark: SparkSession, lake: Lake) -> None:
    first = lake.merge_new("user_index", index_rows(spark, ("a", 1)))
    lake.merge_new("user_index", index_rows(spark, ("b", 2)))
    lake.release()
    read = num_jobs(spark, lambda: lake.read("user_index", first).collect())
    again = num_jobs(spark, lambda: lake.read("user_index", first).collect())
    assert again == 1 < read
    lake.release()
    assert num_jobs(spark, lambda: lake.read("user_index", first).collect()) == read


def test_the_version_is_the_same_without_deltas_own_log(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session on a server (Spark Connect) has no JVM here."""
    for name in ("a", "b"):
        lake.merge_new("user_index", index_rows(spark, (name, 1)))
    versions = [lake.version("user_index")]
    monkeypatch.setattr(commits, "JavaClass", str)
    versions.append(lake.version("user_index"))
    assert versions == [1, 1]


def test_jobs_that_commit_at_once_all_come_through(spark: SparkSession, lake: Lake) -> None:
    """Two sessions that merge into one table: Delta refuses the one that read it before the other's
    commit.
    """
    lake.merge_new("user_index", index_rows(spark, ("a", 1)))
    lakes = (lake, Lake(spark.newSession(), lake.root))

    def merge(n: int) -> int:
        chosen = lakes[n % 2]
        return chosen.merge_new("user_index", index_rows(chosen.spark, (f"u{n}", n)))

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(merge, range(2, 6)))) == 4  # the version of each one's own commit
    assert stored(lake) == [("a", 1), *((f"u{n}", n) for n in range(2, 6))]


def test_a_write_that_never_comes_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_PAUSES_S", (0.0, 0.0))
    tried = []

    def write() -> None:
        tried.append(1)
        raise PySparkException("[DELTA_CONCURRENT_APPEND.WITHOUT_HINT] ConcurrentAppendException")

    with pytest.raises(TableError, match="found another job wrote to it at the same time"):
        commits.commit("lake/users", write)
    assert len(tried) == 3


def test_a_full_disk_is_told_in_one_line() -> None:
    def write() -> None:
        raise PySparkException("Job aborted: java.io.IOException: No space left on device")

    message = (
        r"lake/users: found no space left on the disk; expected .* nothing was changed\. To "
        r"mend: free space"
    )
    with pytest.raises(TableError, match=message):
        commits.commit("lake/users", write)
