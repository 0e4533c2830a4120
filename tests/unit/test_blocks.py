"""A block of users: what comes out is what the metrics say, and merges over blocks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.metrics import (
    blocks,
    candidates,
    exposure,
    lists,
    partials,
    ranking,
    row_blocks,
    slices,
    tasks,
)
from recsys_spark.metrics.blocks import NAN, UNKNOWN, Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.ragged import dense

KS, ITEMS = (2, 5), 20
EVENTS = np.array([0, *range(1, ITEMS), 0])  # item i has i training events, the last one none
GENRES = ["", *("a|b" if i % 2 else "c" if i % 3 else "" for i in range(1, ITEMS + 1))]
CATALOGUE = Catalogue.of(EVENTS, {"genre": GENRES}, np.ones(ITEMS + 1, int))
SETTINGS = Settings(
    KS,
    seed=1,
    replicas=20,
    metrics=tasks.RANKING.metrics,
    users=slices.Users((2.0, 4.0), True, {"sex": ("F", "M")}),
    num_users=50,
    catalogue=CATALOGUE,
)


def users(count: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)

    def sets(low: int, high: int) -> pa.Array:
        return pa.array(
            [draw.permutation(ITEMS)[: draw.integers(low, high)] + 1 for _ in range(count)],
            pa.list_(pa.int32()),
        )

    return pa.table(
        {
            "query_idx": pa.array(draw.permutation(count) + 1, pa.int32()),
            "events": draw.integers(0, 7, count),
            "field_0": draw.choice(["F", "M", "X"], count),
            "targets": sets(1, 4),
            "items": sets(0, 8),
            "known": sets(0, 6),
        }
    )


def measured(
    made: pa.Table, settings: Settings = SETTINGS, shown: blocks.Shown | None = None
) -> Partial:
    return blocks.ranking_block(made, settings, shown or {})


def csr(made: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    sets = made[name].to_pylist()
    return np.concatenate([[0], np.cumsum([len(s) for s in sets])]), np.concatenate(sets).astype(
        int
    )


def test_a_block_measures_what_the_metrics_say() -> None:
    made = users(50)
    items = np.array([(entries + [0] * 5)[:5] for entries in made["items"].to_pylist()])
    values = ranking.from_lists(items, *csr(made, "targets"), KS)
    expected = lists.expected_until(*csr(made, "known"), CATALOGUE.place, KS)
    beyond = {
        "novelty": lists.novelty(items, CATALOGUE, KS),
        "diversity": lists.diversity(items, CATALOGUE.vectors, KS),
        "serendipity": lists.serendipity(
            items, *csr(made, "targets"), expected, CATALOGUE.place, KS
        ),
    }
    values |= {
        f"{name}@{k}": value
        for name, found in beyond.items()
        for k, value in zip(KS, found, strict=True)
    }
    partial = measured(made)
    found = partial.slices["all"].intervals()
    for name, value in values.items():
        assert found[name].value == pytest.approx(np.nanmean(value), abs=1e-12), name
        assert found[name].n == (~np.isnan(value)).sum()
    for label, rows in (
        ("activity:2", np.isin(made["events"].to_numpy(), (3, 4))),
        ("user.sex:F", made["field_0"].to_numpy() == "F"),
        ("user.sex:other", made["field_0"].to_numpy() == "X"),
        ("users:new", made["events"].to_numpy() == 0),
    ):
        assert partial.slices[label].intervals()["ndcg@5"].value == pytest.approx(
            values["ndcg@5"][rows].mean(), abs=1e-12
        )
    assert partial.odd["users_without_list"] == (items == 0).all(axis=1).sum() > 0


def test_a_slice_of_items_is_measured_by_its_targets_alone() -> None:
    made = users(50)
    found = measured(made).slices
    for label, wanted in (
        ("item_popularity:4", CATALOGUE.members[3]),
        ("items:new", EVENTS == 0),
        ("item.genre:a", CATALOGUE.members[6]),
    ):
        hits = [
            len(set(entries[:5]) & {t for t in targets if wanted[t]})
            / sum(wanted[t] for t in targets)
            for entries, targets in zip(
                made["items"].to_pylist(), made["targets"].to_pylist(), strict=True
            )
            if any(wanted[targets])
        ]
        at = found[label].intervals()
        assert at["recall@5"].value == pytest.approx(np.mean(hits), abs=1e-12) and at[
            "recall@5"
        ].n == len(hits)
        assert set(at) == set(ranking.names(KS))  # the lists as such are not of one slice


def test_values_of_all_lists_together_have_intervals_too() -> None:
    made = users(50)
    items = dense(made["items"], 5)
    shown = exposure.parts(exposure.count(items, KS, ITEMS), CATALOGUE, 50)
    found = measured(made, shown=shown).slices["all"].intervals()
    for k in KS:
        got = {
            item for entries in made["items"].to_pylist() for item in entries[:k] if EVENTS[item]
        }
        assert found[f"coverage@{k}"].value == pytest.approx(len(got) / 19, abs=1e-12)
        assert found[f"gini@{k}"].low < found[f"gini@{k}"].value < found[f"gini@{k}"].high


def test_blocks_merge_to_the_whole() -> None:
    made = users(60)
    whole = measured(made)
    parts = partials.merge(
        Partial.of(measured(made.take(part)).table()) for part in np.array_split(np.arange(60), 4)
    )
    assert whole.odd == parts.odd and set(parts.slices) == set(whole.slices)
    for name, one in whole.slices.items():
        np.testing.assert_allclose(parts.slices[name].sums, one.sums, rtol=1e-11, atol=1e-10)
        np.testing.assert_array_equal(parts.slices[name].counts, one.counts)


def test_the_order_of_arrival_changes_no_digit() -> None:
    made = users(40)
    assert measured(made).table().equals(measured(made.take(np.arange(40)[::-1])).table())


def test_codes_keep_their_place_and_cannot_hit() -> None:
    made = pa.table(
        {
            "query_idx": [1],
            "events": [1],
            "field_0": ["F"],
            "targets": [[3]],
            "items": [[NAN, UNKNOWN, 3, 3]],
            "known": [[1]],
        }
    )
    partial = measured(made)
    found = partial.slices["all"].intervals()
    assert found["mrr@5"].value == pytest.approx(1 / 3) and found["hit_rate@2"].value == 0
    assert partial.odd == {
        "users_without_list": 0,
        "lists_shorter_than_k": 1,
        "repeated_items": 1,
        "unknown_items": 1,
        "nan_scores": 1,
    }


def test_only_chosen_metrics_are_measured() -> None:
    found = measured(users(20), dataclasses.replace(SETTINGS, metrics=("ndcg", "novelty"))).slices
    assert set(found["all"].names) == {"ndcg@2", "ndcg@5", "novelty@2", "novelty@5"}
    assert set(found["items:known"].names) == {"ndcg@2", "ndcg@5"}


def test_candidates_are_a_set_and_a_repeated_one_counts_as_is_worse() -> None:
    made = pa.table(
        {
            "query_idx": [1, 2],
            "events": [1, 1],
            "field_0": ["F", "M"],
            "targets": [[3], [4, 5]],
            "candidates": [[3, 3, 7, 7, UNKNOWN], [4, 6]],
            "scores": pa.array([[9.0, 1.0, 0.5, 2.0, 3.0], [1.0, 1.0]], pa.list_(pa.float32())),
        }
    )
    settings = dataclasses.replace(SETTINGS, metrics=candidates.METRICS)
    partial = blocks.candidate_block(made, settings)
    found = partial.slices["all"].intervals()
    # User 1: the unknown item 3.0, item 7 2.0, the target 1.0. User 2: its target tied with
    # another, the second target no candidate.
    assert found["mrr@5"].value == pytest.approx((1 / 3 + (1 + 1 / 2) / 2) / 2) and found[
        "recall@5"
    ].value == pytest.approx((1 + 0.5) / 2)
    assert found["auc"].value == pytest.approx((0 + 0.5) / 2)
    assert partial.odd == {
        "users_without_candidates": 0,
        "targets_not_among_candidates": 1,
        "repeated_items": 2,
        "unknown_items": 1,
        "nan_scores": 0,
    }
    odd_one = partial.slices["item.genre:a"].intervals()  # targets 3 and 5
    assert (
        odd_one["recall@5"].value == pytest.approx((1 + 0) / 2) and odd_one["hit_rate@2"].value == 0
    )


def test_ratings_are_summed_over_rows_and_cold_pairs_apart() -> None:
    made = pa.table(
        {
            "query_idx": [2, 1],
            "events": [0, 3],
            "field_0": ["F", "M"],
            "items": [[1, 2, 20], [20]],
            "labels": [[1.0, 2.0, 3.0], [5.0]],
            "predictions": [[1.0, 1.0, 1.0], [1.0]],
            "missing": [0, 2],
        }
    )
    partial = row_blocks.rating_block(
        made, dataclasses.replace(SETTINGS, metrics=("rmse", "mae"), low=2.0, high=5.0)
    )
    found = {label: one.intervals() for label, one in partial.slices.items()}
    assert (
        found["all"]["mae"].value == 7 / 4
        and found["all"]["rmse"].value == math.sqrt(21 / 4)
        and found["all"]["mae"].n == 4
    )
    assert (
        found["pairs:cold_user"]["mae"].value == 0.5 and found["pairs:cold_item"]["mae"].value == 4
    )
    assert found["pairs:cold_both"]["rmse"].value == 2 and "pairs:warm" not in found
    assert found["item_popularity:1"]["mae"].n == 2 and found["users:new"]["mae"].value == 1
    assert partial.odd == {"rows_without_prediction": 2, "predictions_outside_range": 4}


def test_users_are_dealt_over_blocks_by_their_number() -> None:
    assert (
        partials.num_blocks(1) == 1
        and partials.num_blocks(8193) == 2
        and partials.num_blocks(10**8) * partials.USERS_PER_BLOCK >= 10**8
    )
    assert partials.block_of(np.array([1, 2, 3]), 20_000).tolist() == [1, 2, 0]
