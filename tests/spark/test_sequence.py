"""Layout sequence, the Spark half: rows of places, histories written once and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core import shardset
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.stages import export_shards, prepare
from recsys_spark.stages.bridge.scored import Scoring
from recsys_spark.stages.bridge.shard_set import FOLDER
from tests.models import worlds
from tests.spark.prepared import Event, Steps

# Users a, b, c and d have six, three, two and two events before the held ones; b's second and third
# are of one time, and e has one event in all.
EVENTS: list[Event] = [
    *(("a", f"i{item}", time, 1.0) for time, item in enumerate([5, 3, 8, 1, 9, 2, 7, 6])),
    *(("b", f"i{item}", time, 1.0) for time, item in ((0, 4), (1, 2), (1, 6), (3, 8), (4, 1))),
    *(("c", f"i{item}", time, 1.0) for time, item in enumerate([1, 2, 3, 5])),
    *(("d", f"i{item}", time, 1.0) for time, item in enumerate([9, 2, 4, 1])),
    ("e", "i3", 0, 1.0),
]


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    made = Steps(spark, tmp_path_factory.mktemp("sequence"))
    made.ingest(EVENTS)
    made.run("prepare", prepare, source="ingest")
    made.run(
        "windows", export_shards, source="prepare", layout="sequence", row_targets=2, ages=True
    )
    return made


def ids(steps: Steps, table: str, name: str) -> dict[int, str]:
    rows = steps.lake.read(table).collect()
    return {row[f"{name}_idx"]: row[f"{name}_id"] for row in rows}


def test_rows_and_histories(steps: Steps) -> None:
    place = steps.root / "runs" / "windows" / FOLDER
    shards = shardset.load(place, digests=True)
    users, items = ids(steps, c.USER_INDEX, "user"), ids(steps, c.ITEM_INDEX, "item")
    rows = [
        (users[row["query_idx"]], row["first"], row["last"])
        for file in shards.parts[c.TRAIN].files
        for row in pq.read_table(place / file.path).to_pylist()
    ]
    # From the end in twos; who has one event has nothing to predict
    assert sorted(rows) == [
        ("a", 1, 2), ("a", 2, 4), ("a", 4, 6), ("b", 1, 3), ("c", 1, 2), ("d", 1, 2),
    ]  # fmt: skip
    side = shards.side[c.HISTORY]
    indptr, indices, later = (
        np.load(place / name) for name in (side.indptr, side.indices, side.values)
    )
    histories = {
        users[user]: [items[item] for item in indices[indptr[user] : indptr[user + 1]]]
        for user in users
    }
    assert side.ordered and side.entries == len(indices) == sum(map(len, histories.values()))
    assert histories["a"] == ["i5", "i3", "i8", "i1", "i9", "i2"] and histories["c"] == ["i1", "i2"]
    assert histories["b"][0] == "i4" and set(histories["b"][1:]) == {"i2", "i6"}
    flags = {users[u]: later[indptr[u] : indptr[u + 1]].tolist() for u in users}
    assert flags["a"] == [1] * 6 and flags["b"] == [1, 1, 0]
    assert shards.statistics == {c.ROW_TARGETS: 2.0}
    # Days before a's last training event, at second 5
    side = shards.side[c.AGES]
    assert np.array_equal(np.load(place / side.indptr), indptr)
    days = np.load(place / side.values)
    ages = {users[u]: (86_400 * days[indptr[u] : indptr[u + 1]]).round().tolist() for u in users}
    assert ages["a"] == [5, 4, 3, 2, 1, 0] and ages["b"] == [5, 4, 4] and ages["e"] == [5]


def test_lists_are_made_from_histories_in_order(steps: Steps, tmp_path: Path) -> None:
    """In the workers as by the model itself, from all events before the last."""
    items = ids(steps, c.ITEM_INDEX, "item")
    model = registry.build("sasrec", {"dim": 4, "length": 6}, Sizes(5, len(items)), seed=1)
    store.save(tmp_path, model, "sasrec")
    rows = Scoring(steps.context("score"), "prepare", "test", tmp_path, 2).lists().collect()
    lists = {row["query_id"]: [items[item] for item in row["item_idx"]] for row in rows}
    assert not any(row["cold"] for row in rows) and len(rows) == 5
    number = {name: index for index, name in items.items()}
    for query, events in (("a", (5, 3, 8, 1, 9, 2, 7)), ("c", (1, 2, 3)), ("d", (9, 2, 4))):
        met = [number[f"i{item}"] for item in events]
        asked = worlds.Query(torch.zeros(1, dtype=torch.int32), worlds.ragged([met]))
        scores = model.score(asked).detach()[0]
        scores[[0, *met]] = -torch.inf
        assert lists[query] == [items[int(best)] for best in scores.topk(2).indices]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "pairs", "row_targets": 5}, "no row_targets.*not pairs"),
        ({"layout": "pairs", "ages": True}, "no ages.*not pairs"),
        ({"layout": "sequence", "positive_min": 3.0}, "no positive_min.*whole histories"),
        ({"layout": "sequence", "row_targets": 0}, "greater than or equal to 1"),
        ({"layout": "sequence", "by": "item"}, "by: item is for layout profile"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        export_shards.Job(source="prepare", **settings)
