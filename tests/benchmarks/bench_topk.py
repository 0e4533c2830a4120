"""Top 10 of every user: the arithmetic alone, and from factors to a committed Delta table, beside
Spark's `recommendForAllUsers`.

`large` 100,000 users x 100,000 items, `ml-1m` its 6,040 x 3,706; 64 normal factors. Our job is the
score stage as the pipeline runs it: it also reads the users' events, and leaves them out, which
Spark's method cannot do. Both end in the same rows of `recommendations`, with raw ids. Spark's is
given as many users as take about --spark-seconds, ours all. One run each of `large`, the median of
three of `ml-1m`. `python -m tests.benchmarks.bench_topk --help`
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from py4j.protocol import Py4JJavaError
from pyspark.ml.recommendation import ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import artifact
from recsys_spark.batches.base import Ragged
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.lake.session import session
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Context, Env, SparkSettings
from recsys_spark.scoring.dot import DotIndex
from recsys_spark.scoring.topk import top_k
from recsys_spark.stages import score
from tests.spark.prepared import of_split

K, DIM = 10, 64
# Users, items, seen items of a user
CASES = {
    "large": (100_000, 100_000, 20),
    "ml-1m": (6_040, 3_706, 165),
}


class World:
    """Factors and seen items of one case, as arrays and as the lake and the index that the score
    stage reads.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder / name
        self.users, self.items, self.seen = CASES[name]
        draw = np.random.default_rng(1)
        self.vectors = draw.standard_normal((self.users + 1, DIM), np.float32)
        self.table = draw.standard_normal((self.items + 1, DIM), np.float32)
        self.table[0] = 0.0
        # A stride makes each user's items different
        first = draw.integers(0, self.items, (self.users, 1))
        stride = self.items // self.seen
        self.lists = (first + np.arange(self.seen) * stride) % self.items + 1

    def ragged(self) -> Ragged:
        return Ragged(
            torch.arange(self.users + 1) * self.seen,
            torch.from_numpy(self.lists.astype(np.int32).ravel()),
        )

    def publish(self, spark: SparkSession) -> Lake:
        """splits, user_index, item_index; the index artefact as train_als leaves it."""
        lake, files = Lake(spark, str(self.folder / "lake")), self.folder / "raw"
        files.mkdir(parents=True)
        users, items = (
            np.arange(1, self.users + 1, dtype=np.int32),
            np.arange(1, self.items + 1, dtype=np.int32),
        )
        for name, numbers in (("user", users), ("item", items)):
            pq.write_table(
                pa.table(
                    {f"{name}_id": pa.array(numbers).cast(pa.string()), f"{name}_idx": numbers}
                ),
                files / f"{name}.parquet",
            )
            lake.merge_new(f"{name}_index", spark.read.parquet(str(files / f"{name}.parquet")))
        pairs = pa.table(
            {
                c.QUERY_IDX: np.repeat(users, self.seen),
                c.ITEM_IDX: self.lists.astype(np.int32).ravel(),
            }
        )
        pq.write_table(pairs, files / "events.parquet")
        events = spark.read.parquet(str(files / "events.parquet"))
        lake.replace(
            c.SPLITS,
            of_split(
                events.select(
                    F.lit("s").alias(c.SPLIT),
                    F.lit("p").alias(c.RUN_ID),
                    c.QUERY_IDX,
                    c.ITEM_IDX,
                    F.lit(0).cast("long").alias(c.TS),
                    F.lit(1.0).alias(c.VALUE),
                    F.lit(c.TRAIN).alias(c.PART),
                )
            ),
            {c.SPLIT: "s"},
        )
        write_factors(self.vectors, files / "queries.parquet")
        artifact.write_dot(
            self.folder / "index",
            model="als",
            items=self.table,
            popularity=np.ones(self.items + 1, np.float32),
            queries=spark.read.parquet(str(files / "queries.parquet")),
        )
        return lake

    def context(self, lake: Lake) -> Context:
        tables = {name: lake.version(name) for name in (c.SPLITS, c.USER_INDEX, c.ITEM_INDEX)}
        facts = {
            "split": "s",
            "users": self.users,
            "num_users": self.users,
            "num_items": self.items,
        }
        prepared = _run("p", "prepare", tables, {}, facts, self.folder)
        trained = _run(
            "als", "train_als", tables, {"p": "p"}, {"model": "als", "task": "ranking"}, self.folder
        )
        for run in (prepared, trained):
            lake.add_run(run)
        return Context(
            spark=lake.spark,
            lake=lake,
            env=Env(lake=lake.root, runs=str(self.folder)),
            pipeline="bench",
            step="score",
            run_id="ours",
            run_dir=self.folder,
            inputs={"p": prepared, "als": trained},
            seed=1,
            now=time.time(),
        )


