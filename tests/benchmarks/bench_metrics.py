"""Ranking metrics of 500,000 users with 20 recommendations each, at 4 cut-offs: users per second,
beside other implementations.

    python -m tests.benchmarks.bench_metrics [--users 500000] [--json FILE]

Each user has 1 to 10 relevant items of 100,000, about half of them among the 20. `users_per_s` is
of the metric call alone; `with_convert_per_s` adds the time from plain columns (user, item, rank)
to what the implementation takes. Every implementation gets all the cut-offs in one call and the
metrics that it has of ours (`metrics`); its means must be ours, except those in `differs`: other
definitions, said there. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.metrics import ranking

KS, DEPTH, ITEMS, MOST = (5, 10, 15, 20), 20, 100_000, 10
Columns = tuple[np.ndarray, np.ndarray]  # user, item


def world(users: int) -> tuple[Columns, Columns]:
    """Recommendations in order of (user, rank), and relevant pairs in order of user; a user's items
    are different.
    """
    draw = np.random.default_rng(1)
    first, stride = draw.integers(0, ITEMS, users), draw.integers(1, ITEMS // (2 * DEPTH), users)
    recommended = (first[:, None] + stride[:, None] * np.arange(DEPTH)) % ITEMS + 1
    places = np.argsort(draw.random((users, 2 * DEPTH), np.float32), axis=1)[:, :MOST]
    relevant = (first[:, None] + stride[:, None] * places) % ITEMS + 1
    kept = np.arange(MOST) < draw.integers(1, MOST + 1, users)[:, None]
    who = np.broadcast_to(np.arange(users)[:, None], kept.shape)
    return (np.repeat(np.arange(users), DEPTH), recommended.astype(np.int32).ravel()), (
        who[kept],
        relevant[kept].astype(np.int32),
    )


def ours(threads: int) -> tuple[Callable, Callable]:
    def convert(recommended: Columns, relevant: Columns) -> tuple:
        users = int(recommended[0][-1]) + 1
        ends = np.concatenate([[0], np.cumsum(np.bincount(relevant[0], minlength=users))])
        return recommended[1].reshape(users, DEPTH), ends, relevant[1]

    def compute(items: np.ndarray, indptr: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        values = ranking.from_lists(items, indptr, targets, KS, threads=threads)
        return {name: float(value.mean()) for name, value in values.items()}

    return convert, compute


def plain() -> tuple[Callable, Callable]:
    """What one would write with numpy alone: keys of pairs, a sorted search, cumulated sums over
    whole matrices.
    """

    def compute(recommended: Columns, relevant: Columns) -> dict[str, float]:
        users = int(recommended[0][-1]) + 1
        wanted = np.sort(relevant[0] * np.int64(ITEMS + 1) + relevant[1])
        keys = recommended[0] * np.int64(ITEMS + 1) + recommended[1]
        found = wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys
        hits = found.reshape(users, DEPTH).astype(np.float64)
        sizes = np.bincount(relevant[0], minlength=users)
        ranks = np.arange(1, DEPTH + 1)
        discounts = 1 / np.log2(ranks + 1)
        ideal, count = np.cumsum(discounts), hits.cumsum(axis=1)
        gain, precision = (hits * discounts).cumsum(axis=1), (hits * count / ranks).cumsum(axis=1)
        first = np.maximum.accumulate(hits / ranks, axis=1)
        made = {}
        for k in KS:
            best = np.minimum(sizes, k)
            of = {
                "recall": count[:, k - 1] / sizes,
                "recall_capped": count[:, k - 1] / best,
                "precision": count[:, k - 1] / k,
                "hit_rate": count[:, k - 1] > 0,
                "mrr": first[:, k - 1],
                "map": precision[:, k - 1] / best,
                "ndcg": gain[:, k - 1] / ideal[best - 1],
            }
            made |= {f"{name}@{k}": float(value.mean()) for name, value in of.items()}
        return made

    return lambda recommended, relevant: (recommended, relevant), compute


def ranx() -> tuple[Callable, Callable]:
    from ranx import Qrels, Run, evaluate

    names = {
        "recall": "recall",
        "precision": "precision",
        "hit_rate": "hit_rate",
        "mrr": "mrr",
        "map": "map",
        "ndcg": "ndcg",
    }

    def convert(recommended: Columns, relevant: Columns) -> tuple:
        import pandas as pd

        def frame(columns: Columns, score: np.ndarray) -> Any:
            made = pd.DataFrame(
                {"q": columns[0].astype(str), "d": columns[1].astype(str), "s": score}
            )
            return made.astype({"q": object, "d": object})

        keys = {"q_id_col": "q", "doc_id_col": "d", "score_col": "s"}
        scores = np.tile(np.linspace(1, 0.05, DEPTH), len(recommended[0]) // DEPTH)
        return Qrels.from_df(frame(relevant, np.ones(len(relevant[0]), int)), **keys), Run.from_df(
            frame(recommended, scores), **keys
        )

    def compute(qrels: Any, run: Any) -> dict[str, float]:
        found = evaluate(
            qrels,
            run,
            [f"{theirs}@{k}" for k in KS for theirs in names.values()],
            make_comparable=False,
        )
        return {
            f"{our}@{k}": float(found[f"{theirs}@{k}"]) for k in KS for our, theirs in names.items()
        }

    return convert, compute


def rectools() -> tuple[Callable, Callable]:
    from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall, calc_metrics

    of = {
        "recall": Recall,
        "precision": Precision,
        "hit_rate": HitRate,
        "mrr": MRR,
        "map": MAP,
        "ndcg": lambda k: NDCG(k, divide_by_achievable=True),
    }
    metrics = {f"{name}@{k}": make(k) for k in KS for name, make in of.items()}

    def convert(recommended: Columns, relevant: Columns) -> tuple:
        import pandas as pd

        ranks = np.tile(np.arange(1, DEPTH + 1), len(recommended[0]) // DEPTH)
        return (
            pd.DataFrame({"user_id": recommended[0], "item_id": recommended[1], "rank": ranks}),
            pd.DataFrame({"user_id": relevant[0], "item_id": relevant[1]}),
        )

    return convert, lambda reco, interactions: calc_metrics(
        metrics, reco=reco, interactions=interactions
    )


def replay() -> tuple[Callable, Callable]:
    from replay.metrics import MAP, MRR, NDCG, HitRate, OfflineMetrics, Precision, Recall

    of = {
        "recall": Recall,
        "precision": Precision,
        "hit_rate": HitRate,
        "mrr": MRR,
        "map": MAP,
        "ndcg": NDCG,
    }
    metrics = OfflineMetrics(
        [make(list(KS)) for make in of.values()],
        query_column="user",
        item_column="item",
        rating_column="score",
    )
    theirs = {"HitRate": "hit_rate"}

    def convert(recommended: Columns, relevant: Columns) -> tuple:
        import polars

        scores = np.tile(np.linspace(1, 0.05, DEPTH), len(recommended[0]) // DEPTH)
        return (
            polars.DataFrame({"user": recommended[0], "item": recommended[1], "score": scores}),
            polars.DataFrame({"user": relevant[0], "item": relevant[1]}),
        )

    def compute(lists: Any, truth: Any) -> dict[str, float]:
        found = metrics(lists, truth)
        renamed = {}
        for name, value in found.items():
            metric, _, k = name.partition("@")
            renamed[f"{theirs.get(metric, metric.lower())}@{k}"] = value
        return renamed

    return convert, compute


def implementations() -> Iterator[tuple[str, Callable[[], tuple[Callable, Callable]], int, bool]]:
    """(name, what makes it, threads, whether the large world is worth waiting for more than
    once).
    """
    cores = os.cpu_count() or 1
    yield "ours", lambda: ours(cores), cores, True
    yield "ours", lambda: ours(1), 1, True
    yield "plain numpy", plain, 1, True
    for package, make in (("ranx", ranx), ("rectools", rectools), ("replay", replay)):
        if find_spec(package):
            yield package, make, cores, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    columns = world(given.users)
    results: list[dict[str, Any]] = []
    reference: dict[str, float] = {}
    for name, make, threads, several in implementations():
        convert, compute = make()
        began = time.perf_counter()
        prepared = convert(*columns)
        convert_s, times, found = time.perf_counter() - began, [], {}
        for _ in range(given.repeats if several else 1):
            began = time.perf_counter()
            found = compute(*prepared)
            times.append(time.perf_counter() - began)
        reference = reference or found
        differs = sorted(
            metric
            for metric in found
            if not math.isclose(found[metric], reference[metric], rel_tol=1e-9)
        )
        seconds = statistics.median(times)
        results.append(
            {
                "what": name,
                "threads": threads,
                "users": given.users,
                "users_per_s": round(given.users / seconds),
                "spread": [round(given.users / max(times)), round(given.users / min(times))],
                "with_convert_per_s": round(given.users / (seconds + convert_s)),
                "metrics": len(found),
                "differs": differs,
            }
        )
        print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
