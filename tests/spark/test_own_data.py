"""docs/own-data.md, block by block: a pipeline on files, tables and JSON lines of a shop, up to its
lists and its report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.lake.tables import Lake
from tests.spark.typed import ROOT, Shell

BLOCKS = re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8"), flags=re.S
)


@pytest.fixture(scope="module")
def shell(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    typed = Shell(spark, tmp_path_factory.mktemp("own"))
    shop(spark, typed.data / "shop", typed.data / "ml-1m" / "ratings.dat")
    yield typed
    typed.close()


def shop(spark: SparkSession, folder: Path, ratings: Path) -> None:
    """The events of a shop in three forms, its customers and its catalogue."""
    rows = [list(map(int, line.split("::"))) for line in ratings.read_text().splitlines()]
    events = spark.createDataFrame(
        [
            (user, f"{item:05}", at, stars, f"v{at // 86400}", "buy" if stars > 3 else "view", "x")
            for user, item, stars, at in rows
        ],
        "customer long, sku string, at long, stars int, visit string, kind string, store string",
    )
    bought = events.withColumn("purchased_at", F.timestamp_seconds("at")).drop("at").coalesce(2)
    bought.write.partitionBy("store").parquet(str(folder / "events"))
    bought.write.format("delta").save(str(folder / "events_delta"))
    at = F.date_format(F.timestamp_seconds("at"), "yyyy-MM-dd HH:mm:ss")
    lines = events.select(F.to_json(F.struct("customer", "sku", "stars", at.alias("at"))))
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for (line,) in lines.collect()))
    users = sorted({user for user, *_ in rows})
    (folder / "customers.csv").write_text(
        "id,age,country\n" + "".join(f"{user},{20 + user % 50},DE\n" for user in users)
    )
    items = sorted({item for _, item, *_ in rows})
    spark.createDataFrame(
        [(f"{item:05}", f"Lamp [no] {item}", "light home", 9.5) for item in items],
        "sku string, name string, tags string, price double",
    ).coalesce(1).write.parquet(str(folder / "catalogue"))


def written(shell: Shell, block: int) -> str:
    """The pipeline of the first block with the step `ingest` of this one; its name."""
    place = str(shell.data / "shop")
    pipeline = yaml.safe_load(BLOCKS[0])
    step = yaml.safe_load(BLOCKS[block].replace("/data/shop", place))
    pipeline["name"] = f"shop{block}"
    pipeline["steps"] |= step
    (shell.clone / f"shop{block}.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return f"shop{block}"


def test_a_parquet_folder(spark: SparkSession, shell: Shell) -> None:
    name = written(shell, 1)
    planned = shell.run(f"recsys-spark run {name}.yaml --dry-run --step ingest")
    lines = (shell.data / "ml-1m" / "ratings.dat").read_text().splitlines()
    assert f"interactions_rows={len(lines)}" in planned
    shell.run(f"recsys-spark run {name}.yaml --step last_out")
    rows = Lake(spark, str(shell.out / name / "lake")).read("interactions")
    first = rows.orderBy("user_id", "ts").first()
    assert first is not None and len(first.item_id) == 5 and first.context == {"store": "x"}
    assert {row.value for row in rows.select("value").distinct().collect()} == {1.0, 2.0}


@pytest.mark.soak
def test_a_delta_table_and_what_comes_to_it(spark: SparkSession, shell: Shell) -> None:
    name = written(shell, 2)
    shell.run(f"recsys-spark run {name}.yaml --step ingest")
    table = str(shell.data / "shop" / "events_delta")
    before = spark.read.format("delta").load(table)
    later = before.limit(5).withColumn("purchased_at", F.expr("purchased_at + INTERVAL 1 YEAR"))
    num_before = before.count()
    later.write.format("delta").mode("append").save(table)
    shell.run(f"recsys-spark run {name}.yaml --step ingest")
    lake = Lake(spark, str(shell.out / name / "lake"))
    last = max(lake.runs(), key=lambda run: run.ended_at)
    assert last.summary["rows"] == {"interactions": 5}
    assert lake.read("interactions").count() == num_before + 5


@pytest.mark.soak
def test_json_lines_with_users_and_items_up_to_the_report(shell: Shell) -> None:
    name = written(shell, 3)
    said = shell.run(f"recsys-spark run {name}.yaml")
    assert "report.html" in said
    shown = shell.run(f"recsys-spark show 1 {name}.yaml")
    assert "Lamp [no]" in shown
    [report] = (shell.out / name / "runs").glob("report-*/report.html")
    assert "Lamp [no]" in report.read_text(encoding="utf-8")
    job = json.loads(next((shell.out / name / "runs").glob("ingest-*/job.json")).read_text())
    assert job["source"]["users"]["keep"] == {"age": "`age`", "country": "`country`"}
