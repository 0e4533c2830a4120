"""Published lists in Parquet, SQLite and a real PostgreSQL: whole, written twice, never half."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Context, Env, Outcome
from recsys_spark.stages import export_lists, publish
from tests import postgres

Lists = dict[str, list[str]]
FIRST: Lists = {"42": ["b1", "b2"], "007": ["b2", "b3"], "zoë 'x'": ["b1", "b3"]}
SECOND: Lists = {"42": ["b9", "b2"], "8": ["b4", "b5"]}


class Shop:
    """A lake in which lists are published, and the steps that export them."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        self.published: Run | None = None

    def publish(self, lists: Lists, name: str = "default") -> None:
        rows = [
            (query, "user", item, 1.0 / rank + 0.1, rank, "score-1", "ease", None)
            for query, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        spark = self.lake.spark
        frame = spark.createDataFrame(
            rows,
            "query_id string, query_kind string, item_id string, score float, rank int, "
            "run_id string, model string, scored_at timestamp",
        )
        generation, version = publish.switch(self.lake, frame, name, now=1e9 + len(rows))
        self.published = Run.model_construct(
            run_id=f"publish-{generation}",
            output_versions={c.CURRENT: version},
            summary={"name": name, "generation": generation, "rows": len(rows)},
        )

    def export(self, run_id: str = "export_shop_now-0a1b2c3d4e", **place: Any) -> Outcome:
        assert self.published is not None
        context = Context(
            spark=self.lake.spark,
            lake=self.lake,
            env=Env(lake=self.lake.root, runs=str(self.folder)),
            pipeline="shop",
            step="export_shop_now",
            run_id=run_id,
            run_dir=self.folder,
            inputs={"publish_now": self.published},
            seed=1,
            now=0.0,
        )
        return export_lists.run(context, export_lists.Job(of="publish_now", **place))


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


def parquet_lists(spark: SparkSession, folder: Path) -> Lists:
    pointer = json.loads((folder / "current.json").read_text())
    rows = spark.read.parquet(str(folder / pointer["folder"]))
    assert rows.count() == pointer["rows"]
    return _by_query(rows.orderBy(c.RANK).select(c.QUERY_ID, c.ITEM_ID).collect())


def sqlite_lists(file: Path, name: str = "default") -> Lists:
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT query_id, items FROM lists WHERE name = ?", (name,))
        return {query: [item for item, _ in json.loads(items)] for query, items in rows}


def _by_query(rows: list[Any]) -> Lists:
    lists: Lists = {}
    for query, item in rows:
        lists.setdefault(query, []).append(item)
    return lists


def test_parquet_has_one_whole_generation_behind_a_pointer(shop: Shop, tmp_path: Path) -> None:
    place = {"path": str(tmp_path / "lists")}
    root, spark = tmp_path / "lists" / "default", shop.lake.spark
    shop.publish(FIRST)
    for _ in range(2):
        outcome = shop.export(parquet=place)
        assert parquet_lists(spark, root) == FIRST
    assert outcome.summary["generation"] == 1 and outcome.summary["rows"] == 6
    shop.publish(SECOND)
    shop.export(parquet=place)
    assert parquet_lists(spark, root) == SECOND
    assert (root / "generation=1").exists(), "who is still reading it reads on"
    shop.publish(FIRST)
    shop.export(parquet=place)
    assert sorted(path.name for path in root.glob("gen*")) == ["generation=2", "generation=3"]


def test_a_killed_parquet_export_leaves_the_generation_before(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"path": str(tmp_path / "lists")}
    shop.publish(FIRST)
    shop.export(parquet=place)
    shop.publish(SECOND)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_lists.parquet.json, "dump", die)
        with pytest.raises(KeyboardInterrupt):
            shop.export(parquet=place)
    root, spark = tmp_path / "lists" / "default", shop.lake.spark
    assert parquet_lists(spark, root) == FIRST
    shop.export(parquet=place)
    assert parquet_lists(spark, root) == SECOND


def test_sqlite_is_looked_up_by_one_key(shop: Shop, tmp_path: Path) -> None:
    place = {"path": str(tmp_path / "new folder" / "lists.sqlite")}
    file = Path(place["path"])
    shop.publish(FIRST)
    for _ in range(2):
        shop.export(sqlite=place)
        assert sqlite_lists(file) == FIRST
    shop.publish({"1": ["b7"]}, name="mail")
    shop.export(sqlite=place)
    shop.publish(SECOND)
    shop.export(sqlite=place)
    assert sqlite_lists(file) == SECOND and sqlite_lists(file, "mail") == {"1": ["b7"]}
    with sqlite3.connect(file) as connection:
        query = "SELECT items FROM lists WHERE name = 'default' AND query_kind = 'user' "
        [[items]] = connection.execute(query + "AND query_id = '42'").fetchall()
        facts = connection.execute("SELECT * FROM generations WHERE name = 'default'").fetchone()
    assert items == '[["b9", 1.1], ["b2", 0.6]]'
    assert facts == ("default", 2, "ease", "score-1", 1e9 + 4)


