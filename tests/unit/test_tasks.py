"""The kinds of task: one row says all that depends on the kind, shown by a toy one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.core.errors import ConfigError
from recsys_spark.metrics import glossary, names, tasks
from recsys_spark.metrics.tasks import RANKING, RATING, TASKS
from recsys_spark.report import results
from recsys_spark.report.results import Value
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.validation import base, by_row
from tests import shardsets, training


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_kind_can_be_trained_measured_and_shown(task: tasks.Task) -> None:
    assert task.main in task.metrics and set(task.columns) <= set(task.metrics)
    assert set(task.metrics) <= set(glossary.METRICS), "every metric has words"
    assert task.title and task.best
    if task.name in tasks.OF_MODELS:
        assert task.monitor("", "train.monitor") == task.monitors[0]
    if task.scored == "rows":
        assert task.errors is not None
        errors = task.errors(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
        assert set(errors) == set(task.monitors)
        assert all(values.shape == (2,) for values in errors.values())


def test_a_metric_of_another_kind_is_refused_with_the_nearest() -> None:
    assert RANKING.monitor("map@50", "train.monitor") == "map@50"
    with pytest.raises(ConfigError, match=r"rmse, mae \(did you mean 'rmse'\?\)|rmse"):
        RATING.monitor("rmsd", "train.monitor")
    with pytest.raises(ConfigError, match="any number of items"):
        RANKING.monitor("ndcg", "train.monitor")
    with pytest.raises(ConfigError, match="search.metric"):
        RATING.monitor("ndcg@10", "search.metric")


def test_sources_of_candidates_have_their_kind() -> None:
    among = {
        source: tasks.of_lists(source).name
        for source in ("", "new_items", "shown", "sampled", "ncf")
    }
    assert among == {
        "": "ranking",
        "new_items": "new_item_ranking",
        "shown": "shown_ranking",
        "sampled": "sampled_ranking",
        "ncf": "sampled_ranking",
    }


def _minutes(label: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    return {"mae": np.abs(predicted - label) / 60}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> tasks.Task:
    """Times in seconds, judged in minutes: a row of the table, and nothing else."""
    task = dataclasses.replace(
        RATING,
        name="time",
        title="Times",
        best="tells times best",
        metrics=("mae",),
        main="mae",
        columns=("mae",),
        monitors=("mae",),
        errors=_minutes,
        roots=(),
        baseline="",
    )
    monkeypatch.setitem(TASKS, "time", task)
    return task


def test_a_toy_kind_of_task_is_validated_and_shown(toy: tasks.Task, tmp_path: Path) -> None:
    class Clock(torch.nn.Module):
        task = "time"

        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor(60.0))

        @classmethod
        def task_of(cls, config: dict[str, Any]) -> str:
            return cls.task

        def predict(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"time": batch.label + self.bias}

    made = shardsets.pointwise(tmp_path / "rows")
    job = training.job(tmp_path / "run", tmp_path / "rows", made)
    assert base.monitor(job, Clock()) == ("mae", -1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        judged = by_row.make(job, made, Workers(), "time")(Clock())  # type: ignore[arg-type]
    assert judged == {"mae": pytest.approx(1.0)}, "60 seconds"
    assert names.of_task("time", ()) == ("mae",)
    values = tuple(
        Value(f"score_{model}-1", model, "time", "mae", 0, value, value, value, 9)
        for model, value in (("clock", 1.0), ("watch", 0.5))
    )
    assert results.tasks(values) == ["time"]
    table = results.table(values, "time")
    assert table.primary == ("mae", 0) and [row.label for row in table.rows] == ["watch", "clock"]
