"""What `auto` is where Horovod or petastorm are not there, as on Databricks' later runtimes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys_spark.core.errors import WorkerError
from recsys_spark.train.data import reader
from recsys_spark.train.launcher import launch
from recsys_spark.train.ranks import workers
from tests import shardsets, training
from tests.logs import logged


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this process neither library can be imported."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("horovod", "petastorm")]
    for name in (*loaded, "horovod", "petastorm"):
        monkeypatch.setitem(sys.modules, name, None)
    workers.no_horovod.cache_clear()
    yield
    workers.no_horovod.cache_clear()


def test_auto_is_what_is_preferred_where_it_is_installed() -> None:
    assert [workers.resolve("auto", ranks) for ranks in (1, 2)] == ["single", "horovod"]
    assert reader.resolve("auto") == "petastorm"


def test_auto_without_them(hidden: None) -> None:
    assert [workers.resolve("auto", ranks) for ranks in (1, 2)] == ["single", "torch"]
    assert reader.resolve("auto") == "arrow"
    assert workers.resolve("horovod", 2) == "horovod", "what was named is not replaced"
    with pytest.raises(WorkerError, match="workers.engine horovod: .*set workers.engine=auto"):
        with launch.meeting("horovod", 2):
            pass


def test_two_ranks_train_without_them(
    hidden: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rank is a process of its own: Python runs `sitecustomize` at its start."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['horovod'] = sys.modules['petastorm'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shards = tmp_path / "shards"
    made = shardsets.pointwise(shards)
    auto = {"engine": "auto", "reader": {"engine": "auto"}, "epochs": 1}
    job = training.job(tmp_path / "run", shards, made, num_workers=2, **auto)  # type: ignore[arg-type]
    with caplog.at_level("INFO", logger="recsys_spark"):
        launch.launch(job)
    assert "event=engines ranks=torch reader=arrow no_horovod=" in logged(caplog)
    alone = training.job(tmp_path / "alone", shards, made, epochs=1)
    training.train_here(alone)
    assert (
        training.difference(*map(training.weights, (tmp_path / "run", tmp_path / "alone"))) < 1e-10
    )
