"""A user is erased from every table and its history, and nobody else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.commands import forget
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import DataError, TableError
from recsys_spark.etl import index
from recsys_spark.lake import erasure
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake

USER = "zoe@example.org"


def run(step: str, stage: str, folder: Path, upstream: tuple[str, ...] = (), **more: object) -> Run:
    (folder / step).mkdir(parents=True, exist_ok=True)
    (folder / step / "weights").write_text("x")
    return Run(
        run_id=step,
        pipeline="t",
        step=step,
        stage=stage,
        key=step,
        upstream={name: name for name in upstream},
        input_versions={},
        run_dir=str(folder / step),
        code_version="",
        seed=1,
        started_at=1.0 + len(upstream),
        ended_at=2.0,
        **{"config": {}, "output_versions": {}} | more,
    )


def frame(spark: SparkSession, table: str, rows: list[dict[str, Any]]) -> DataFrame:
    """The rows with all columns of the table, null where they say nothing, in one file."""
    names = SCHEMAS[table].fieldNames()
    full = [tuple(row.get(name) for name in names) for row in rows]
    return spark.createDataFrame(full, SCHEMAS[table]).coalesce(1)


@pytest.fixture
def runs(spark: SparkSession, lake: Lake, tmp_path: Path) -> list[Run]:
    """Three users in three tables, and what was built on them; `splits` has an older version."""
    users = {1: "ann", 2: USER, 3: f"{USER}x"}
    rows = {
        c.USER_INDEX: [{c.USER_ID: user, c.USER_IDX: n} for n, user in users.items()],
        c.SPLITS: [
            {c.SPLIT: "s", c.RUN_ID: "prepare", c.USER_ID: user, c.ITEM_ID: "a", c.PART: c.TRAIN}
            for user in users.values()
        ],
        c.QUARANTINE: [{"table": "x", c.RAW: f"{user}::17"} for user in users.values()],
    }

    frames = {table: frame(spark, table, rows[table]) for table in rows}
    versions = {table: lake.merge_new(table, frames[table]) for table in rows}
    versions[c.SPLITS] = lake.replace(c.SPLITS, frames[c.SPLITS], {c.SPLIT: "s"})
    folder = tmp_path / "runs"
    recorded = [
        run("prepare", "prepare", folder, config={"rule": "random"}, output_versions=versions),
        run("als", "train_als", folder, ("prepare",)),
        run("score", "score", folder, ("als", "prepare"), output_versions=versions),
        run("elsewhere", "prepare", folder),
    ]
    lake.add_runs(recorded)
    return recorded


def everything(root: Path) -> str:
    """All that the lake's files say: logs as text, Parquet by its values."""
    said = []
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            said.append(str(pq.ParquetFile(path).read().to_pylist()))
            said.append(str(pq.read_metadata(path).to_dict()))
        elif path.is_file() and not path.name.endswith(".json.crc"):
            said.append(path.read_text(errors="replace"))
    return "\n".join(said).replace(f"{USER}x", "")


def test_a_user_is_gone_from_every_file_and_nobody_else(
    lake: Lake, runs: list[Run], tmp_path: Path
) -> None:
    traces = forget.traces(lake, USER, runs_dir=tmp_path)
    assert traces.rows == {
        c.SPLITS: 1,
        c.USER_INDEX: 1,
        c.QUARANTINE: 1,
    }
    assert [run.run_id for run in traces.built] == ["als", "score"]
    assert USER in everything(Path(lake.root))

    record = forget.forget(lake, traces, runs_dir=tmp_path / "runs", pipeline="t", rebuild=True)
    assert USER not in everything(Path(lake.root))
    assert USER not in (Path(record.run_dir) / "run.json").read_text()
    left = {row.user_idx: row.user_id for row in lake.read(c.USER_INDEX).collect()}
    assert left == {1: "ann", 2: None, 3: f"{USER}x"}
    # The number is never given again, not even to the user who comes back
    back = lake.spark.createDataFrame([(USER,), ("ann",)], "user_id string")
    numbered = lake.read(c.USER_INDEX)
    taken = index.last(numbered, c.USER_IDX)
    lacking = index.lacking(numbered, back, c.USER_ID)
    new = index.number(lacking, c.USER_ID, c.USER_IDX, taken)[0].collect()
    assert [tuple(row) for row in new] == [(USER, 4)]

    recorded = {run.run_id: run for run in lake.runs()}
    assert set(recorded) == {"prepare", "elsewhere", record.run_id}  # the others run again
    assert not Path(runs[1].run_dir).exists() and Path(runs[0].run_dir).exists()
    version = recorded["prepare"].output_versions[c.SPLITS]
    assert lake.read(c.SPLITS, version).count() == 2  # what is kept can be read
    with pytest.raises(TableError, match="version 1"):
        lake.read(c.SPLITS, 1).count()


def test_an_unknown_user_is_said_unless_an_erasure_was_cut_short(
    lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="user 'nobody': found in no table"):
        forget.traces(lake, "nobody", runs_dir=tmp_path)
    (tmp_path / "forget-0123456789").mkdir()
    (tmp_path / "forget-0123456789" / "job.json").write_text("{}")
    assert forget.traces(lake, "nobody", runs_dir=tmp_path).rows == {}


def test_the_lists_of_a_users_own_playlists_go_too(lake: Lake, spark: SparkSession) -> None:
    # "9" is a playlist of the user's, "8" one shared with bob; "9" is a user, too
    events = [("9", USER), ("9", USER), ("8", USER), ("8", "bob"), ("7", "bob")]
    split = {c.SPLIT: "s", c.RUN_ID: "prepare", c.PART: c.TRAIN, c.QUERY_KIND: c.PLAYLIST}
    rows = [
        split | {c.QUERY_ID: playlist, c.USER_ID: user, c.ITEM_ID: f"i{n}"}
        for n, (playlist, user) in enumerate(events)
    ]
    lake.merge_new(c.SPLITS, frame(spark, c.SPLITS, rows))
    queries = [(c.PLAYLIST, "9"), (c.PLAYLIST, "8"), (c.PLAYLIST, "7"), (c.USER, "9")]
    lists = [
        {c.QUERY_KIND: kind, c.QUERY_ID: query, c.RUN_ID: "score", c.ITEM_ID: "a", c.RANK: 1}
        for kind, query in queries
    ]
    lake.merge_new(c.RECOMMENDATIONS, frame(spark, c.RECOMMENDATIONS, lists))

    assert erasure.rows(lake, USER) == {c.SPLITS: 3, c.RECOMMENDATIONS: 1}
    erasure.erase(lake, USER, [c.RECOMMENDATIONS])
    left = lake.read(c.RECOMMENDATIONS).select(c.QUERY_KIND, c.QUERY_ID).collect()
    assert {tuple(row) for row in left} == set(queries[1:])
    # What says whose the playlists are goes after all that is theirs
    tables = list(erasure.COLUMNS)
    of_queries = [table for table, column in erasure.COLUMNS.items() if column == c.QUERY_ID]
    assert max(map(tables.index, of_queries)) < tables.index(c.SPLITS)
