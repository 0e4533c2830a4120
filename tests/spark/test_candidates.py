"""Candidates: what is drawn and what is published, and a score step that ranks exactly those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.stages import candidates, evaluate, prepare, score, train_baseline
from tests.spark.chained import Chain
from tests.spark.prepared import crowd

# Users 0, 1, 9, 10, 18 and 19 have one or two events, and train with them
EVENTS = crowd(users=20, items=12, most=9)


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    made = Chain(spark, tmp_path_factory.mktemp("candidates"))
    made.ingest(EVENTS)
    made.run("last_out", prepare, source="ingest")
    made.run("drawn", candidates, source="last_out", draws=4)
    made.run("popularity", train_baseline, source="last_out", model="popularity")
    return made


def touched() -> dict[str, set[str]]:
    return {user: {item for who, item, *_ in EVENTS if who == user} for user, *_ in EVENTS}


def targets(steps: Chain) -> dict[str, str]:
    return {
        row.user_id: row.item_id for row in steps.rows(c.SPLITS, "last_out") if row.part == c.TEST
    }


def published(path: Path, steps: Chain, **change: str) -> Path:
    """NCF's form: every user's target and three items; `change` gives other lines to some."""
    lines = {user: f"({user},{item})\ti0\ti1\ti2" for user, item in targets(steps).items()} | change
    path.write_text("".join(f"{line}\n" for line in lines.values() if line))
    return path


def test_drawn_candidates_are_the_target_and_items_the_user_never_touched(steps: Chain) -> None:
    of_user: dict[str, list[Any]] = {}
    for row in steps.rows(c.CANDIDATES, "drawn"):
        assert (row.split, row.part) == ("leave_last_out", "test")
        of_user.setdefault(row.query_id, []).append(row)
    assert set(of_user) == set(targets(steps)) and len(of_user) == 14
    for user, rows in of_user.items():
        assert [row.item_id for row in rows if row.source == "target"] == [targets(steps)[user]]
        negatives = {row.item_id: row.position for row in rows if row.source == "sampled"}
        count = min(4, 12 - len(touched()[user]))
        assert not set(negatives) & touched()[user] and sorted(negatives.values()) == list(
            range(1, count + 1)
        )
    facts = steps.done["drawn"].summary
    assert facts["queries"] == facts["targets"] == 14 and facts["rows"] == sum(
        map(len, of_user.values())
    )
    again = steps.run("drawn_again", candidates, source="last_out", draws=4)
    both = [steps.rows(c.CANDIDATES, step) for step in ("drawn", "drawn_again")]
    one, other = ({(row.query_id, row.item_id, row.position) for row in rows} for rows in both)
    assert one == other and again.summary == facts


def test_a_score_step_ranks_exactly_the_candidates(steps: Chain) -> None:
    run = steps.run("score", score, model="popularity", source="last_out", candidates="drawn", k=1)
    offered = {(row.query_id, row.item_id) for row in steps.rows(c.CANDIDATES, "drawn")}
    rows = steps.rows(c.RECOMMENDATIONS, "score")
    assert len(rows) == len(offered) and {(row.query_id, row.item_id) for row in rows} == offered
    assert (
        run.summary["queries"] == 14
        and run.summary["candidates"] == steps.done["drawn"].summary["most"]
        and "k" not in run.summary
    )
    for user in targets(steps):
        mine = sorted((row for row in rows if row.query_id == user), key=lambda row: row.rank)
        assert [row.rank for row in mine] == list(range(1, len(mine) + 1))
        assert [row.score for row in mine] == sorted((row.score for row in mine), reverse=True)
    counts = {
        item: sum(
            row.item_id == item and row.part != c.TEST for row in steps.rows(c.SPLITS, "last_out")
        )
        for _, item in offered
    }
    assert all(row.score == counts[row.item_id] for row in rows)


def test_published_candidates_are_sets_and_what_is_odd_is_counted(
    steps: Chain, tmp_path: Path
) -> None:
    wanted = targets(steps)
    (first, own), (second, other), *_ = sorted(wanted.items())
    seen = next(iter(touched()[second] - {other}))
    lines = {
        first: f"({first},{own})\ti0\t{own}\ti0\tnowhere",
        second: f"({second},{other})\t{seen}",
    }
    path = published(tmp_path / "test.negative", steps, **lines)
    run = steps.run("from_file", candidates, source="last_out", published=str(path))
    rows = {
        (row.query_id, row.item_id): (row.source, row.position)
        for row in steps.rows(c.CANDIDATES, "from_file")
    }
    assert len(rows) == len(steps.rows(c.CANDIDATES, "from_file")) == run.summary["rows"]
    assert {item: told for (user, item), told in rows.items() if user == second} == {
        other: ("target", 0),
        seen: ("published", 1),
    }
    assert rows[first, own] == ("target", 0) and all(
        rows[user, item] == ("target", 0) for user, item in wanted.items()
    )
    among = 1 + sum(
        item in ("i0", "i1", "i2") for user, item in wanted.items() if user not in (first, second)
    )
    facts = {
        name: run.summary[name]
        for name in ("targets_among_negatives", "repeated_negatives", "unknown_negatives")
    }
    assert facts == {
        "targets_among_negatives": among,
        "repeated_negatives": 1,
        "unknown_negatives": 1,
    }
    assert run.summary["touched_negatives"] >= 1 and run.summary["source"] == "published"


@pytest.mark.parametrize(
    ("user", "line", "message"),
    [
        (
            "u2",
            "",
            r"found 1 pairs of part test whose user has no line, first \('u2', .*expected a line "
            r"for every user of the part",
        ),
        (
            "u2",
            "(u2,elsewhere)\ti0",
            r"found 1 lines whose pair is not in part test, first \('u2', 'elsewhere'\); .* take "
            r"the file",
        ),
        (
            "u2",
            "u2 i0 i1",
            r"found 'u2 i0 i1'; expected lines of `\(user,item\)`, a tab, .*NCF's format",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    steps: Chain, tmp_path: Path, user: str, line: str, message: str
) -> None:
    path = published(tmp_path / "test.negative", steps, **{user: line})
    with pytest.raises(DataError, match=message):
        candidates.run(
            steps.context("refused"), candidates.Job(source="last_out", published=str(path))
        )


def test_a_published_file_is_part_of_the_steps_key(tmp_path: Path) -> None:
    job = candidates.Job(source="s", published=str(tmp_path / "test.negative"))
    with pytest.raises(
        DataError, match=r"test\.negative: found no such file; .*or leave it out to draw"
    ):
        candidates.source_fingerprint(job, tmp_path)
    (tmp_path / "test.negative.gz").write_bytes(b"one")
    before = candidates.source_fingerprint(job, tmp_path)
    (tmp_path / "test.negative.gz").write_bytes(b"two")
    assert (
        before != candidates.source_fingerprint(job, tmp_path)
        and candidates.source_fingerprint(candidates.Job(source="s"), tmp_path) == ""
    )
    with pytest.raises(ValidationError, match="draws or published, not both"):
        candidates.Job(source="s", published="x", draws=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"candidates": "last_out"},
            r"step refused, candidates: found last_out, a step of stage prepare; expected one of "
            r"stage candidates",
        ),
        (
            {"part": "valid", "candidates": "drawn", "model": "early"},
            r"found drawn, which is for part test; expected candidates for part valid\. To mend: "
            r"set the same part",
        ),
    ],
)
def test_candidates_that_do_not_fit_are_refused(
    steps: Chain, change: dict[str, str], message: str
) -> None:
    if change.get("model") == "early" and "early" not in steps.done:
        steps.run("early", train_baseline, source="last_out", model="popularity", fit="train")
    with pytest.raises(ConfigError, match=message):
        score.plan(
            steps.context("refused"),
            score.Job(**{"model": "popularity", "source": "last_out", **change}),
        )
    told = score.plan(
        steps.context("dry"), score.Job(model="popularity", source="last_out", candidates="drawn")
    )
    assert told["rows"] == steps.done["drawn"].summary["rows"]


def test_sessions_are_asked_for_their_next_event(spark: SparkSession, tmp_path: Path) -> None:
    """Sessions are the users: rules between items of one training session say what comes last in a
    later one.
    """
    made, hour = Chain(spark, tmp_path), 3600
    made.ingest(
        [
            (f"u{n % 5}", item, n * hour + place, 1.0)
            for n in range(40)
            for place, item in enumerate(("bread", "butter") if n % 2 else ("tea", "milk", "sugar"))
        ]
    )
    split = made.run(
        "sessions",
        prepare,
        source="ingest",
        rule="next_in_session",
        gap_s=60,
        fractions=(0.6, 0.2, 0.2),
    ).summary
    assert (
        split["users"] == split["num_users"] == 40
        and split["held_out"]
        and split["valid"] == split["test"] == 8
    )
    made.run(
        "rules",
        train_baseline,
        source="sessions",
        model="association_rules",
        config={"min_support": 0.1},
    )
    made.run("popularity", train_baseline, source="sessions", model="popularity")
    for model in ("rules", "popularity"):
        assert (
            made.run(f"score_{model}", score, model=model, source="sessions", k=5).summary[
                "queries"
            ]
            == 8
        )
    measured = made.run(
        "measured", evaluate, source="sessions", of=["score_rules", "score_popularity"], ks=[1, 5]
    )
    assert split["query_kind"] == measured.summary["query_kind"] == "session"
    lake = made.lake
    sessions = lake.read(c.QUERY_INDEX).select("query_kind", "query_id", "query_idx").collect()
    assert {row[0] for row in sessions} == {"session"} and ("u3#7" in {row[1] for row in sessions})
    assert sorted(row[2] for row in sessions) == list(range(1, 41))
    assert not lake.exists(c.USER_INDEX), "users alone are numbered there"
    kinds = lake.read(c.RECOMMENDATIONS).select("query_kind").distinct().collect()
    assert [row[0] for row in kinds] == ["session"]
    first = {
        row["model"]: row["value"]
        for row in measured.summary["results"]
        if (row["metric"], row["k"]) == ("recall", 1)
    }
    assert first["association_rules"] == 1.0 > first["popularity"]
    lists = {
        made.done[f"score_{model}"].output_versions[c.RECOMMENDATIONS]
        for model in ("rules", "popularity")
    }
    read = {
        version
        for table, version in measured.input_versions.items()
        if table.startswith(c.RECOMMENDATIONS)
    }
    assert read == lists  # both are on record


def test_new_items_are_ranked_among_themselves(spark: SparkSession, tmp_path: Path) -> None:
    made = Chain(spark, tmp_path)
    made.ingest(EVENTS)
    made.run("cold", prepare, source="ingest", rule="cold_items", valid_items=2, test_items=4)
    run = made.run("new", candidates, source="cold", among="new_items")
    rows = made.rows(c.SPLITS, "cold")
    new = {row.item_id for row in rows if row.part == c.TEST}
    wanted = {(row.user_id, row.item_id) for row in rows if row.part == c.TEST}
    offered = {(row.query_id, row.item_id): row.source for row in made.rows(c.CANDIDATES, "new")}
    assert len(new) == 4 and set(offered) == {
        (user, item) for user in {who for who, _ in wanted} for item in new
    }
    assert {pair for pair, source in offered.items() if source == "target"} == wanted
    assert run.summary["rows"] == len(offered) and run.summary["fewest"] == run.summary["most"] == 4

    made.run("popularity", train_baseline, source="cold", model="popularity")
    made.run("score", score, model="popularity", source="cold", candidates="new")
    measured = made.run("measured", evaluate, source="cold", of=["score"])
    values = {
        row["metric"]: row["value"] for row in measured.summary["results"] if row["k"] in (0, 10)
    }
    assert {row["task"] for row in measured.summary["results"]} == {"new_item_ranking"}
    # Nothing is known of them: chance
    assert values["auc"] == pytest.approx(0.5) and values["recall"] == pytest.approx(1.0)
    with pytest.raises(ValidationError, match="neither draws nor published"):
        candidates.Job(source="s", among="new_items", draws=5)
