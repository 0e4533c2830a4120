"""A lake made by hand: a split, scored runs, and the context of a stage that measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark.core.contracts import Run
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Context, Env, Outcome
from recsys_spark.stages import evaluate
from tests.spark.prepared import SPLIT_EVENT, of_split

Pair = tuple[int, int]  # user, item
# What a prepare step says of its rule
RULE = {"rule": "leave_last_out", "arguments": {}, "seed": 1}


def run_of(step: str, stage: str, versions: dict[str, int], **more: Any) -> Run:
    plain = {
        "run_id": f"{step}-1",
        "pipeline": "p",
        "step": step,
        "stage": stage,
        "key": step,
        "config": {},
        "upstream": {},
        "input_versions": {},
        "output_versions": versions,
        "run_dir": "",
        "code_version": "0",
        "seed": 5,
        "started_at": 0.0,
        "ended_at": 1.0,
    }
    return Run(**plain | more)


class World:
    """A lake with a split, and what its scored runs said."""

    def __init__(self, spark: SparkSession, lake: Lake, folder: Path) -> None:
        self.spark, self.lake, self.folder, self.inputs = spark, lake, folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def split(
        self, train: list[Pair], test: list[Pair], values: dict[Pair, float] | None = None
    ) -> None:
        """Pairs (user, item); user_id is u<idx>, item_id i<idx>."""
        rows = [
            (
                "s",
                "prepare-1",
                u,
                i,
                f"u{u}",
                f"i{i}",
                100 * u + i,
                (values or {}).get((u, i), 1.0),
                part,
            )
            for part, pairs in (("train", train), ("test", test))
            for u, i in pairs
        ]
        version = self.lake.replace(
            "splits", of_split(self.spark.createDataFrame(rows, SPLIT_EVENT)), {"split": "s"}
        )
        items = sorted({item for _, item in train + test})
        index = self.lake.merge_new(
            "item_index",
            self.spark.createDataFrame([(f"i{i}", i) for i in items], SCHEMAS["item_index"]),
        )
        self.inputs["prepare"] = run_of(
            "prepare",
            "prepare",
            {"splits": version, "item_index": index},
            summary={"split": "s", **RULE},
        )

    def fields(self, users: dict[int, dict[str, str]], items: dict[int, dict[str, str]]) -> None:
        tables = {
            "users": [(f"u{user}", found) for user, found in users.items()],
            "items": [(f"i{item}", f"Title {item}", found) for item, found in items.items()],
        }
        for name, rows in tables.items():
            self.inputs["prepare"].output_versions[name] = self.lake.merge_new(
                name, self.spark.createDataFrame(rows, SCHEMAS[name])
            )

    def lists(
        self,
        model: str,
        lists: dict[int, list[int | tuple[int, float]]],
        step: str = "",
        **more: Any,
    ) -> None:
        """{user: items, best first}; an item may come with its score."""
        step, rows = step or f"score_{model}", []
        for user, items in lists.items():
            for rank, entry in enumerate(items, 1):
                item, score = entry if isinstance(entry, tuple) else (entry, 1.0 / rank)
                rows.append((f"u{user}", "user", f"i{item}", score, rank, f"{step}-1", model, None))
        table = self.spark.createDataFrame(rows, SCHEMAS["recommendations"])
        version = self.lake.replace("recommendations", table, {"run_id": f"{step}-1"})
        self.inputs[step] = run_of(
            step,
            "score",
            {"recommendations": version},
            **{"upstream": {"prepare": "prepare-1"}, "config": {"k": 20}} | more,
        )

    def candidates(
        self, model: str, scores: dict[int, list[tuple[int, float]]], step: str = ""
    ) -> None:
        """{user: [(candidate, score)]}, as `score` leaves them when it ranks candidates alone."""
        entries: dict[int, Any] = {
            user: sorted(found, key=lambda entry: -entry[1]) for user, found in scores.items()
        }
        self.lists(
            model,
            entries,
            step,
            config={"k": max(map(len, entries.values())), "candidates": "drawn"},
        )

    def predictions(
        self,
        model: str,
        predicted: list[tuple[int, int, float]],
        split: str = "s",
        task: str = "rating",
    ) -> None:
        """(user, item, value)."""
        rows = [
            (
                f"score_{model}-1",
                model,
                split,
                task,
                f"u{u}|i{i}|{100 * u + i}",
                f"u{u}",
                f"i{i}",
                0.0,
                value,
            )
            for u, i, value in predicted
        ]
        version = self.lake.replace(
            "predictions",
            self.spark.createDataFrame(rows, SCHEMAS["predictions"]),
            {"run_id": f"score_{model}-1"},
        )
        self.inputs[f"score_{model}"] = run_of(
            f"score_{model}",
            "score",
            {"predictions": version},
            upstream={"prepare": "prepare-1"},
            summary={"task": task},
        )

    def context(self, step: str = "eval") -> Context:
        return Context(
            self.spark,
            self.lake,
            Env(lake=self.lake.root, runs=str(self.folder)),
            "p",
            step,
            f"{step}-1",
            self.folder,
            self.inputs,
            seed=5,
            now=0.0,
        )

    def evaluate(self, **options: Any) -> tuple[Outcome, dict[tuple, Any]]:
        """The outcome, and the rows of `metrics` by (model, metric, k, slice); a sampled ranking's
        model has ` sampled` behind it.
        """
        of = tuple(name for name in self.inputs if name != "prepare")
        outcome = evaluate.run(
            self.context(),
            evaluate.Job(**{"source": "prepare", "of": of, "replicas": 100} | options),
        )
        rows = self.lake.read("metrics", outcome.tables["metrics"]).collect()
        labels = {"sampled_ranking": " sampled"}
        return outcome, {
            (row.model + labels.get(row.task, ""), row.metric, row.k, row.slice): row
            for row in rows
        }
