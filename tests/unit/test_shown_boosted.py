"""The boosted re-ranker learns what no weighted sum can say, gives the same trees for the same
lists, and refuses a broken artefact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.baselines.fitting import artifact, trees
from recsys_spark.core import columns as c
from recsys_spark.core.errors import CheckpointError
from recsys_spark.scoring import scorer
from recsys_spark.scoring.queries import CANDIDATES, HISTORY, OF_CANDIDATES

CONFIG = trees.Config(trees=30, leaves=7, min_items=5)
SHAPE = (400, 6)


def world(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Lists of six items. Of the two features that differ the item with equal signs is chosen: an
    exclusive or, of which each feature alone says nothing.
    """
    draw = np.random.default_rng(seed)
    values = np.zeros((*SHAPE, len(c.SHOWN_FEATURES)), np.float32)
    values[..., :2] = draw.normal(size=(*SHAPE, 2))
    agree = values[..., 0] * values[..., 1]
    return values, agree.argmax(axis=1)


def lists_of(values: np.ndarray, chosen: np.ndarray) -> trees.Lists:
    wanted = (np.arange(SHAPE[1]) == chosen[:, None]).astype(np.int32).ravel()
    return trees.Lists(values.reshape(-1, values.shape[-1]), wanted, np.full(SHAPE[0], SHAPE[1]))


def hit_rate(folder: Path, values: np.ndarray, chosen: np.ndarray) -> float:
    """How often the chosen item is ranked first by the scorer of an artefact."""
    lists, width = values.shape[:2]
    columns = {
        c.QUERY_IDX: pa.array(np.arange(1, lists + 1), pa.int32()),
        c.QUERY_ID: pa.array([str(n) for n in range(lists)]),
        HISTORY: pa.array([[]] * lists, pa.list_(pa.int32())),
        CANDIDATES: pa.array([list(range(1, width + 1))] * lists, pa.list_(pa.int32())),
    }
    for place, name in enumerate(c.SHOWN_FEATURES):
        column = [list(map(float, row)) for row in values[..., place]]
        columns[OF_CANDIDATES + name] = pa.array(column, pa.list_(pa.float32()))
    ranked = scorer.load(folder, k=3, seed=1).rank(pa.RecordBatch.from_pydict(columns))
    first = [items[0] - 1 for items in ranked.column(c.ITEM_IDX).to_pylist()]
    return float((np.array(first) == chosen).mean())


def written(folder: Path, text: str) -> Path:
    popularity = np.zeros(SHAPE[1] + 1, np.float32)
    artifact.write_shown(
        folder, model="shown_boosted", popularity=popularity, fields=c.SHOWN_FEATURES, trees=text
    )
    return folder


def test_it_learns_an_exclusive_or_and_scores_it(tmp_path: Path) -> None:
    values, chosen = world()
    text, facts = trees.fit(lists_of(values, chosen), c.SHOWN_FEATURES, CONFIG, seed=1)
    gains = [facts[f"gain_{name}"] for name in c.SHOWN_FEATURES]
    assert min(gains[:2]) > 0 and max(gains[2:]) == 0
    fresh, best = world(seed=4)
    assert hit_rate(written(tmp_path / "index", text), fresh, best) > 0.5  # chance: 1 in 6


def test_lists_of_arrow_become_arrays() -> None:
    columns = {name: [[1.0, float("nan")], [n]] for n, name in enumerate(c.SHOWN_FEATURES)}
    table = pa.table({"wanted": pa.array([[0, 1], [1]], pa.list_(pa.int32())), **columns})
    lists = trees.of_table(table, c.SHOWN_FEATURES)
    assert lists.values.shape == (3, len(c.SHOWN_FEATURES)) and lists.lengths.tolist() == [2, 1]
    assert lists.wanted.tolist() == [0, 1, 1] and lists.values[2].tolist() == list(
        range(len(c.SHOWN_FEATURES))
    )
    assert not len(trees.of_table(table.slice(0, 0), c.SHOWN_FEATURES).lengths)


def test_broken_trees_are_named(tmp_path: Path) -> None:
    values, chosen = world()
    lists = lists_of(values[..., :2].copy(), chosen)
    text, _ = trees.fit(lists, c.SHOWN_FEATURES[:2], CONFIG, seed=1)
    with pytest.raises(CheckpointError, match=r"trees.txt: found trees over 2 fields"):
        scorer.load(written(tmp_path / "few", text), k=1, seed=1)
    folder = written(tmp_path / "cut", text)
    (folder / artifact.TREES).write_text("no trees")
    with pytest.raises(CheckpointError, match=r"trees.txt: found .*; expected trees of LightGBM"):
        scorer.load(folder, k=1, seed=1)
