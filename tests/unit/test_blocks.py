"""A block of users: what comes out is what the metrics say, and merges over blocks."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.metrics import blocks, ranking
from recsys_spark.metrics.blocks import NAN, UNKNOWN, Settings

SETTINGS = Settings(ks=(2, 5), seed=1, replicas=20)


def users(count: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table({
        "user_idx": pa.array(draw.permutation(count) + 1, pa.int32()),
        "activity": pa.array(draw.integers(1, 4, count), pa.int32()),
        "targets": pa.array([np.sort(draw.permutation(20)[: draw.integers(1, 4)] + 1) for _ in range(count)], pa.list_(pa.int32())),
        "items": pa.array([draw.permutation(20)[: draw.integers(0, 8)] + 1 for _ in range(count)], pa.list_(pa.int32())),
        "events": pa.array([[7] * 8] * count, pa.list_(pa.int64())),
    })


def test_a_block_measures_what_ranking_measures() -> None:
    made = users(50)
    merged, odd = blocks.merge(blocks.ranking_block(made, SETTINGS), 20)
    lists = made["items"].to_pylist()
    items = np.array([(entries + [0] * 5)[:5] for entries in lists])
    targets = made["targets"].to_pylist()
    indptr = np.concatenate([[0], np.cumsum([len(t) for t in targets])])
    values = ranking.from_lists(items, indptr, np.concatenate(targets), (2, 5))
    found = merged["all"].intervals()
    for name, value in values.items():
        assert found[name].value == pytest.approx(value.mean(), abs=1e-12) and found[name].n == 50
    assert found["mean_popularity@5"].value == 7 and found["mean_popularity@5"].n == sum(bool(entries) for entries in lists)
    quiet = made["activity"].to_numpy() == 2
    assert merged["activity:2"].intervals()["ndcg@5"].value == pytest.approx(values["ndcg@5"][quiet].mean(), abs=1e-12)
    assert odd["users_without_list"] == sum(not entries for entries in lists)
    assert odd["lists_shorter_than_k"] == sum(0 < len(entries) < 5 for entries in lists)


def test_blocks_merge_to_the_whole() -> None:
    made = users(60)
    whole, odd = blocks.merge(blocks.ranking_block(made, SETTINGS), 20)
    parts = pa.concat_tables(blocks.ranking_block(made.take(part), SETTINGS) for part in np.array_split(np.arange(60), 4))
    merged, odd_of_parts = blocks.merge(parts, 20)
    assert odd == odd_of_parts and set(merged) == set(whole)
    for name, one in whole.items():
        np.testing.assert_allclose(merged[name].sums, one.sums, rtol=1e-12)
        np.testing.assert_array_equal(merged[name].counts, one.counts)


def test_the_order_of_arrival_changes_no_digit() -> None:
    made = users(40)
    assert blocks.ranking_block(made, SETTINGS).equals(blocks.ranking_block(made.take(np.arange(40)[::-1]), SETTINGS))


def test_codes_keep_their_place_and_cannot_hit() -> None:
    made = pa.table({"user_idx": [1], "activity": [1], "targets": [[3]], "items": [[NAN, UNKNOWN, 3, 3]], "events": [[9, 0, 5, 5]]})
    merged, odd = blocks.merge(blocks.ranking_block(made, SETTINGS), 20)
    found = merged["all"].intervals()
    assert found["mrr@5"].value == pytest.approx(1 / 3) and found["hit_rate@2"].value == 0
    assert odd == {"users_without_list": 0, "lists_shorter_than_k": 1, "repeated_items": 1, "unknown_items": 1, "nan_scores": 1}


def test_ratings_are_summed_over_rows() -> None:
    made = pa.table({"user_idx": [2, 1], "activity": [1, 1], "labels": [[1.0, 2.0, 3.0], [5.0]], "predictions": [[1.0, 1.0, 1.0], [1.0]],
                     "missing": [0, 2]})
    merged, odd = blocks.merge(blocks.rating_block(made, SETTINGS), 20)
    found = merged["all"].intervals()
    assert found["mae"].value == 7 / 4 and found["rmse"].value == math.sqrt(21 / 4) and found["mae"].n == 4
    assert odd == {"rows_without_prediction": 2}
