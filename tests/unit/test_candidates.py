"""Candidate sets: the closed forms against every order of the tied items, and what a constant score
earns.
"""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from recsys_spark.metrics import candidates, ranking

KS = (1, 2, 3, 5, 10)


def one(
    scores: list[float], targets: list[int], missing: int = 0, ks: tuple[int, ...] = KS
) -> dict[str, float]:
    """Candidates 0..n - 1 of a single query, of which `targets` are to be found, and so many more
    that are no candidates.
    """
    is_target = np.isin(np.arange(len(scores)), targets)
    found = candidates.from_scores(
        np.array([0, len(scores)]),
        is_target,
        np.array(scores),
        np.array([len(targets) + missing]),
        ks,
    )
    return {name: float(value[0]) for name, value in found.items()}


def every_order(
    scores: list[float], targets: list[int], missing: int = 0, ks: tuple[int, ...] = KS
) -> dict[str, float]:
    """Mean of the metrics of a plain list over all permutations that sort the scores."""
    orders = {
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    }
    lists = np.array(sorted(orders)) + 1
    wanted = np.array([target + 1 for target in targets] + [1000 + n for n in range(missing)])
    values = ranking.from_lists(
        lists, np.arange(len(lists) + 1) * len(wanted), np.tile(wanted, len(lists)), ks
    )
    return {name: float(value.mean()) for name, value in values.items()}


@pytest.mark.parametrize("seed", range(40))
def test_the_closed_forms_are_the_mean_over_all_orders(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = int(draw.integers(1, 8))
    scores = draw.integers(0, draw.integers(1, 5), size).astype(float).tolist()
    targets = draw.permutation(size)[: draw.integers(1, size + 1)].tolist()
    missing = int(draw.integers(0, 3))
    found = one(scores, targets, missing)
    for name, value in every_order(scores, targets, missing).items():
        assert found[name] == pytest.approx(value, abs=1e-12), (name, scores, targets)


def test_a_tie_by_hand() -> None:
    # One target tied with three others behind one better item: it stands at places 2, 3, 4, 5, each
    # with probability 1/4.
    found = one([9.0, 1.0, 1.0, 1.0, 1.0], [2], ks=(3,))
    assert found["hit_rate@3"] == found["recall@3"] == 0.5
    assert found["mrr@3"] == pytest.approx((1 / 2 + 1 / 3) / 4) and found[
        "precision@3"
    ] == pytest.approx(0.5 / 3)
    assert found["ndcg@3"] == pytest.approx((1 / np.log2(3) + 1 / 2) / 4)
    assert found["auc"] == pytest.approx((0 + 3 * 0.5) / 4)


def test_constant_scores_earn_what_random_order_earns() -> None:
    """99 negatives and a target, all alike: a hit in ten places has probability 10/100, in exact
    arithmetic, and every metric follows.
    """
    found = one([0.0] * 100, [0], ks=(10,))
    places = np.arange(1, 11)
    assert found["hit_rate@10"] == found["recall@10"] == pytest.approx(0.1, abs=1e-15)
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(places + 1)).sum() / 100, abs=1e-15)
    assert found["mrr@10"] == found["map@10"] == pytest.approx((1 / places).sum() / 100, abs=1e-15)
    assert found["auc"] == 0.5
    draw = np.random.default_rng(0)
    several = one([3.0] * 30, [1, 2, 3, 4], ks=(10,))
    shuffled = np.argsort(draw.random((20_000, 30)), axis=1) + 1
    chance = ranking.from_lists(
        shuffled, np.arange(20_001) * 4, np.tile([2, 3, 4, 5], 20_000), (10,)
    )
    for name, value in chance.items():
        assert several[name] == pytest.approx(
            value.mean(), abs=5 * value.std() / np.sqrt(20_000)
        ), name


