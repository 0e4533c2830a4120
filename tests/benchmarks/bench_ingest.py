"""Own data of 20 million events, as a user starts it: ingest from a Delta table beside the same
rows as text, again with nothing new, with 1 % more; a dry run of a billion rows; `init`.

    python -m tests.benchmarks.bench_ingest [PART ...] [--rows N] [--keep FOLDER] [--json FILE]

    text, delta   the ingest step, Spark's start included
    again         the same command with nothing new; `start` is a session that does nothing
    more          1 % of rows were added to the table, of which `incremental` reads these alone
    plan          `--dry-run` of a table of 10^9 rows of which there is nothing but Delta's log
    init          a first look at the Delta table, and at the text

CPU time and memory are those of the process tree, as in `bench_pipeline`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.lake.session import session
from recsys_spark.pipeline.context import SparkSettings
from tests.benchmarks import bench_pipeline

USERS, ITEMS = 138_000, 27_000
START, SPAN_S = 1_700_000_000, 86_400 * 365
FILES, FILE_ROWS = 100, 10_000_000  # of the planned table
COLUMNS = {"user_id": "customer", "item_id": "sku", "ts": "at", "value": "stars"}
SCHEMA = "customer bigint, sku string, at bigint, stars int"
IDLE = (
    "from recsys_spark.lake.session import session\n"
    "from recsys_spark.pipeline.context import SparkSettings\n"
    "session(SparkSettings(), 'idle').range(1).count()"
)
Figures = dict[str, Any]


def sold(spark: SparkSession, first: int, rows: int) -> DataFrame:
    """Rows by number: popular items, users of unequal activity, times that grow."""
    draw = [F.pmod(F.xxhash64("id", F.lit(n)), F.lit(1 << 30)) / (1 << 30) for n in range(3)]
    return spark.range(first, first + rows).select(
        F.floor(USERS * draw[0] ** 2).alias("customer"),
        F.concat(F.lit("sku-"), F.floor(ITEMS * draw[1] ** 3)).alias("sku"),
        (F.lit(START) + F.floor(F.col("id") * (SPAN_S / 20_000_000))).alias("at"),
        F.floor(1 + 5 * draw[2]).cast("int").alias("stars"),
    )


def made(folder: Path, rows: int) -> None:
    """The table and the text, where they are not there yet."""
    if (folder / "text" / "_SUCCESS").exists():
        return
    spark = session(SparkSettings(), "bench_ingest")
    sold(spark, 0, rows).repartition(8).write.format("delta").save(str(folder / "delta"))
    read = spark.read.format("delta").load(str(folder / "delta"))
    read.write.option("header", True).csv(str(folder / "text"))
    spark.stop()


def pipeline(folder: Path, name: str, interactions: dict[str, Any]) -> Path:
    """A pipeline of the one step."""
    entry = {"columns": COLUMNS, "unit": "s"} | interactions
    step = {"stage": "ingest", "dataset": "bench", "source": {"interactions": entry}}
    env = {place: f"${{oc.env:RECSYS_OUT,out}}/{name}/{place}" for place in ("lake", "runs")}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "env": env, "steps": {"ingest": step}}))
    return path


def measured(folder: Path, name: str, config: Path) -> Figures:
    return bench_pipeline.measure(name, ["run", str(config)], folder / "out", {})


def text(folder: Path, rows: int) -> Iterator[Figures]:
    config = pipeline(folder, "text", {"files": str(folder / "text")})
    yield measured(folder, "text", config)


def delta(folder: Path, rows: int) -> Iterator[Figures]:
    yield measured(folder, "delta", _delta(folder))


def again(folder: Path, rows: int) -> Iterator[Figures]:
    yield measured(folder, "again", _delta(folder))
    yield bench_pipeline.measure("start", ["-c", IDLE], folder / "out", {}, [sys.executable])


def more(folder: Path, rows: int) -> Iterator[Figures]:
    spark = session(SparkSettings(), "bench_ingest")
    added = sold(spark, rows, rows // 100)
    added.write.format("delta").mode("append").save(str(folder / "delta"))
    spark.stop()
    yield measured(folder, "1 % more", _delta(folder))


def plan(folder: Path, rows: int) -> Iterator[Figures]:
    table = folder / "planned"
    only_a_log(table)
    config = pipeline(folder, "planned", {"table": str(table)})
    arguments = ["run", str(config), "--dry-run"]
    yield bench_pipeline.measure("plan of 10^9 rows", arguments, folder / "out", {})


def init(folder: Path, rows: int) -> Iterator[Figures]:
    for form in ("delta", "text"):
        draft = folder / f"draft-{form}.yaml"
        draft.unlink(missing_ok=True)
        arguments = ["init", str(folder / form), "-o", str(draft)]
        yield bench_pipeline.measure(f"init {form}", arguments, folder / "out", {})


PARTS: dict[str, Callable[[Path, int], Iterator[Figures]]] = {
    "text": text,
    "delta": delta,
    "again": again,
    "more": more,
    "plan": plan,
    "init": init,
}


def only_a_log(table: Path) -> None:
    """A Delta table of FILES * FILE_ROWS rows whose files are named by its log and are not there:
    who reads one fails.
    """
    fields = [
        {"name": name, "type": {"bigint": "long", "int": "integer"}.get(kind, kind)}
        | {"nullable": True, "metadata": {}}
        for name, kind in (column.split() for column in SCHEMA.split(", "))
    ]
    actions: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": "bench-ingest",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": fields}),
                "partitionColumns": [],
                "configuration": {},
                "createdTime": START * 1000,
            }
        },
    ]
    actions += [
        {
            "add": {
                "path": f"part-{number:05d}.parquet",
                "partitionValues": {},
                "size": 10 * FILE_ROWS,
                "modificationTime": START * 1000,
                "dataChange": True,
                "stats": json.dumps({"numRecords": FILE_ROWS}),
            }
        }
        for number in range(FILES)
    ]
    (table / "_delta_log").mkdir(parents=True, exist_ok=True)
    log = table / "_delta_log" / f"{0:020d}.json"
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))


def _delta(folder: Path) -> Path:
    return pipeline(folder, "delta", {"table": str(folder / "delta"), "incremental": True})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--keep", type=Path, help="a folder for the data, which stays")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        made(folder, given.rows)
        for part in given.parts:
            for figures in PARTS[part](folder, given.rows):
                results.append(figures)
                print(
                    f"{figures['name']:<20} {figures['seconds']:>7} s   CPU {figures['cpu_s']:>7} s"
                    f"   peak {figures['peak_bytes'] / 2**30:.2f} GB",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
