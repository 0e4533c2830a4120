"""`recsys-spark init`: what is there is opened, looked at, and drafted; the draft reads it all."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console

from recsys_spark.commands import init
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.drafts import times
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import steps
from recsys_spark.stages import ingest
from tests.rawsets import context

NOW = 1_800_000_000.0
START = 1_767_225_600
ROWS = [(f"u{n % 9}", f"{n % 13:03d}", START + 60 * n, 1 + n % 5) for n in range(120)]
SCHEMA = "customer string, sku string, at long, stars int"


def read(spark: SparkSession, lake: Lake, where: str, out: Path) -> tuple[init.Look, int]:
    """(what was seen, events that the drafted ingest step reads)."""
    seen = init.look(spark, where, {}, NOW)
    _, drafted = steps.load(init.write(seen, out))
    job = drafted["ingest"].job
    assert isinstance(job, ingest.Job)
    ingest.run(context(lake), job)
    return seen, lake.read("interactions").count()


@pytest.mark.parametrize("form", ["parquet", "delta", "json", "csv"])
def test_a_draft_reads_what_was_looked_at(
    spark: SparkSession, lake: Lake, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "sold"
    rows = spark.createDataFrame(ROWS, SCHEMA).coalesce(1)
    writer = rows.write.format(form)
    (writer.option("header", True) if form == "csv" else writer).save(str(folder))
    seen, events = read(spark, lake, str(folder), tmp_path / "shop.yaml")
    assert {role: guess.column.name for role, guess in seen.roles.items()} == {
        "user_id": "customer",
        "item_id": "sku",
        "ts": "at",
        "value": "stars",
    }
    assert events == seen.profile.events == seen.total == len(ROWS)
    ids = {row.item_id for row in lake.read("interactions").collect()}
    assert ids == {sku for _, sku, _, _ in ROWS}, "zeros in front stay"


def test_text_without_a_header(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text("".join(f"{u}::{i}::{v}::{t}\n" for u, i, t, v in ROWS))
    seen, events = read(spark, lake, str(path), tmp_path / "r.yaml")
    assert seen.place["separator"] == "::" and events == len(ROWS)
    out = io.StringIO()
    init.show(Console(file=out, width=160), seen)
    for text in ("column_1", "user_id, by its values", "9, with", "all rows"):
        assert text in out.getvalue()


def test_what_cannot_be_looked_at_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere_at_all: found neither a file.* nor a table"):
        init.look(spark, "nowhere_at_all", {}, NOW)
    (tmp_path / "a.csv").write_text("".join(f"me,{n % 3},{START + n}\n" for n in range(9)))
    with pytest.raises(DataError, match="found events of one user"):
        init.look(spark, str(tmp_path / "a.csv"), {"user_id": "column_1"}, NOW)
    (tmp_path / "b.csv").write_text("just one column\n" * 5 + "one\n")
    with pytest.raises(DataError, match=r"expected lines parted alike by one of '::'"):
        init.look(spark, str(tmp_path / "b.csv"), {}, NOW)


@pytest.mark.parametrize(
    ("query", "events"),
    [
        # A list for each user, as a table or text has it
        ("SELECT user, explode(split(items, ' ')) AS item FROM {view}", 18),
        # No times: what is told apart by user and item alone is added up
        (
            "SELECT user, item, 40 AS plays FROM {view} LATERAL VIEW "
            "explode(array(1, 1, 2)) AS item",
            12,
        ),
    ],
)
def test_a_query(spark: SparkSession, lake: Lake, tmp_path: Path, query: str, events: int) -> None:
    rows = [(f"u{n}", f"i{n % 3} i{(n + 1) % 3} j") for n in range(6)]
    spark.createDataFrame(rows, "user string, items string").createOrReplaceTempView("lists")
    seen, count = read(spark, lake, query.format(view="lists"), tmp_path / "lists.yaml")
    assert count == events and seen.looked.rows == 18
    assert {row.ts for row in lake.read("interactions").collect()} == {0}
    if events == 12:
        assert {row.value for row in lake.read("interactions").collect()} == {40.0, 80.0}


def test_times_written_otherwise_are_read_as_spark_reads_them(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    """One file for each way: the instants of the sample are those of the table."""
    ats = pd.to_datetime([START + 90_000 * n for n in range(24)], unit="s", utc=True)
    rows = {f"at{n}": ats.strftime(way.strptime) for n, way in enumerate(times.WAYS)}
    written = spark.createDataFrame(pd.DataFrame(rows))
    read = written.select(
        *(
            F.unix_seconds(F.expr(way.sql(f"at{n}")).cast("timestamp")).alias(f"at{n}")
            for n, way in enumerate(times.WAYS)
        )
    ).toPandas()
    for n, way in enumerate(times.WAYS):
        expected = times.seconds(pd.Series(rows[f"at{n}"]), way)
        assert read[f"at{n}"].tolist() == expected.tolist(), way.pattern
    lines = [f"u{n % 4}\ti{n % 3}\t{at}\n" for n, at in enumerate(rows["at0"])]
    (tmp_path / "shown.tsv").write_text("".join(lines))
    init.write(init.look(spark, str(tmp_path / "shown.tsv"), {}, NOW), tmp_path / "shown.yaml")
    _, drafted = steps.load(tmp_path / "shown.yaml")
    ingest.run(context(lake), drafted["ingest"].job)
    assert sorted(row.ts for row in lake.read("interactions").collect()) == [
        START + 90_000 * n for n in range(24)
    ]


def test_a_file_of_that_name_stays(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"u{n % 4},i{n % 3},{START + n}\n" for n in range(24)))
    (tmp_path / "mine.yaml").write_text("mine")
    seen = init.look(spark, str(tmp_path / "a.csv"), {}, NOW)
    with pytest.raises(ConfigError, match="a file that is there already.*-o"):
        init.write(seen, tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == "mine"
