"""The second stage learns which of two models to trust with whom, where that is what decides, and
gains nothing where it is not.
"""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.baselines.fitting import trees
from recsys_spark.etl import union

NAMES = tuple(union.features(["a", "b"]))
LISTS, WIDTH = 300, 8
CONFIG = trees.Config(trees=40, leaves=7, min_items=10)


def world(seed: int, caused: bool) -> trees.Lists:
    """Lists of eight items in two orders. What `a` has first is wanted by queries of few events,
    what `b` has first by those of many; without the cause by either half of them.
    """
    draw = np.random.default_rng(seed)
    values = np.full((LISTS, WIDTH, len(NAMES)), np.nan, np.float32)
    ranks = {name: draw.permuted(np.tile(np.arange(1, WIDTH + 1), (LISTS, 1)), axis=1)
             for name in "ab"}  # fmt: skip
    for name, rank in ranks.items():
        values[..., NAMES.index(f"{name}_rank")] = rank
    values[..., NAMES.index("fused")] = sum(1 / (60 + rank) for rank in ranks.values())
    events = draw.integers(1, 100, LISTS)
    values[..., NAMES.index("query_events")] = events[:, None]
    trusts_a = (events < 50) if caused else draw.random(LISTS) < 0.5
    wanted = np.where(trusts_a[:, None], ranks["a"] == 1, ranks["b"] == 1)
    flat = values.reshape(-1, len(NAMES))
    return trees.Lists(flat, wanted.ravel().astype(np.int32), np.full(LISTS, WIDTH))


def hit_rate(text: str, lists: trees.Lists) -> float:
    import lightgbm

    scores = lightgbm.Booster(model_str=text).predict(lists.values).reshape(LISTS, WIDTH)
    return float(lists.wanted.reshape(LISTS, WIDTH)[np.arange(LISTS), scores.argmax(1)].mean())


@pytest.mark.parametrize(("caused", "low", "high"), [(True, 0.9, 1.0), (False, 0.4, 0.65)])
def test_it_learns_whom_to_trust_with_whom(caused: bool, low: float, high: float) -> None:
    text, facts = trees.fit(world(1, caused), NAMES, CONFIG, seed=1)
    assert low <= hit_rate(text, world(2, caused)) <= high  # fused: .56, one list alone: .56
    assert trees.fit(world(1, caused), NAMES, CONFIG, seed=1)[0] == text
    assert facts["lists"] == LISTS and 1 <= facts["trees"] <= CONFIG.trees


def test_the_number_of_trees_is_chosen_on_lists_that_they_were_not_grown_on() -> None:
    lists = world(1, caused=False)
    noise = np.random.default_rng(4).permuted(lists.wanted.reshape(LISTS, WIDTH), axis=1).ravel()
    without_cause = trees.Lists(lists.values, noise, lists.lengths)
    assert trees.fit(without_cause, NAMES, CONFIG, seed=1)[1]["trees"] < CONFIG.trees
    whole = CONFIG.model_copy(update={"judged": 0.0})
    assert trees.fit(without_cause, NAMES, whole, seed=1)[1]["trees"] == CONFIG.trees
    first, rest = lists.first(3), lists.after(3)
    assert first.wanted.tolist() == lists.wanted[: 3 * WIDTH].tolist()
    assert len(rest.lengths) == LISTS - 3 and len(rest.values) == (LISTS - 3) * WIDTH