def test_a_locked_or_foreign_sqlite_file_stays_as_it_is(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lists.sqlite"
    place = {"path": str(file)}
    shop.publish(FIRST)
    shop.export(sqlite=place)
    shop.publish(SECOND)
    monkeypatch.setattr(export_lists.sqlite, "BUSY_S", 0.1)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DataError, match="locked; its lists are as they were"):
        shop.export(sqlite=place)
    other.close()
    assert sqlite_lists(file) == FIRST
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(DataError, match="not a database"):
        shop.export(sqlite={"path": str(text)})
    assert text.read_text().startswith("not a database")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    with postgres.server(tmp_path_factory.mktemp("database")) as running:
        yield running


def database_lists(spark: SparkSession, url: str, table: str) -> Lists:
    rows = spark.read.jdbc(url, table, properties={"user": postgres.USER})
    return _by_query(rows.orderBy(c.RANK).select(c.QUERY_ID, c.ITEM_ID).collect())


def tables(spark: SparkSession, url: str) -> set[str]:
    query = "(SELECT table_name FROM information_schema.tables WHERE table_schema = 'public') t"
    return {row[0] for row in spark.read.jdbc(url, query, properties={"user": "shop"}).collect()}


def test_a_table_of_postgresql_is_switched_in_one_transaction(
    shop: Shop, database: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark, url = shop.lake.spark, database.url
    monkeypatch.setenv("SHOP_PASSWORD", "secret")
    place = {"url": url, "table": "lists", "user": "shop", "password_env": "SHOP_PASSWORD"}
    shop.publish(FIRST)
    for _ in range(2):
        outcome = shop.export(jdbc=place)
        assert database_lists(spark, url, "lists") == FIRST
    assert outcome.summary["to"] == f"{url} lists"
    shop.publish({"1": ["b7"]}, name="mail")
    shop.export(jdbc=place)
    shop.publish(SECOND)
    shop.export(jdbc=place)
    assert database_lists(spark, url, "lists") == SECOND | {"1": ["b7"]}
    assert tables(spark, url) == {"lists"}, "no table beside it stays"


def test_a_database_that_goes_down_in_mid_export_has_its_lists_as_they_were(
    shop: Shop, database: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark, url = shop.lake.spark, database.url
    place = {"url": url, "table": "mid_export", "user": "shop"}
    shop.publish(FIRST)
    shop.export(jdbc=place)
    shop.publish(SECOND)
    switch = export_lists.jdbc._switch

    def after_a_stop(*arguments: Any) -> None:
        database.stop()
        switch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(export_lists.jdbc, "_switch", after_a_stop)
        with pytest.raises(DataError, match="refused.*; its lists are as they were"):
            shop.export(jdbc=place)
    database.start()
    assert database_lists(spark, url, "mid_export") == FIRST
    shop.export(jdbc=place)
    assert database_lists(spark, url, "mid_export") == SECOND
    assert "mid_export_generation_2" not in tables(spark, url)


def test_a_table_with_keys_of_its_own_keeps_them(shop: Shop, database: postgres.Server) -> None:
    spark, url = shop.lake.spark, database.url
    _, connection = export_lists.jdbc._connect(
        spark, {"url": url, "dbtable": "keyed", "user": "shop"}
    )
    connection.createStatement().executeUpdate(
        "CREATE TABLE keyed (name varchar(40), query_kind varchar(10), query_id varchar(5), "
        "item_id text, score real, rank int, model text, run_id text, generation bigint, "
        "published_at timestamp, PRIMARY KEY (name, query_kind, query_id, rank))"
    )
    connection.close()
    shop.publish(SECOND)
    shop.export(jdbc={"url": url, "table": "keyed", "user": "shop"})
    assert database_lists(spark, url, "keyed") == SECOND
    shop.publish(FIRST)  # zoë 'x' has seven characters
    with pytest.raises(DataError, match="too long for type character varying"):
        shop.export(jdbc={"url": url, "table": "keyed", "user": "shop"})
    assert database_lists(spark, url, "keyed") == SECOND


@pytest.mark.parametrize(
    ("place", "error", "problem"),
    [
        (
            {"jdbc": {"url": "jdbc:nowhere://db/shop"}},
            ConfigError,
            "no JDBC driver for it; expected one that Spark can load",
        ),
        (
            {"jdbc": {"url": "jdbc:postgresql://db/shop", "password_env": "NOT_SET_HERE"}},
            ConfigError,
            "password_env: found NOT_SET_HERE, which is not set",
        ),
        (
            {"jdbc": {"url": "jdbc:postgresql://127.0.0.1:1/shop?password=x", "user": "shop"}},
            DataError,
            r"^jdbc:postgresql://127.0.0.1:1/shop, table recommendations: found .*refused",
        ),
    ],
)
def test_mistakes_in_a_line(shop: Shop, place: Any, error: type, problem: str) -> None:
    if error is DataError:
        postgres.require_driver()
    shop.publish(SECOND)
    with pytest.raises(error, match=problem) as raised:
        shop.export(**place)
    assert "password=x" not in str(raised.value)


def test_one_place_a_step_and_no_statement_in_a_name() -> None:
    for fields in ({}, {"parquet": {"path": "a"}, "sqlite": {"path": "b"}}):
        with pytest.raises(ValueError, match="one of parquet, jdbc and sqlite"):
            export_lists.Job(of="publish_now", **fields)
    with pytest.raises(ValueError):
        export_lists.Job(of="p", jdbc={"url": "jdbc:x:y", "table": "lists; DROP TABLE lists"})
