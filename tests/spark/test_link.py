"""A Delta table read where it lies: the rows of its version, each once, on any number of ranks; or
a refusal by name.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core import contracts, shardset
from recsys_spark.core.errors import DataError, ShardError, TableError
from recsys_spark.etl.shards import linked
from recsys_spark.pipeline.context import Outcome
from recsys_spark.stages import link_shards, prepare, score, train_deep
from recsys_spark.stages.bridge.shard_set import FOLDER
from recsys_spark.train.data.reader import Reader
from tests.spark.chained import Chain
from tests.spark.prepared import SPLIT_EVENT, Steps, crowd, of_split

OURS = {"query_idx": "u", "item_idx": "i", "label": "stars"}
Row = tuple[int, int, float]  # query_idx, item_idx, value


def events(part: str) -> Counter[Row]:
    """Of the crowd: item m of a user is valid where m % 5 is 1, test where it is 2."""
    names = {1: "valid", 2: "test"}
    return Counter(
        (int(user[1:]) + 1, int(item[1:]) + 1, value)
        for user, item, _, value in crowd()
        if names.get(int(item[1:]) % 5, "train") == part
    )


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """A split as prepare leaves it, beside another one; and its table linked."""
    made = Steps(spark, tmp_path_factory.mktemp("link"))
    of_parts = [
        ("s", "r", user, item, f"u{user}", f"i{item}", 0, value, part)
        for part in ("train", "valid", "test")
        for user, item, value in events(part)
    ]
    other = [("other", *row[1:]) for row in of_parts[:20]]
    splits = of_split(spark.createDataFrame([*of_parts, *other], SPLIT_EVENT))
    for split in ("s", "other"):
        version = made.lake.replace(
            c.SPLITS, splits.where(F.col(c.SPLIT) == split), {c.SPLIT: split}
        )
    facts = {"num_users": 30, "num_items": 25, "split": "s"}
    made._record("prepare", "prepare", Outcome(tables={c.SPLITS: version}, summary=facts), {})
    made.run("linked", link_shards, source="prepare")
    return made


@pytest.fixture(scope="module")
def table(steps: Steps) -> str:
    """The split in a table of somebody's own: other names, wider types, many files, row groups of a
    few rows; then it moves on.
    """
    where = str(steps.root / "own table")
    # A row group as soon as this is reached, looked at every so many rows
    steps.spark.conf.set("parquet.block.size", "200")
    steps.spark.conf.set("parquet.block.size.row.check.min", "10")
    steps.spark.conf.set("parquet.page.size.row.check.min", "10")
    try:
        rows(steps).repartition(6).write.format("delta").partitionBy("part").save(where)
    finally:
        for key in (
            "parquet.block.size",
            "parquet.block.size.row.check.min",
            "parquet.page.size.row.check.min",
        ):
            steps.spark.conf.unset(key)
    rows(steps).where("part = 'train'").write.format("delta").mode("append").save(where)
    steps.run(
        "own", link_shards, source="prepare", table=where, version=0, columns=OURS, num_workers=4
    )
    return where


def rows(steps: Steps) -> DataFrame:
    splits = steps.lake.read(c.SPLITS, steps.done["prepare"].output_versions[c.SPLITS]).where(
        "split = 's'"
    )
    return splits.select(
        F.col("query_idx").cast("long").alias("u"),
        F.col("item_idx").cast("smallint").alias("i"),
        "part",
        F.col("value").cast("int").alias("stars"),
        "user_id",
    )


def folder(steps: Steps, step: str) -> Path:
    return steps.root / "runs" / step / FOLDER


def batches(
    steps: Steps, step: str, part: str, ranks: int, *, start: int = 0, engine: str = "arrow"
) -> list[list[tuple[Any, ...]]]:
    """The rows of every step of epoch 1, all ranks together."""
    made: list[list[tuple[Any, ...]]] = []
    lengths = set()
    for rank in range(ranks):
        reader = Reader(
            folder(steps, step),
            part,
            batch_size=30,
            seed=3,
            rank=rank,
            num_ranks=ranks,
            settings=contracts.Reader(engine=engine),
        )  # type: ignore[arg-type]
        mine = list(reader.epoch(1, start))
        lengths.add(len(mine))
        made = made or [[] for _ in mine]
        for batch, all_ranks in zip(mine, made, strict=True):
            types = [batch[name].dtype for name in ("query_idx", "item_idx", "label")]
            assert types == [np.int32, np.int32, np.float32] and "weight" not in batch
            all_ranks += zip(
                batch["row"].tolist(),
                *(batch[name].tolist() for name in ("query_idx", "item_idx", "label")),
                strict=True,
            )
    assert len(lengths) == 1, "every rank has the same number of steps"
    return [sorted(rows) for rows in made]


def values(made: list[list[tuple[Any, ...]]]) -> Counter[Row]:
    return Counter(row[1:] for rows in made for row in rows)


def test_the_rows_of_the_split_each_once_and_none_is_copied(steps: Steps) -> None:
    for part in ("train", "valid"):
        assert values(batches(steps, "linked", part, 1)) == events(part)
    place = folder(steps, "linked")
    assert (
        not list(place.rglob("*.parquet"))
        and sum(path.stat().st_size for path in place.iterdir()) < 20_000
    )
    made, version = (
        shardset.load(place, digests=True),
        steps.done["prepare"].output_versions[c.SPLITS],
    )
    labels = [value for *_, value in events("train").elements()]
    assert made.statistics == {
        "label_count": len(labels),
        "label_mean": pytest.approx(np.mean(labels)),
        "label_min": min(labels),
        "label_max": max(labels),
    }
    for name, part in (("seen", "train"), ("targets", "valid")):
        indptr, indices = (
            np.load(place / made.side[name].indptr),
            np.load(place / made.side[name].indices),
        )
        assert [
            (user, item) for user in range(31) for item in indices[indptr[user] : indptr[user + 1]]
        ] == sorted((user, item) for user, item, _ in events(part))
    assert steps.done["linked"].input_versions == made.table_versions == {c.SPLITS: version}
    assert made.table is not None and made.table.version == version
    assert steps.run("again", link_shards, source="prepare").shard_fingerprint == made.fingerprint


def test_a_table_of_ones_own_at_an_older_version_on_any_ranks(steps: Steps, table: str) -> None:
    """Also long, smallint and int are read, and names are not ours; the newest version has every
    training row twice.
    """
    alone = batches(steps, "own", "train", 1)
    assert values(alone) == events("train") and values(batches(steps, "own", "valid", 1)) == events(
        "valid"
    )
    made = shardset.load(folder(steps, "own"))
    files = made.parts["train"].files
    assert sum(len(file.row_groups) for file in files) > len(files) >= 4, (
        "files of several row groups"
    )
    for ranks in (2, 4):
        assert batches(steps, "own", "train", ranks) == alone, "the same global batches"
    assert batches(steps, "own", "train", 2, start=2) == alone[2:], "from the middle of an epoch"
    for engine in ("petastorm", "memory"):
        assert batches(steps, "own", "train", 2, engine=engine) == alone
    assert steps.done["own"].input_versions == {table: 0}


def test_a_label_of_one_and_pairs(steps: Steps) -> None:
    steps.run("ones", link_shards, source="prepare", label="one")
    train = events("train")
    assert values(batches(steps, "ones", "train", 1)) == Counter(
        (user, item, 1.0) for user, item, _ in train
    )
    assert shardset.load(folder(steps, "ones")).statistics == {
        "label_count": sum(train.values()),
        "label_mean": 1,
        "label_min": 1,
        "label_max": 1,
    }
    steps.run("pairs", link_shards, source="prepare", layout="pairs")
    reader = Reader(folder(steps, "pairs"), "train", batch_size=30, seed=3)
    found = [
        pair
        for batch in reader.epoch(0)
        for pair in zip(batch["query_idx"].tolist(), batch["item_idx"].tolist(), strict=True)
    ]
    assert sorted(found) == sorted((user, item) for user, item, _ in train)
    assert list(reader.shards.parts) == ["train"] and set(reader.columns) == {
        "query_idx",
        "item_idx",
    }


@pytest.mark.soak
def test_from_events_to_scores_without_an_export(spark: SparkSession, tmp_path: Path) -> None:
    steps = Chain(spark, tmp_path)
    steps.ingest(crowd(users=20, items=12, most=9))
    steps.run("prepare", prepare, source="ingest", rule="random", fractions=(0.6, 0.2, 0.2))
    steps.run("linked", link_shards, source="prepare")
    settings = {"batch_size": 20, "epochs": 6, "optim": {"lr": 0.05}}
    trained = steps.run(
        "mf_bias", train_deep, shards="linked", model="mf_bias", config={"dim": 4}, train=settings
    )
    assert (
        trained.shard_fingerprint == steps.done["linked"].shard_fingerprint
        and 0 < trained.summary["best"]["rmse"] < 2
    )
    facts = steps.done["prepare"].summary
    assert (
        train_deep.plan(steps.context("planned"), train_deep.Job(shards="linked", model="mf_bias"))[
            "rows"
        ]
        == facts["train"]
    )
    assert (
        steps.run("score", score, model="mf_bias", source="prepare").summary["rows"]
        == facts["test"]
        > 0
    )


def test_row_groups_are_dealt_evenly_and_the_same_way() -> None:
    draw = np.random.default_rng(0)
    groups = [draw.integers(1, 50, size=n).tolist() for n in (3, 40, 1, 56)]
    dealt = linked.deal(groups, 8)
    loads = np.zeros(8, int)
    for rows, shards in zip(groups, dealt, strict=True):
        assert len(rows) == len(shards)
        np.add.at(loads, list(shards), rows)
    assert (
        loads.sum() == sum(map(sum, groups))
        and np.ptp(loads) <= 5
        and dealt == linked.deal(groups, 8)
    )
    assert linked.deal([[4], [4], [4]], 64) == [(0,), (1,), (2,)]


def test_files_without_a_column_or_elsewhere(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [1, 2]}), tmp_path / "a b.parquet")
    fact = {"path": f"file:{tmp_path}/a%20b.parquet", "size": 7, "rows": 2, "part": "train"}
    made = linked.parts([fact], str(tmp_path), "t", ("train", "valid"), ["u"], 8)
    assert made["train"].files == (
        contracts.ShardFile(path="a b.parquet", virtual_shard=(0,), row_groups=(2,), bytes=7),
    )
    assert made["valid"].files == ()
    with pytest.raises(
        TableError,
        match=r"file a b.parquet: found columns u; expected also i; what a table is partitioned by",
    ):
        linked.parts([fact], str(tmp_path), "t", ("train",), ["u", "i"], 8)
    with pytest.raises(TableError, match=r"a file of another table \(a shallow clone\)"):
        linked.parts([fact], str(tmp_path / "t"), "t", ("train",), ["u"], 8)


def refused(
    steps: Steps, made: DataFrame, name: str, *, by: tuple[str, ...] = ("part",), **job: Any
) -> str:
    """What is said of a table of these rows."""
    where = str(steps.root / name)
    made.write.format("delta").partitionBy(*by).save(where)
    return refused_table(steps, where, **job)


def refused_table(steps: Steps, where: str, version: int = 0, **job: Any) -> str:
    with pytest.raises((TableError, ShardError, DataError)) as told:
        steps.run(
            "refused",
            link_shards,
            **{"source": "prepare", "table": where, "version": version, "columns": OURS, **job},
        )
    assert where in str(told.value) and "To mend: " in str(told.value)
    return str(told.value)


def test_rows_that_cannot_be_read_as_they_lie(steps: Steps) -> None:
    split, first = rows(steps), F.col("u") == 3
    assert "column for item_idx: found" in (
        said := refused(steps, split.withColumn("i", F.when(~first, F.col("i"))), "nulls")
    )
    assert "rows with none in" in said and ".parquet" in said
    assert "column for label" in refused(
        steps,
        split.withColumn("stars", F.when(first, float("nan")).otherwise(F.col("stars"))),
        "nan",
    )
    assert "to 999; expected 1 to 30, the indices" in refused(
        steps, split.withColumn("u", F.when(first, 999).otherwise(F.col("u"))), "range"
    )
    assert "column u: found string; expected tinyint or" in refused(
        steps, split.withColumn("u", F.col("u").cast("string")), "string"
    )
    assert "column query_idx: found columns u, i" in refused(steps, split, "names", columns={})
    said = refused(steps, split.coalesce(1), "mixed", by=())
    assert "found rows of parts" in said and "partitioned by its part" in said
    assert "found no row; expected at least one" in refused(
        steps, split.where("part <> 'train'"), "empty"
    )
    assert "pairs that are there before" in refused(
        steps, split.union(split), "twice", layout="pairs"
    )
    said = refused(steps, split.coalesce(1), "few", num_workers=2)
    assert "found 1 row groups in the training files" in said and "in more files" in said


def test_deletion_vectors_and_renamed_columns(steps: Steps) -> None:
    where = str(steps.root / "deleted")
    rows(steps).coalesce(1).write.format("delta").partitionBy("part").option(
        "delta.enableDeletionVectors", "true"
    ).save(where)
    steps.run("before", link_shards, source="prepare", table=where, version=0, columns=OURS)
    steps.spark.sql(f"DELETE FROM delta.`{where}` WHERE part = 'train' AND u = 3")
    said = refused_table(steps, where, version=1)
    assert (
        "of which the table has" in said
        and "deletion vectors are not read" in said
        and "REORG TABLE" in said
    )
    assert values(batches(steps, "before", "train", 1)) == events("train"), (
        "of version 0 nothing is taken away"
    )
    where = str(steps.root / "renamed")
    rows(steps).write.format("delta").partitionBy("part").option(
        "delta.columnMapping.mode", "name"
    ).save(where)
    assert "delta.columnMapping.mode: found name; expected none" in refused_table(steps, where)


def test_a_table_that_is_not_there(steps: Steps, table: str) -> None:
    assert "nowhere: found no such Delta table" in refused_table(steps, str(steps.root / "nowhere"))
    assert "version 99: found" in refused_table(steps, table, version=99)


def test_files_that_vanish_or_change_after_linking(steps: Steps) -> None:
    where = str(steps.root / "vacuumed")
    rows(steps).coalesce(1).write.format("delta").partitionBy("part").save(where)
    steps.run("vacuumed", link_shards, source="prepare", table=where, version=0, columns=OURS)
    victim = next(Path(where).glob("part=train/*.parquet"))
    whole = pq.read_table(victim, partitioning=None)
    pq.write_table(whole.slice(1), victim)
    for what in ("bytes; expected", "no such file"):
        with pytest.raises(
            ShardError,
            match=rf"shard file {victim}: found .*{what}.* To mend: run link_shards again",
        ):
            Reader(folder(steps, "vacuumed"), "train", batch_size=30, seed=1)
        victim.unlink(missing_ok=True)
    assert f"found no file file:{victim}; expected the files of that version" in refused_table(
        steps, where
    )


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"table": "/x"}, "table and version go together"),
        ({"version": 1}, "table and version go together"),
        ({"columns": {"label": "stars"}}, "no columns: those of `splits` are known"),
        ({"layout": "profile"}, "'pointwise' or 'pairs'"),
        ({"num_workers": 3}, "num_workers 3 must divide virtual_shards 64"),
    ],
)
def test_settings_that_do_not_fit(job: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        link_shards.Job(source="prepare", **job)
