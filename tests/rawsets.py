"""Small raw sets in MovieLens-1M's format, and what ingest makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import Row

from recsys_spark.core.contracts import Run
from recsys_spark.datasets.files.spec import Dataset
from recsys_spark.etl.raw import gathered, quarantine
from recsys_spark.etl.raw.gathered import Gathered
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Context, Env, Outcome
from recsys_spark.stages import ingest

EPOCH = 978_300_000  # a time in the range of MovieLens-1M


def job(folder: Path, **values: object) -> ingest.Job:
    return ingest.Job.model_validate(
        {"stage": "ingest", "dataset": "ml-1m", "data": str(folder), "expected": "ignore"} | values
    )


def context(lake: Lake, run_id: str = "ingest-1") -> Context:
    place = Path(lake.root).parent / "runs" / run_id
    env = Env(lake=lake.root, runs=str(place.parent))
    return Context(lake.spark, lake, env, "test", "ingest", run_id, place, {}, 1, 1_700_000_000.0)


def completed(run_id: str, stage: str, config: dict[str, Any]) -> Run:
    """A row of `runs` that says no more than this."""
    return Run(
        run_id=run_id,
        pipeline="test",
        step=stage,
        stage=stage,
        key=run_id,
        config=config,
        upstream={},
        input_versions={},
        output_versions={},
        run_dir="",
        code_version="",
        seed=1,
        started_at=0.0,
        ended_at=0.0,
    )


def run(lake: Lake, told: ingest.Job, run_id: str = "ingest-1") -> Outcome:
    return ingest.run(context(lake, run_id), told)


def gathered_from(lake: Lake, dataset: Dataset, folder: Path) -> Gathered:
    return gathered.of_folder(lake.spark, dataset, folder, folder.parent / "runs")


def judge(lake: Lake, told: ingest.Job) -> tuple[dict[str, list[Row]], list[tuple]]:
    """What `run` would publish into an empty lake, {table: rows}, and (file, line, reason, raw) of
    what it would quarantine.
    """
    checked = gathered_from(lake, told.described(), Path(str(told.data))).checked({})
    rejected = quarantine.rejects(checked, run_id="", now=0.0)
    good = {each.table: each.good.collect() for each in checked}
    return good, sorted(
        (row.source_file, row.line, row.reason, row.raw)
        for row in (rejected.collect() if rejected else [])
    )


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by name; `ratings_dat` is ratings.dat, `ratings__2_dat` is ratings-2.dat."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("__", "-").replace("_", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return folder


def small_set(folder: Path, ratings: str) -> Path:
    users = "".join(f"{user}::F::25::4::0{user}000\n" for user in range(1, 4))
    movies = "10::Amélie (2001)::Comedy|Romance\n11::Untitled::\n12::Heat (1995)::Action\n"
    return write(folder, ratings_dat=ratings, users_dat=users, movies_dat=movies)


def plain(events: list[Row]) -> list[tuple]:
    return sorted((row.user_id, row.item_id, row.ts, row.value) for row in events)


def events(lake: Lake) -> list[tuple]:
    return plain(lake.read("interactions").collect())


def quarantined(lake: Lake) -> list[tuple]:
    return sorted(
        (row.source_file, row.line, row.reason, row.raw)
        for row in lake.read("quarantine").collect()
    )


def tables(lake: Lake) -> dict[str, list]:
    return {
        "events": events(lake),
        "quarantine": quarantined(lake),
        "users": sorted(
            (row.user_id, sorted(row.fields.items())) for row in lake.read("users").collect()
        ),
        "items": sorted(
            (row.item_id, row.title, sorted(row.fields.items()))
            for row in lake.read("items").collect()
        ),
    }
