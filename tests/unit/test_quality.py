"""The measure of shuffling knows order from disorder, and ours lies where it should between the
two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.train.data import quality
from recsys_spark.train.data.order import Order
from recsys_spark.train.data.reader import Reader
from tests import shardsets

GROUPS, GROUP, SHARDS, BATCH = 32, 64, 16, 512
ROWS = GROUPS * GROUP * SHARDS
STARTS = np.arange(0, ROWS + 1, BATCH)


def ours(window: int, epoch: int = 0) -> quality.Quality:
    return quality.measure(
        *quality.places(Order([(GROUP,) * GROUPS] * SHARDS, BATCH, seed=1, window=window), epoch)
    )


def in_files() -> np.ndarray:
    return np.tile(np.arange(GROUPS * GROUP) / (GROUPS * GROUP), SHARDS)


def group_and_permute() -> np.ndarray:
    """What a loop over pyarrow's row groups gives: groups of all files in random order, the rows of
    each permuted.
    """
    rng = np.random.default_rng(1)
    return rng.permuted(rng.permutation(in_files().reshape(-1, GROUP)), axis=1).ravel()


def test_file_order_and_a_full_permutation_are_the_two_ends() -> None:
    before = quality.measure(in_files(), STARTS)
    assert before.neighbours > 0.99 and before.batches > 10
    full = quality.measure(np.random.default_rng(0).permutation(in_files()), STARTS)
    assert abs(full.neighbours) < 0.02 and 0.7 < full.batches < 1.3


def test_by_hand() -> None:
    found = quality.measure(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 2, 4]))
    assert found == (pytest.approx(-1.0), 0.0)
    # Batches of means 0 and 1 about 1/2, 2 rows each, variance 1/4: sqrt(2 * 1/4 / 1/4)
    assert quality.measure(
        np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 2, 4])
    ).batches == pytest.approx(2**0.5)


def test_places_are_those_of_the_rows_that_the_reader_gives(tmp_path: Path) -> None:
    made = shardsets.pointwise(tmp_path, virtual_shards=8, row_group=8)
    reader = Reader(
        tmp_path,
        "train",
        batch_size=50,
        seed=3,
        settings=Settings(engine="arrow", window_row_groups=2),
    )
    places, starts = quality.places(reader.order, epoch=2)
    pairs = {
        file.virtual_shard: pq.read_table(tmp_path / file.path)
        for file in made.parts["train"].files
    }
    for step, batch in enumerate(reader.epoch(2)):
        for user, item, shard, place in zip(
            batch["query_idx"].tolist(),
            batch["item_idx"].tolist(),
            (batch["row"] >> 32).tolist(),
            places[starts[step] : starts[step + 1]].tolist(),
            strict=True,
        ):
            row = pairs[shard].slice(round(place * len(pairs[shard])), 1).to_pylist()[0]
            assert (row["query_idx"], row["item_idx"]) == (user, item)


def test_wider_windows_shuffle_better_and_all_better_than_a_permuted_group() -> None:
    one, eight, whole = ours(1), ours(8), ours(GROUPS)
    theirs = quality.measure(group_and_permute(), STARTS)
    assert theirs.neighbours > 0.9 and one.neighbours > eight.neighbours > whole.neighbours
    assert eight.neighbours < 0.25 and abs(whole.neighbours) < 0.05
    assert (
        theirs.batches > one.batches > eight.batches > whole.batches
        and theirs.batches > 2 * eight.batches
    )
    assert whole.batches < 1.3
