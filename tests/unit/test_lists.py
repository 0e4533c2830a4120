"""What lists are like: hand-computed cases, plain loops on random input, bounds."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from recsys_spark.metrics import lists, ranking, slices
from recsys_spark.metrics.catalogue import Catalogue

# Items 1..5 with 8, 4, 2, 2, 0 training events.
CATALOGUE = Catalogue.of(
    np.array([0, 8, 4, 2, 2, 0]),
    {"genre": ["", "a|b", "a", "b|c", "", "a|b"]},
    np.array([0, 1, 1, 1, 1, 1]),
)
ITEMS = np.array([[1, 2, 5], [3, 0, 0], [0, 0, 0]])


def test_popularity_novelty_and_cold_share_by_hand() -> None:
    by_hand = {
        lists.mean_popularity: [[6, 2, np.nan], [4, 2, np.nan]],
        # Of 16 events; a cold item counts as one with one event
        lists.novelty: [
            [1.5, 3, np.nan],
            [(1 + 2 + 4) / 3, 3, np.nan],
        ],
        lists.cold_share: [[0, 0, np.nan], [1 / 3, 0, np.nan]],
    }
    for measure, expected in by_hand.items():
        for found, row in zip(measure(ITEMS, CATALOGUE, (2, 3)), expected, strict=True):
            np.testing.assert_allclose(found, row, atol=1e-15, err_msg=str(measure))


def test_diversity_by_hand() -> None:
    # Vectors: item 1 and 5 (a, b)/sqrt 2, item 2 (a): cosines 1/sqrt 2 with item 2, and 1 with each
    # other.
    found = lists.diversity(ITEMS, CATALOGUE.vectors, (2, 3))
    assert found[0][0] == pytest.approx(1 - 1 / math.sqrt(2)) and found[1][0] == pytest.approx(
        1 - (2 / math.sqrt(2) + 1) / 3
    )
    assert np.isnan(
        [found[0][1], found[1][1], found[1][2]]
    ).all()  # a single item, and none, are not diverse
    alike, nothing = np.array([[1, 5, 0], [4, 4, 4]])[:, None]
    assert lists.diversity(alike, CATALOGUE.vectors, (3,))[0] == pytest.approx(0, abs=1e-15)
    assert np.isnan(lists.diversity(nothing, CATALOGUE.vectors, (3,))[0])  # item 4 has no genre


def test_diversity_is_the_mean_over_all_pairs() -> None:
    draw = np.random.default_rng(0)
    fields = [
        "",
        *(
            "|".join(draw.choice(list("abcdefg"), draw.integers(0, 4), replace=False))
            for _ in range(40)
        ),
    ]
    catalogue = Catalogue.of(np.array([0] + [1] * 40), {"tag": fields}, np.ones(41, int))
    items = np.stack([draw.permutation(40)[:12] + 1 for _ in range(50)])
    for k, found in zip(
        (2, 7, 12), lists.diversity(items, catalogue.vectors, (2, 7, 12)), strict=True
    ):
        for row, value in zip(items, found, strict=True):
            sets = [set(fields[item].split("|")) for item in row[:k] if fields[item]]
            pairs = [1 - len(a & b) / math.sqrt(len(a) * len(b)) for a, b in combinations(sets, 2)]
            assert (np.isnan(value) and not pairs) or value == pytest.approx(
                np.mean(pairs), abs=1e-9
            )


def test_serendipity_by_hand() -> None:
    # Popular: items 1 2 3 4 5. The user knows item 1, so that popularity alone would show 2 (k =
    # 1), 2 and 3 (k = 2), 2 3 4 (k = 3).
    expected = lists.expected_until(np.array([0, 2]), np.array([1, 1]), CATALOGUE.place, (1, 2, 3))
    assert expected.tolist() == [[2, 3, 4]]
    items, targets = np.array([[4, 2, 5]]), np.array([2, 4, 5])
    found = lists.serendipity(
        items, np.array([0, 3]), targets, expected, CATALOGUE.place, (1, 2, 3)
    )
    # Item 4 surprises at 1 and 2, item 5 at 3
    assert [float(value[0]) for value in found] == pytest.approx([1, 1 / 2, 1 / 3])


def test_serendipity_is_what_remains_of_precision_without_the_popular_list() -> None:
    draw = np.random.default_rng(1)
    events = np.concatenate([[0], draw.integers(0, 50, 30)])
    catalogue = Catalogue.of(events, {}, np.ones(31, int))
    best = sorted(range(1, 31), key=lambda item: (-events[item], item))
    known = [draw.permutation(30)[: draw.integers(0, 12)] + 1 for _ in range(80)]
    targets = [np.setdiff1d(draw.permutation(30)[:5] + 1, some) for some in known]
    kept = [user for user in range(80) if len(targets[user])]
    known, targets = [known[user] for user in kept], [targets[user] for user in kept]
    items = np.stack([np.setdiff1d(draw.permutation(30) + 1, some)[:10] for some in known])
    ends = [
        np.concatenate([[0], np.cumsum([len(some) for some in sets])]) for sets in (known, targets)
    ]
    expected = lists.expected_until(ends[0], np.concatenate(known), catalogue.place, (3, 10))
    both = lists.serendipity(
        items, ends[1], np.concatenate(targets), expected, catalogue.place, (3, 10)
    )
    for k, found in zip((3, 10), both, strict=True):
        precision = ranking.from_lists(items, ends[1], np.concatenate(targets), (k,))[
            f"precision@{k}"
        ]
        assert (found <= precision).all() and (found < precision).any() and (found > 0).any()
        for user in range(len(known)):
            popular = [item for item in best if item not in known[user]][:k]
            assert found[user] == pytest.approx(
                len((set(items[user, :k]) & set(targets[user])) - set(popular)) / k, abs=1e-12
            )


def test_the_popular_list_itself_is_no_surprise() -> None:
    expected = lists.expected_until(np.array([0, 0]), np.array([], int), CATALOGUE.place, (3,))
    assert (
        lists.serendipity(
            np.array([[1, 2, 3]]),
            np.array([0, 3]),
            np.array([1, 2, 3]),
            expected,
            CATALOGUE.place,
            (3,),
        )[0]
        == 0
    )


def test_items_are_sliced_by_popularity_novelty_and_field() -> None:
    found = dict(zip(CATALOGUE.labels, CATALOGUE.members.tolist(), strict=True))
    # Of 16 events: item 1 begins after 0, item 2 after 8 (the third quarter), items 3 and 4 after
    # 12 and 14 (the fourth).
    assert {
        label: [item for item in range(6) if inside[item]] for label, inside in found.items()
    } == {
        "item_popularity:1": [3, 4],
        "item_popularity:2": [2],
        "item_popularity:3": [],
        "item_popularity:4": [1],
        "items:new": [5],
        "items:known": [1, 2, 3, 4],
        "item.genre:a": [1, 2, 5],
        "item.genre:b": [1, 3, 5],
        "item.genre:c": [3],
        "item.genre:none": [4],
    }
    assert CATALOGUE.place.tolist() == [0, 1, 2, 3, 4, 5] and CATALOGUE.size == 4


def test_a_field_has_twenty_slices_and_the_rest_together() -> None:
    fields = ["", *(f"v{item % 30:02d}" for item in range(1, 100))]
    catalogue = Catalogue.of(np.array([0] + [1] * 99), {"f": fields}, np.ones(100, int))
    named = [label for label in catalogue.labels if label.startswith("item.f:")]
    assert (
        len(named) == slices.TOP + 1
        and named[:2] == ["item.f:v01", "item.f:v02"]
        and named[-1] == "item.f:other"
    )
    of_field = catalogue.members[[catalogue.labels.index(label) for label in named]]
    assert (of_field[:, 1:].sum(axis=0) == 1).all()


def test_users_are_dealt_by_activity_newness_and_field() -> None:
    users = slices.Users((1.0, 2.5, 4.0), True, {"sex": ("F", "none")})
    events = np.array([0, 1, 2, 3, 5])
    found = {
        family.labels: [family.labels[code] for code in family.codes]
        for family in slices.families(users, events, {"sex": ["F", None, "M", "", "F"]})
    }
    assert list(found.values()) == [
        ["activity:1", "activity:1", "activity:2", "activity:3", "activity:4"],
        ["users:new", "users:known", "users:known", "users:known", "users:known"],
        ["user.sex:F", "user.sex:none", "user.sex:other", "user.sex:none", "user.sex:F"],
    ]