def write_factors(matrix: np.ndarray, path: Path) -> None:
    """Rows 1.. of a matrix as (query_idx, vector)."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[1:].ravel()), matrix.shape[1]).cast(
        pa.list_(pa.float32())
    )
    numbers = np.arange(1, len(matrix), dtype=np.int32)
    pq.write_table(
        pa.table({c.QUERY_IDX: numbers, artifact.VECTOR: vectors}), path, row_group_size=8192
    )


def _run(
    run_id: str,
    stage: str,
    tables: dict[str, int],
    upstream: dict[str, str],
    facts: dict[str, Any],
    folder: Path,
) -> Run:
    return Run(
        run_id=run_id,
        pipeline="bench",
        step=run_id,
        stage=stage,
        key=run_id,
        config={},
        upstream=upstream,
        input_versions={},
        output_versions=tables,
        run_dir=str(folder),
        code_version="",
        seed=1,
        started_at=0.0,
        ended_at=0.0,
        summary=facts,
    )


def arithmetic(world: World) -> list[dict[str, Any]]:
    """Our index and a plain product with topk, both with the seen filter, in this process."""
    vectors, table, seen = (
        torch.from_numpy(world.vectors[1:]),
        torch.from_numpy(world.table),
        world.ragged(),
    )
    index, query = DotIndex(table), torch.arange(1, world.users + 1)

    def ours(users: int) -> Any:
        return index.top_k(vectors[:users], query[:users], _rows(seen, 0, users), K, seed=1)

    def plain(users: int) -> Any:
        block = max(64, min(1024, (64 << 20) // world.items))
        ends = [(start, min(users, start + block)) for start in range(0, users, block)]
        return [
            top_k(
                vectors[start:end] @ table.T, query[start:end], _rows(seen, start, end), K, seed=1
            )
            for start, end in ends
        ]

    users = min(world.users, 20_000)
    with torch.inference_mode():
        return [
            {
                "case": world.name,
                "what": f"arithmetic, {name}",
                "threads": torch.get_num_threads(),
                "users": users,
                **_rates(partial(run, users), users, 3),
            }
            for name, run in (("ours", ours), ("plain product", plain))
        ]


def _rows(seen: Ragged, start: int, end: int) -> Ragged:
    offsets = seen.offsets[start : end + 1]
    return Ragged(offsets - offsets[0], seen.values[offsets[0] : offsets[-1]])


def ours_job(world: World, lake: Lake, repeats: int) -> dict[str, Any]:
    ctx = world.context(lake)
    job = score.Job(model="als", source="p", k=K)
    rates = _rates(lambda: score.run(ctx, job), world.users, repeats)
    rows = lake.read(c.RECOMMENDATIONS).where(F.col(c.RUN_ID) == "ours").count()
    assert rows == world.users * K, f"{rows} rows"
    return {
        "case": world.name,
        "what": "factors to Delta, ours",
        "users": world.users,
        "seen_left_out": True,
        **rates,
    }


def spark_job(world: World, lake: Lake, seconds: float, repeats: int) -> dict[str, Any]:
    """recommendForAllUsers, then the same rows of the same table."""
    spark = lake.spark
    write_factors(world.table, world.folder / "raw" / "items.parquet")
    named = [F.col(c.QUERY_IDX).alias("id"), F.col(artifact.VECTOR).alias("features")]
    vectors, items = (
        spark.read.parquet(str(world.folder / "raw" / f"{name}.parquet")).select(*named)
        for name in ("queries", "items")
    )
    blocks = spark.sparkContext.defaultParallelism * 2

    def run(users: int) -> None:
        some = vectors.where(F.col("id") <= users).repartition(blocks)
        java = spark.sparkContext._jvm.org.apache.spark.ml.recommendation.ALSModel(
            "bench", DIM, some._jdf, items.repartition(blocks)._jdf
        )
        java.setUserCol(c.QUERY_IDX).setItemCol(c.ITEM_IDX).setPredictionCol("rating")
        lists = (
            ALSModel(java)
            .recommendForAllUsers(K)
            .select(c.QUERY_IDX, F.posexplode("recommendations").alias("place", "entry"))
        )
        rows = lists.select(
            c.QUERY_IDX,
            "place",
            F.col("entry")[c.ITEM_IDX].alias(c.ITEM_IDX),
            F.col("entry")["rating"].alias(c.SCORE),
        )
        rows = rows.join(lake.read(c.ITEM_INDEX), on=c.ITEM_IDX, how="inner").join(
            lake.read(c.USER_INDEX).toDF(c.QUERY_ID, c.QUERY_IDX), on=c.QUERY_IDX, how="inner"
        )
        lake.replace(c.RECOMMENDATIONS, _as_recommendations(rows), {c.RUN_ID: "spark"})

    users = world.users
    if repeats == 1:
        probe = max(500, users // 50)
        run(probe)
        began = time.perf_counter()
        run(probe)
        users = min(users, max(probe, int(probe * seconds / (time.perf_counter() - began))))
    rates = _rates(lambda: run(users), users, repeats)
    return {
        "case": world.name,
        "what": "factors to Delta, recommendForAllUsers",
        "users": users,
        "seen_left_out": False,
        "native_blas": native_blas(spark),
        **rates,
    }


def _as_recommendations(rows: DataFrame) -> DataFrame:
    return rows.select(
        c.QUERY_ID,
        F.lit("user").alias(c.QUERY_KIND),
        c.ITEM_ID,
        c.SCORE,
        (F.col("place") + 1).alias(c.RANK),
        F.lit("spark").alias(c.RUN_ID),
        F.lit("als").alias(c.MODEL),
        F.current_timestamp().alias(c.SCORED_AT),
    )


def native_blas(spark: SparkSession) -> bool:
    """Whether Spark's block products run on a native library; else they run in the JVM."""
    found = spark.sparkContext._jvm.dev.ludovic.netlib.blas.NativeBLAS
    try:
        return found.getInstance() is not None
    except Py4JJavaError:  # no libblas
        return False


