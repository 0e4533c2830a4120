"""The score stage with models of rating profiles: what they are asked, from what, and in how many
rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession

from recsys_spark.batches.base import Ragged
from recsys_spark.batches.layouts.profile import Profile
from recsys_spark.batches.query import Query
from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import store
from recsys_spark.stages import export_shards, prepare, score, train_deep
from tests.spark.chained import Chain
from tests.spark.prepared import crowd
from tests.spark.test_score import deep


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(spark, tmp_path_factory.mktemp("profiles"))
    made.ingest(crowd(users=20, items=12, most=9))
    made.run("random", prepare, source="ingest", rule="random", fractions=(0.6, 0.2, 0.2))
    return made


@pytest.mark.parametrize("by", ["user", "item"])
def test_ratings_from_profiles(steps: Chain, by: str) -> None:
    """Each event of the part from what was known of its user (or item) before; those of whom
    nothing was are counted, and not left out.
    """
    name, mine, other = (
        f"autorec_{by}",
        *(("query_idx", "item_idx") if by == "user" else ("item_idx", "query_idx")),
    )
    trained = deep(steps, name, name, "random")
    run = steps.run(f"score_{name}", score, model=name, source="random")
    splits = steps.rows(c.SPLITS, "random")
    events = [row for row in splits if row.part == c.TEST]
    rows = {row.row_key: row for row in steps.rows(c.PREDICTIONS, f"score_{name}")}
    assert set(rows) == {f"{row.user_id}|{row.item_id}|{row.ts}" for row in events} and run.summary[
        "rows"
    ] == len(events) == len(rows)
    model, cold = store.load(Path(trained.run_dir) / "checkpoints" / "best").eval(), 0
    for event in events:
        known = [
            (row[other], row.value)
            for row in splits
            if row[mine] == event[mine] and row.part != c.TEST
        ]
        cold += not known
        lists = [
            Ragged(torch.tensor([0, len(entries)]), torch.tensor(entries, dtype=torch.int32))
            for entries in ([entry for entry, _ in known], [event[other]])
        ]
        profile = Profile(
            torch.tensor([event[mine]]),
            lists[0],
            torch.tensor([value for _, value in known], dtype=torch.float32),
            torch.zeros(1, dtype=torch.int64),
            lists[1],
            torch.zeros(1),
        )
        row = rows[f"{event.user_id}|{event.item_id}|{event.ts}"]
        assert row.label == event.value and row.value == pytest.approx(
            model.predict(profile)["rating"].item(), abs=1e-5
        )
    other_side = "item" if by == "user" else "user"
    assert (
        run.summary["cold"] == cold
        and run.summary["fallback"] == f"what is known of the {other_side}, and of fields"
    )
    assert len({row.value for row in rows.values()}) > 5


def test_a_model_of_users_profiles_ranks_by_ratings_and_one_of_items_refuses(steps: Chain) -> None:
    trained = deep(steps, "autorec_rank", "autorec_user", "random")
    steps.run("rank_autorec", score, model="autorec_rank", source="random", task="ranking", k=3)
    splits = steps.rows(c.SPLITS, "random")
    user = next(row for row in splits if row.part == c.TRAIN)
    known = [row for row in splits if row.user_id == user.user_id and row.part != c.TEST]
    query = Query(
        torch.tensor([user.query_idx]),
        Ragged(torch.tensor([0, len(known)]), torch.tensor([row.item_idx for row in known])),
        torch.tensor([row.value for row in known], dtype=torch.float32),
    )
    scores = (
        store.load(Path(trained.run_dir) / "checkpoints" / "best").eval().score(query)[0].tolist()
    )
    numbers = {row.item_id: row.item_idx for row in splits}
    mine = [
        row for row in steps.rows(c.RECOMMENDATIONS, "rank_autorec") if row.query_id == user.user_id
    ]
    assert mine and all(
        row.score == pytest.approx(scores[numbers[row.item_id]], abs=1e-4) for row in mine
    )
    deep(steps, "autorec_items", "autorec_item", "random")
    with pytest.raises(
        ConfigError,
        match="task: found ranking, of autorec_items, which reads items' profiles; expected rating",
    ):
        score.plan(
            steps.context("refused"),
            score.Job(model="autorec_items", source="random", task="ranking"),
        )


def test_a_refitted_model_knows_the_validation_events_and_does_not_score_them(steps: Chain) -> None:
    for step, fit in (("items", "train"), ("all_items", "train+valid")):
        steps.run(step, export_shards, source="random", layout="profile", by="item", fit=fit)
    train = {"epochs": 2, "batch_size": 8, "reader": {"engine": "arrow"}}
    made = steps.run(
        "refitted",
        train_deep,
        shards="items",
        refit="all_items",
        model="autorec_item",
        config={"hidden_dim": 4},
        train=train,
    )
    splits = steps.rows(c.SPLITS, "random")
    model = store.load(Path(made.run_dir) / made.summary["checkpoint"])
    met = {row.query_idx for row in splits if row.part in (c.TRAIN, c.VALID)}
    assert (
        {int(user) for user in torch.nonzero(model.last_bias)}
        == met
        > {row.query_idx for row in splits if row.part == c.TRAIN}
    )
    assert steps.run("score_refitted", score, model="refitted", source="random").summary[
        "rows"
    ] == sum(r.part == c.TEST for r in splits)
    with pytest.raises(
        ConfigError, match="on which the model was fitted.*leave out refit in step refitted"
    ):
        score.plan(
            steps.context("refused"), score.Job(model="refitted", source="random", part="valid")
        )
