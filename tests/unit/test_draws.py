"""Drawn candidates: uniform among the untouched items, without repeats, by user alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys_spark.etl.candidates import draw, draw_batches

CATALOGUE = np.random.default_rng(1).permutation(np.arange(10, 50)).astype(np.int32)
TOUCHED = np.array([11, 12, 40], dtype=np.int32)


def test_drawn_items_are_different_and_untouched_and_a_longer_draw_begins_with_the_shorter() -> (
    None
):
    for key in range(200):
        items = draw(key, TOUCHED, CATALOGUE, 20)
        assert len(set(items)) == 20 and set(items) <= set(CATALOGUE) - set(TOUCHED)
        assert draw(key, TOUCHED, CATALOGUE, 5).tolist() == items[:5].tolist()
    assert draw(1, TOUCHED, CATALOGUE, 20).tolist() != draw(2, TOUCHED, CATALOGUE, 20).tolist()


def test_a_small_catalogue_gives_all_that_is_left() -> None:
    assert sorted(draw(7, TOUCHED, CATALOGUE, 99)) == sorted(set(CATALOGUE) - set(TOUCHED))
    assert len(draw(7, CATALOGUE, CATALOGUE, 99)) == 0


def test_draws_are_uniform() -> None:
    """20,000 draws of 4 out of 37: each item 20,000 * 4 / 37 times, within five standard
    deviations.
    """
    counts = np.bincount(
        np.concatenate([draw(key * 977, TOUCHED, CATALOGUE, 4) for key in range(20_000)]),
        minlength=50,
    )
    share = 4 / 37
    assert not counts[TOUCHED].any()
    left = np.setdiff1d(CATALOGUE, TOUCHED)
    assert np.abs(counts[left] - 20_000 * share).max() < 5 * (20_000 * share * (1 - share)) ** 0.5


def test_batches_of_users_are_drawn_one_by_one() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "query_id": ["a", "b"],
            "key": pa.array([5, 2**63 - 1], pa.int64()),
            "touched": pa.array([[11], [12, 13]], pa.list_(pa.int32())),
        }
    )
    (made,) = draw_batches(CATALOGUE, 6, iter([batch]))
    assert made.column("query_id").to_pylist() == ["a", "b"]
    assert made.column("items").to_pylist() == [
        draw(5, np.array([11]), CATALOGUE, 6).tolist(),
        draw(2**63 - 1, np.array([12, 13]), CATALOGUE, 6).tolist(),
    ]