def test_without_ties_it_is_the_plain_list_and_agrees_with_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    sizes = draw.integers(2, 60, 200)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    scores = draw.permutation(indptr[-1]).astype(np.float32)
    is_target = draw.random(indptr[-1]) < 0.3
    is_target[indptr[:-1]], is_target[indptr[1:] - 1] = True, False
    num_targets = np.add.reduceat(is_target, indptr[:-1].astype(int))
    found = candidates.from_scores(indptr, is_target, scores, num_targets, (5, 60))
    for query in range(200):
        part = slice(indptr[query], indptr[query + 1])
        relevant, score = is_target[part].astype(float), scores[part]
        assert found["auc"][query] == pytest.approx(roc_auc_score(relevant, score), abs=1e-9)
        assert found["map@60"][query] == pytest.approx(
            average_precision_score(relevant, score), abs=1e-9
        )
        assert found["ndcg@5"][query] == pytest.approx(
            ndcg_score(relevant[None], score[None], k=5), abs=1e-9
        )


def test_ties_agree_with_scikit_learn() -> None:
    """scikit-learn, too, gives tied items the mean of their discounts, and a tied pair one half."""
    draw = np.random.default_rng(2)
    for _ in range(50):
        scores, relevant = (
            draw.integers(0, 6, 40).astype(float),
            (draw.random(40) < 0.2).astype(float),
        )
        relevant[0], relevant[1] = 1.0, 0.0
        found = one(scores.tolist(), np.flatnonzero(relevant).tolist(), ks=(7, 40))
        assert found["ndcg@7"] == pytest.approx(
            ndcg_score(relevant[None], scores[None], k=7), abs=1e-9
        )
        assert found["auc"] == pytest.approx(roc_auc_score(relevant, scores), abs=1e-9)


def test_a_target_without_a_score_or_outside_the_set_is_never_first() -> None:
    nan = float("nan")
    assert one([nan, 1.0, 2.0], [0], ks=(2,))["hit_rate@2"] == 0
    assert one([nan, 1.0, 2.0], [0], ks=(3,))["mrr@3"] == pytest.approx(1 / 3)
    half = one([2.0, 1.0], [0], missing=1, ks=(2,))
    assert half["recall@2"] == 0.5 and half["hit_rate@2"] == 1
    empty = candidates.from_scores(
        np.array([0, 0]), np.zeros(0, bool), np.zeros(0), np.array([1]), (5,)
    )
    assert empty["ndcg@5"][0] == empty["mrr@5"][0] == 0 and np.isnan(empty["auc"][0])


def test_no_other_candidate_means_no_auc() -> None:
    assert np.isnan(one([1.0, 2.0], [0, 1])["auc"])


def test_a_query_without_targets_is_refused() -> None:
    with pytest.raises(AssertionError, match="without targets"):
        candidates.from_scores(
            np.array([0, 1]), np.array([False]), np.array([1.0]), np.array([0]), (1,)
        )


def test_bounds_of_one_target_and_a_perfect_ranker() -> None:
    """HR / log2(k + 1) <= NDCG <= HR holds in expectation over ties, too; whoever puts the targets
    first earns 1.
    """
    draw = np.random.default_rng(3)
    scores, indptr = draw.integers(0, 30, 300 * 50).astype(float), np.arange(301) * 50
    is_target = np.zeros(300 * 50, bool)
    is_target[indptr[:-1] + draw.integers(0, 50, 300)] = True
    found = candidates.from_scores(indptr, is_target, scores, np.ones(300, int), (5, 10))
    for k in (5, 10):
        hit, ndcg = found[f"hit_rate@{k}"], found[f"ndcg@{k}"]
        assert (
            0 < hit.mean() < 1
            and (hit / np.log2(k + 1) <= ndcg + 1e-12).all()
            and (ndcg <= hit + 1e-12).all()
        )
    perfect = candidates.from_scores(
        indptr, is_target, is_target.astype(float), np.ones(300, int), (1, 10)
    )
    assert all((value == 1).all() for name, value in perfect.items() if name != "precision@10")
