"""Milliseconds to rank one history over 100,000 items, without Spark, on one thread: `load(...)` of
a published folder.

dot: 64 factors with folding in (as ials). sparse: 100 neighbours an item (as item_knn). dae: a
profile network of width 64. Random weights; histories of 50 items; a list of 20. Printed: the
median and the 99th percentile of --queries calls, after ten to warm up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from recsys_spark import load
from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Index
from recsys_spark.core.contracts.index import NormalEquations
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.scoring import serving

ITEMS, DIM, NEIGHBOURS, HISTORY, K = 100_000, 64, 100, 50, 20


def dot(folder: Path, draw: np.random.Generator) -> None:
    table = draw.standard_normal((ITEMS + 1, DIM), np.float32)
    table[0] = 0.0
    np.save(folder / "items.npy", table)
    np.save(folder / "gram.npy", (table.T @ table).astype(np.float64))
    equations = NormalEquations(
        unobserved=0.01, observed=1.0, pull=1.0, reg=1.0, exponent=0.0, offset=0.0
    )
    facts = {"items": "items.npy", "gram": "gram.npy", "fold_in": equations, "queries": "queries"}
    index = Index(kind="dot", model="ials", num_items=ITEMS, dim=DIM, **facts)
    artifacts.write_model(folder / "index.json", index)


def sparse(folder: Path, draw: np.random.Generator) -> None:
    indptr = np.concatenate(([0, 0], np.arange(1, ITEMS + 1) * NEIGHBOURS)).astype(np.int64)
    # A stride makes a row's neighbours different
    first = draw.integers(0, ITEMS, (ITEMS, 1))
    columns = np.sort((first + np.arange(NEIGHBOURS) * 997) % ITEMS + 1, axis=1)
    np.save(folder / "indptr.npy", indptr)
    np.save(folder / "indices.npy", columns.astype(np.int32).reshape(-1))
    np.save(folder / "data.npy", draw.random(ITEMS * NEIGHBOURS, np.float32))
    files = {"indptr": "indptr.npy", "indices": "indices.npy", "data": "data.npy"}
    index = Index(kind="sparse", model="item_knn", num_items=ITEMS, num_rows=ITEMS, **files)
    artifacts.write_model(folder / "index.json", index)


def dae(folder: Path, draw: np.random.Generator) -> None:
    model = registry.build("multi_dae", {"hidden_dim": DIM}, Sizes(1, ITEMS), seed=1)
    store.save(folder, model, "multi_dae")


def measure(folder: Path, queries: int, draw: np.random.Generator) -> dict[str, float]:
    recommender = load(folder, threads=1)
    seconds = []
    for number in range(queries + 10):
        history = [str(item) for item in draw.choice(ITEMS, HISTORY, replace=False) + 1]
        began = time.perf_counter()
        ranked = recommender.recommend(history, k=K)
        if number >= 10:
            seconds.append(time.perf_counter() - began)
        assert len(ranked) == K
    p50, p99 = np.percentile(np.array(seconds) * 1000, (50, 99))
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {}
    for kind in (dot, sparse, dae):
        draw = np.random.default_rng(1)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / serving.MODEL).mkdir()
            kind(folder / serving.MODEL, draw)
            numbers = np.arange(1, ITEMS + 1, dtype=np.int32)
            ids = [str(number) for number in numbers]
            facts = {"model": kind.__name__, "run_id": "bench", "seed": 1, "fallback": None}
            serving.write(folder, ids=ids, numbers=numbers, **facts)
            figures[kind.__name__] = measure(folder, options.queries, draw)
            print(kind.__name__, figures[kind.__name__], flush=True)
    if options.json:
        options.json.write_text(json.dumps({"threads": torch.get_num_threads(), **figures}))


if __name__ == "__main__":
    main()
