"""Hand-computed cases, an independent implementation, and the algebra that any evaluator must
satisfy.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from recsys_spark.core.errors import ConfigError
from recsys_spark.metrics import ranking


def lists(
    num_queries: int, num_items: int, width: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random lists without repetition (B, K) and random targets as CSR."""
    draw = np.random.default_rng(seed)
    items = np.stack([draw.permutation(num_items)[:width] + 1 for _ in range(num_queries)])
    sets = [
        np.sort(draw.permutation(num_items)[: draw.integers(1, 9)] + 1) for _ in range(num_queries)
    ]
    return items, np.concatenate([[0], np.cumsum([len(s) for s in sets])]), np.concatenate(sets)


def test_every_metric_by_hand() -> None:
    # Two targets, hits at places 1 and 3 (0-based) of five; the second query misses, the third is
    # perfect with one target.
    items = np.array([[9, 1, 8, 2, 7], [5, 6, 7, 8, 9], [4, 9, 8, 7, 6]])
    values = ranking.from_lists(items, np.array([0, 2, 3, 4]), np.array([1, 2, 1, 4]), ks=(2, 5))
    dcg2, dcg5, ideal = 1 / math.log2(3), 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    by_hand = {
        "recall@2": [0.5, 0, 1],
        "recall@5": [1.0, 0, 1],
        "recall_capped@2": [0.5, 0, 1],
        "recall_capped@5": [1.0, 0, 1],
        "precision@2": [0.5, 0, 0.5],
        "precision@5": [0.4, 0, 0.2],
        "hit_rate@2": [1, 0, 1],
        "hit_rate@5": [1, 0, 1],
        "mrr@2": [0.5, 0, 1],
        "mrr@5": [0.5, 0, 1],
        "map@2": [0.5 / 2, 0, 1],
        "map@5": [(1 / 2 + 2 / 4) / 2, 0, 1],
        "ndcg@2": [dcg2 / ideal, 0, 1],
        "ndcg@5": [dcg5 / ideal, 0, 1],
    }
    assert set(values) == set(by_hand) == set(ranking.names((2, 5)))
    for name, expected in by_hand.items():
        np.testing.assert_allclose(values[name], expected, rtol=1e-15, err_msg=name)


def test_more_targets_than_places_are_measured_against_the_best_possible_list() -> None:
    values = ranking.from_lists(np.array([[1, 2]]), np.array([0, 3]), np.array([1, 2, 3]), ks=(2,))
    assert (
        values["ndcg@2"]
        == values["map@2"]
        == values["precision@2"]
        == values["recall_capped@2"]
        == 1
    )
    assert values["recall@2"] == pytest.approx(2 / 3)


def test_agrees_with_scikit_learn() -> None:
    items, indptr, targets = lists(300, 40, 40)
    values = ranking.from_lists(items, indptr, targets, ks=(1, 5, 20, 40))
    for query in range(len(items)):
        relevant = np.isin(items[query], targets[indptr[query] : indptr[query + 1]])[None].astype(
            float
        )
        scores = -np.arange(40.0)[None]
        for k in (5, 20, 40):
            assert values[f"ndcg@{k}"][query] == pytest.approx(
                ndcg_score(relevant, scores, k=k), abs=1e-9
            )
        # Whole lists hold every target, so MAP is scikit-learn's average precision there.
        assert values["map@40"][query] == pytest.approx(
            average_precision_score(relevant[0], scores[0]), abs=1e-9
        )


def test_agrees_with_a_plain_loop() -> None:
    items, indptr, targets = lists(200, 30, 12, seed=3)
    values = ranking.from_lists(items, indptr, targets, ks=(3, 12))
    for query in range(len(items)):
        wanted = set(targets[indptr[query] : indptr[query + 1]].tolist())
        for k in (3, 12):
            hit = [item in wanted for item in items[query, :k].tolist()]
            precisions = [sum(hit[: place + 1]) / (place + 1) for place in range(k) if hit[place]]
            assert values[f"recall@{k}"][query] == pytest.approx(sum(hit) / len(wanted), abs=1e-12)
            assert values[f"recall_capped@{k}"][query] == pytest.approx(
                sum(hit) / min(k, len(wanted)), abs=1e-12
            )
            assert values[f"precision@{k}"][query] == pytest.approx(sum(hit) / k, abs=1e-12)
            assert values[f"hit_rate@{k}"][query] == any(hit)
            assert values[f"mrr@{k}"][query] == pytest.approx(
                1 / (hit.index(True) + 1) if any(hit) else 0.0, abs=1e-12
            )
            assert values[f"map@{k}"][query] == pytest.approx(
                sum(precisions) / min(k, len(wanted)), abs=1e-12
            )


