"""Which models of a table cannot be told apart, by the replicas that an evaluate run keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_spark.metrics import paired
from recsys_spark.metrics.intervals import Replicates
from recsys_spark.report import results
from recsys_spark.report.results import Value
from recsys_spark.stages.results import measured
from tests.unit.test_commands import run

RUNS = {"als": 0.30, "ease": 0.31, "popularity": 0.10}


def value(model: str, metric: str, number: float) -> Value:
    ends = (number - 0.1, number + 0.1)  # all overlap, which says nothing
    return Value(f"score_{model}-1", model, "ranking", metric, 10, number, *ends, 50)


def test_the_best_and_its_equals_are_named_metric_by_metric(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    noise = np.r_[0.0, draw.normal(0, 0.05, 1000)]  # of the users, the same in all runs
    own = {model: np.r_[0.0, draw.normal(0, 0.02, 1000)] for model in RUNS}
    replicas = {}
    for model, number in RUNS.items():
        means = np.stack([number + noise + own[model], number + noise], axis=1)
        key = paired.Key(f"score_{model}-1", "ranking", "all")
        replicas[key] = Replicates(("ndcg@10", "recall@10"), means, np.ones_like(means))
    paired.write(tmp_path / paired.FILE, replicas)
    evaluated = run("eval", run_dir=str(tmp_path))
    values = [value(model, name, RUNS[model]) for model in RUNS for name in ("ndcg", "recall")]
    level = measured.level(evaluated, values, "ranking")
    assert level == {
        ("ndcg", 10): {"score_ease-1", "score_als-1"},
        ("recall", 10): {"score_ease-1"},  # .01 apart in every replica
    }
    kept = {key.of_run_id: drawn for key, drawn in replicas.items()}
    [als, popularity] = measured.leads(results.table(values, "ranking"), kept)
    assert als.run_id == "score_als-1" and als.value == pytest.approx(0.01)
    assert als.corrected is not None and als.corrected > 0.05
    assert popularity.corrected is not None and popularity.corrected < 0.01


def test_without_replicas_the_best_stands_alone(tmp_path: Path) -> None:
    evaluated = run("eval", run_dir=str(tmp_path))
    values = [value(model, "ndcg", number) for model, number in RUNS.items()]
    assert measured.level(evaluated, values, "ranking") == {("ndcg", 10): {"score_ease-1"}}
    assert measured.leads(results.table(values, "ranking"), {}) == ()
    assert measured.leads(results.table([], "ranking"), {}) == ()