def _rates(run: Callable[[], Any], users: int, repeats: int) -> dict[str, Any]:
    if repeats > 1:
        run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    middle = statistics.median(times)
    return {
        "users_per_s": round(users / middle),
        "seconds": round(middle, 2),
        "spread": [round(users / max(times)), round(users / min(times))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--what", nargs="*", choices=["arithmetic", "jobs"], default=["arithmetic", "jobs"]
    )
    parser.add_argument("--spark-seconds", type=float, default=90.0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []

    def add(*found: dict[str, Any]) -> None:
        for one in found:
            results.append(one)
            print(json.dumps(one), flush=True)

    with tempfile.TemporaryDirectory(prefix="recsys-bench-topk") as folder:
        worlds = [World(name, Path(folder)) for name in given.cases]
        if "arithmetic" in given.what:
            for world in worlds:
                add(*arithmetic(world))
        if "jobs" in given.what:
            spark = session(SparkSettings(driver_memory="4g"), "bench_topk")
            for world in worlds:
                lake, repeats = world.publish(spark), 1 if world.name == "large" else 3
                one, other = (
                    ours_job(world, lake, repeats),
                    spark_job(world, lake, given.spark_seconds, repeats),
                )
                add(
                    one,
                    other,
                    {
                        "case": world.name,
                        "what": "ours / recommendForAllUsers",
                        "ratio": round(one["users_per_s"] / other["users_per_s"], 2),
                    },
                )
            spark.stop()
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