def test_hits_and_lists_are_one_definition() -> None:
    items, indptr, targets = lists(100, 30, 10, seed=4)
    hits = np.stack(
        [np.isin(row, targets[a:b]) for row, (a, b) in zip(items, pairwise(indptr), strict=True)]
    )
    from_hits = ranking.from_hits(hits, np.diff(indptr), ks=(1, 10))
    for name, value in ranking.from_lists(items, indptr, targets, ks=(1, 10)).items():
        np.testing.assert_array_equal(value, from_hits[name])


def test_one_target_bounds_ndcg_by_hit_rate() -> None:
    items, indptr, targets = lists(500, 25, 10, seed=5)
    first = targets[indptr[:-1]]
    values = ranking.from_lists(items, np.arange(501), first, ks=(5, 10))
    for k in (5, 10):
        hit, ndcg = values[f"hit_rate@{k}"], values[f"ndcg@{k}"]
        assert 0 < hit.mean() < 1
        assert (hit / math.log2(k + 1) <= ndcg + 1e-12).all() and (ndcg <= hit).all()


def test_perfect_lists_earn_one_and_random_lists_k_in_n() -> None:
    draw = np.random.default_rng(6)
    targets = draw.integers(1, 201, 4000)
    perfect = ranking.from_lists(targets[:, None], np.arange(4001), targets, ks=(1,))
    assert all((value == 1).all() for value in perfect.values())
    chance = np.argsort(draw.random((4000, 200)), axis=1)[:, :10] + 1
    hit = ranking.from_lists(chance, np.arange(4001), targets, ks=(10,))["hit_rate@10"].mean()
    assert abs(hit - 10 / 200) < 4 * math.sqrt(0.05 * 0.95 / 4000)


def test_recall_and_hit_rate_and_mrr_never_fall_with_k() -> None:
    items, indptr, targets = lists(200, 30, 20, seed=7)
    ks = tuple(range(1, 21))
    values = ranking.from_lists(items, indptr, targets, ks=ks)
    for metric in ("recall", "hit_rate", "mrr"):
        assert (np.diff(np.stack([values[f"{metric}@{k}"] for k in ks]), axis=0) >= 0).all(), metric
    one = ranking.from_lists(items, np.arange(201), targets[indptr[:-1]], ks=ks)
    assert (np.diff(np.stack([one[f"ndcg@{k}"] for k in ks]), axis=0) >= 0).all()


def test_padding_and_repeated_items_cannot_hit() -> None:
    items = np.array([[3, 3, 1, 0, 0], [0, 0, 0, 0, 0]])
    values = ranking.from_lists(items, np.array([0, 2, 3]), np.array([1, 3, 2]), ks=(5,))
    assert values["recall@5"].tolist() == [1.0, 0.0]  # 3 hits once, 1 keeps its place: 1/1 + 2/3
    assert values["map@5"][0] == pytest.approx((1 + 2 / 3) / 2)


def test_lists_shorter_than_k_and_no_queries_at_all() -> None:
    values = ranking.from_lists(np.array([[1, 2]]), np.array([0, 1]), np.array([2]), ks=(20,))
    assert values["precision@20"] == 1 / 20 and values["mrr@20"] == 0.5
    nothing = ranking.from_lists(
        np.zeros((0, 5), np.int32), np.array([0]), np.array([], np.int32), ks=(5,)
    )
    assert ranking.Sums.of(nothing).counts.tolist() == [0] * len(ranking.names((5,)))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items, indptr, targets = lists(160, 30, 10, seed=8)
    whole = ranking.from_lists(items, indptr, targets, ks=(10,))
    monkeypatch.setattr(ranking, "_PLACES", 1)
    for threads in (1, 2):
        for name, value in ranking.from_lists(
            items, indptr, targets, ks=(10,), threads=threads
        ).items():
            np.testing.assert_array_equal(value, whole[name])


def test_sums_merge_to_the_mean_of_all() -> None:
    items, indptr, targets = lists(90, 30, 10, seed=9)
    whole = ranking.from_lists(items, indptr, targets, ks=(5, 10))
    parts = [
        {name: value[part] for name, value in whole.items()}
        for part in (slice(0, 20), slice(20, 90))
    ]
    merged = (
        ranking.Sums.of(parts[0])
        .merge(ranking.Sums.of(parts[1]))
        .merge(ranking.Sums.zero(tuple(whole)))
    )
    for name, mean in merged.means().items():
        assert mean == pytest.approx(whole[name].mean(), abs=1e-14)
    with pytest.raises(AssertionError, match="do not merge"):
        merged.merge(ranking.Sums.zero(("other",)))


@pytest.mark.parametrize("ks", [(), (0,), (10, 10), (-1, 5)])
def test_impossible_cut_offs_are_named(ks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="ks: found .*To mend: write for example"):
        ranking.names(ks)


def test_a_query_without_targets_is_refused() -> None:
    with pytest.raises(AssertionError, match="without targets"):
        ranking.from_hits(np.zeros((1, 3), bool), np.array([0]), ks=(3,))
