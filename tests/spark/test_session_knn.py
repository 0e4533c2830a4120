"""Nearest sessions: by hand, against a plain loop over sessions, and to a score table."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.baselines import session_knn
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.errors import CheckpointError, DataError
from recsys_spark.scoring import scorer
from recsys_spark.stages import prepare, score, train_baseline
from tests.spark.chained import Chain

Sessions = list[tuple[int, list[int]]]  # (time, items oldest first)


def fit(spark: SparkSession, folder: Path, sessions: Sessions, items: int, **settings: Any) -> dict:
    rows = [
        (query, item, time, 1.0)
        for query, (time, session) in enumerate(sessions, 1)
        for item in session
    ]
    events = spark.createDataFrame(rows, "query_idx int, item_idx int, ts long, value double")
    training = Training(events, len(sessions), items, seed=1)
    return session_knn.write(training, session_knn.Config(**settings), folder)


def scores_of(folder: Path, queries: list[tuple[int, list[int]]], items: int) -> list[dict]:
    """{item: score above 0} of each (query_idx, history); None: cold."""
    batch = pa.RecordBatch.from_pydict(
        {
            c.QUERY_IDX: pa.array([query for query, _ in queries], pa.int32()),
            "history": pa.array([history for _, history in queries], pa.list_(pa.int32())),
            "seen": pa.array([[] for _ in queries], pa.list_(pa.int32())),
        }
    )
    _, listed, scores, cold = scorer.load(folder, k=items, seed=1).rank(batch).columns
    return [
        None if is_cold else {i: s for i, s in zip(*row, strict=True) if s > 0}
        for *row, is_cold in zip(
            listed.to_pylist(), scores.to_pylist(), cold.to_pylist(), strict=True
        )
    ]


def plain(sessions: Sessions, query: int, history: list[int], config: Any) -> dict[int, float]:
    """As the paper says it, session by session."""
    history = history[-config.last :] if config.last else history
    place = {item: len(history) - 1 - n for n, item in enumerate(history)}
    number = len(sessions)
    idf = {
        item: np.log((number + 1) / (1 + sum(item in session for _, session in sessions)))
        for item in range(1, 100)
    }
    sharing = [
        (time, other, set(session))
        for other, (time, session) in enumerate(sessions, 1)
        if other != query and set(session) & set(history)
    ]
    sharing = sorted(sharing, reverse=True)[: config.sample or None]
    near = []
    for time, other, session in sharing:
        common = session & set(history)
        likeness = sum(
            config.decay ** place[item] * (idf[item] if config.similarity_idf else 1)
            for item in common
        )
        likeness *= len(session) ** -config.normalise
        newest = min(place[item] for item in common)
        near.append((round(likeness, 6), time, other, session, newest))
    scores: dict[int, float] = {}
    for likeness, _, _, session, newest in sorted(near, key=lambda n: n[:3], reverse=True)[
        : config.neighbours
    ]:
        for item in session if likeness > 0 else ():
            gain = likeness * config.nearness**newest * (1 + config.score_idf * idf[item])
            scores[item] = scores.get(item, 0.0) + gain
    return scores


def test_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    """A history of 1, then 2. Session 1 shares both of its four items, 2 / sqrt(4); session 2 has
    the newer one of its two, 1 / sqrt(2); session 3 the older of one; 4 came first of all.
    """
    sessions = [(40, [1, 2, 3, 4]), (30, [2, 5]), (20, [1]), (10, [1, 6]), (50, [7, 8])]
    settings: dict[str, Any] = {"neighbours": 2, "sample": 3}
    facts = fit(spark, tmp_path / "cosine", sessions, 9, **settings)
    assert facts == {"sessions": 5, "pairs": 11, "postings": 11}
    # Session 3, likeness 1, and 1, likeness 1: session 2 is third
    [cosine, own, unknown, nothing] = scores_of(
        tmp_path / "cosine", [(0, [1, 2]), (1, [1, 2]), (0, [9, 0, 44]), (0, [])], 9
    )
    assert cosine == pytest.approx({1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0})
    # Session 1 itself is no neighbour: sessions 3, 2 and 4 are sampled, 3 and the later of 2 and 4
    assert own == pytest.approx({1: 1.0, 2: 0.5**0.5, 5: 0.5**0.5})
    assert unknown is None and nothing is None
    # Item 1 counts half; session 3 is one event older: 1/2 of 1/2
    fit(spark, tmp_path / "decayed", sessions, 9, **settings, decay=0.5, nearness=0.5, normalise=0)
    [decayed] = scores_of(tmp_path / "decayed", [(0, [1, 2])], 9)
    assert decayed == pytest.approx({1: 1.5, 2: 2.5, 3: 1.5, 4: 1.5, 5: 1.0})


@pytest.mark.parametrize(
    "settings",
    [
        {"neighbours": 4, "sample": 9, "decay": 0.7, "last": 3},
        {"neighbours": 6, "sample": 0, "nearness": 0.8, "similarity_idf": True, "score_idf": 2.0},
    ],
    ids=["sampled", "idf"],
)
def test_against_a_plain_loop(
    spark: SparkSession,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In blocks of queries; many sessions end at one time."""
    draw = random.Random(4)
    sessions = [
        (draw.randrange(8), draw.sample(range(1, 13), draw.randint(1, 6))) for _ in range(40)
    ]
    queries = [(query, items) for query, (_, items) in enumerate(sessions, 1)] + [(0, [3, 9, 1])]
    fit(spark, tmp_path / "index", sessions, 14, **settings)
    monkeypatch.setattr("recsys_spark.scoring.session_scorer._CELLS", 60)
    config = session_knn.Config(**settings)
    for scores, query in zip(scores_of(tmp_path / "index", queries, 14), queries, strict=True):
        assert scores == pytest.approx(plain(sessions, *query, config), rel=1e-5), query


def test_sessions_that_share_nothing_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no item in two of them.*popularity"):
        fit(spark, tmp_path / "index", [(1, [1, 2, 1]), (2, [3])], 3)
    assert not list(tmp_path.iterdir())


def test_a_broken_index_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    fit(spark, tmp_path / "index", [(1, [1, 2]), (2, [1, 3])], 3)
    path = tmp_path / "index" / "postings_indices.npy"
    np.save(path, np.full_like(np.load(path), 7))
    with pytest.raises(CheckpointError, match="sessions 7 to 7.*expected 1 to 2"):
        scorer.load(tmp_path / "index", k=2, seed=1)


def test_a_new_session_is_listed_by_what_came_before(spark: SparkSession, tmp_path: Path) -> None:
    """Two kinds of sessions, four items each: what is left of a kind is first in the lists of later
    sessions, none of which was fitted.
    """
    chain = Chain(spark, tmp_path)
    day = 86_400
    events = [
        (f"u{user}", f"{'ab'[user % 2]}{(user // 2 + n) % 4}", day * user + n, 1.0)
        for user in range(30)
        for n in range(4)
    ]
    chain.ingest(events)
    chain.run("sessions", prepare, source="ingest", rule="next_in_session", gap_s=1800)
    chain.run("knn", train_baseline, source="sessions", model="session_knn")
    chain.run("lists", score, model="knn", source="sessions", k=1)
    lists = chain.rows(c.RECOMMENDATIONS, "lists")
    held = {
        row[c.QUERY_ID]: row[c.ITEM_ID]
        for row in chain.rows(c.SPLITS, "sessions")
        if row[c.PART] == c.TEST
    }
    assert {row[c.QUERY_ID]: row[c.ITEM_ID] for row in lists} == held and len(held) >= 3
