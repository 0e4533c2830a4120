"""The parity page from raw files: a list, a pipeline, a second seed, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.commands import parity
from recsys_spark.core.errors import ConfigError
from tests.spark.prepared import crowd

PIPELINE = """
name: tiny
env:
  lake: {root}/lake
  runs: {root}/runs
  spark: {{master: "local[2]", driver_memory: 1g, shuffle_partitions: 2}}
steps:
  ingest:
    stage: ingest
    dataset: crowd
    data: {root}/crowd
    delimited: {{files: events.csv, columns: [user_id, item_id, ts, value]}}
  random: {{stage: prepare, source: ingest, rule: random, fractions: [0.6, 0.2, 0.2]}}
  bias: {{stage: train_baseline, source: random, model: global_bias}}
  score_bias: {{stage: score, model: bias, source: random}}
  rating: {{stage: evaluate, source: random, of: [score_bias], replicas: 100}}
"""
LIST = """
rows:
  - {protocol: tiny, pipeline: tiny.yaml, evaluation: rating, of: score_bias, metric: rmse,
     at_most: 9.9, seeds: [1, 2]}
  - {protocol: tiny, pipeline: tiny.yaml, evaluation: rating, of: score_bias, metric: METRIC,
     at_most: 0.0}
"""


@pytest.mark.soak
def test_from_raw_files_to_the_page(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "crowd").mkdir()
    (tmp_path / "crowd" / "events.csv").write_text(
        "".join(f"{u},{i},{ts},{v}\n" for u, i, ts, v in crowd(users=20, items=12, most=9))
    )
    (tmp_path / "tiny.yaml").write_text(PIPELINE.format(root=tmp_path))
    (tmp_path / "list.yaml").write_text(LIST.replace("METRIC", "mae"))
    heard: list[str] = []
    arguments = {"listener": lambda event: heard.append(f"{event.kind} {event.step}")}
    page = parity.run(tmp_path / "list.yaml", tmp_path / "parity.md", **arguments).read_text()
    assert "1 PASS, 1 FALL SHORT, 0 reported, 0 not measured yet." in page and "; seeds " in page
    assert [kind for kind in heard if kind.endswith("rating")] == [
        "start rating",
        "done rating",
    ] * 2, "each seed is evaluated"
    assert heard.count("done ingest") == 2 and "fingerprint of the split" in page
    heard.clear()
    again = parity.run(tmp_path / "list.yaml", tmp_path / "parity.md", **arguments).read_text()
    assert again == page and {kind.split()[0] for kind in heard} == {"skipped"}

    (tmp_path / "list.yaml").write_text(LIST.replace("METRIC", "rsme"))
    with pytest.raises(
        ConfigError,
        match=r"rows\.1\.metric: found rsme; expected one of mae, rmse \(did you mean 'rmse'\?\)",
    ):
        parity.run(tmp_path / "list.yaml", tmp_path / "parity.md", **arguments)
    with pytest.raises(
        ConfigError, match=r"pipeline 'tny': found not in .*\(did you mean 'tiny'\?\)"
    ):
        parity.run(tmp_path / "list.yaml", tmp_path / "parity.md", only=["tny"], **arguments)
