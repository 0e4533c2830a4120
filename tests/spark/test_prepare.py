"""The prepare stage: what it writes, what a rerun or a kill changes, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.classic.dataframe import DataFrame as ClassicDataFrame

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.etl import filters, index, repeats
from recsys_spark.etl.filters import Filters
from recsys_spark.lake.schemas import SCHEMAS
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import lineage
from recsys_spark.stages import prepare
from tests.logs import logged
from tests.rawsets import completed
from tests.spark.prepared import Steps, crowd

EVENTS = crowd()


@pytest.fixture
def steps(spark: SparkSession, tmp_path: Path) -> Steps:
    made = Steps(spark, tmp_path)
    made.ingest(EVENTS)
    return made


REPEATED = [
    ("u", item, time, value)
    for item, time, value in (("a", 1, 5.0), ("b", 2, 3.0), ("c", 3, 1.0), ("a", 4, 2.0))
]


KEPT = {
    "events": [("a", 1, 5.0), ("a", 4, 2.0), ("b", 2, 3.0), ("c", 3, 1.0)],
    "latest": [("a", 4, 2.0), ("b", 2, 3.0), ("c", 3, 1.0)],
    "first": [("a", 1, 5.0), ("b", 2, 3.0), ("c", 3, 1.0)],
    "sum": [("a", 4, 7.0), ("b", 2, 3.0), ("c", 3, 1.0)],
}


def test_what_a_second_event_of_one_user_and_item_means(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        REPEATED, "user_id string, item_id string, ts long, value double"
    )
    for name, kept in KEPT.items():
        rows = repeats.apply(events, name).select(c.ITEM_ID, c.TS, c.VALUE).collect()
        assert sorted(map(tuple, rows)) == kept, name


def test_a_held_out_event_that_no_list_can_hit_is_said(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps(spark, tmp_path)
    steps.ingest(REPEATED)
    ingested = steps.done["ingest"]
    for name in ("latest", "events"):
        config = {"repeats": name, "source": {}}
        steps.done["ingest"] = ingested.model_copy(update={"config": config})
        summary = steps.run(name, prepare, source="ingest", split=name).summary
        written = steps.lake.read(c.SPLITS).where(F.col(c.SPLIT) == name).collect()
        assert sorted((row.item_id, row.ts, row.value) for row in written) == KEPT[name]
        assert summary.get("test_repeated") == (1 if name == "events" else None)
        assert ("cannot hit them" in logged(caplog)) == (name == "events")


ROW = (c.SPLIT, c.QUERY_IDX, c.ITEM_IDX, c.QUERY_ID, c.ITEM_ID, c.TS, c.VALUE, c.PART)


def rows(lake: Lake, split: str) -> list[tuple[Any, ...]]:
    return sorted(
        tuple(row) for row in lake.read(c.SPLITS).where(f"split = '{split}'").select(*ROW).collect()
    )


def numbers(lake: Lake, table: str) -> dict[str, int]:
    return {row[0]: row[1] for row in lake.read(table).collect()}


def test_every_event_gets_a_part_and_numbers_and_a_rerun_changes_nothing(steps: Steps) -> None:
    run = steps.run("prepare", prepare, source="ingest")
    written = rows(steps.lake, "leave_last_out")
    users, items = numbers(steps.lake, c.USER_INDEX), numbers(steps.lake, c.ITEM_INDEX)
    assert sorted((row[3], row[4], row[5], row[6]) for row in written) == sorted(EVENTS)
    assert all(row[1] == users[row[3]] and row[2] == items[row[4]] for row in written)
    assert sorted(users.values()) == list(range(1, 31)) and sorted(items.values()) == list(
        range(1, len(items) + 1)
    )
    # Users 0, 1, 14, 15, 28 and 29 have one or two events, so 24 have a held-out pair.
    assert {part: run.summary[part] for part in ("train", "valid", "test")} == {
        "train": len(EVENTS) - 48,
        "valid": 24,
        "test": 24,
    }
    assert (
        run.summary["users_all_train"] == 6
        and run.summary["users"] == 30
        and run.summary["num_items"] == len(items)
    )
    assert run.input_versions == {c.INTERACTIONS: 1} and run.output_versions[c.INTERACTIONS] == 1

    again = steps.run("prepare", prepare, source="ingest")
    assert again.summary == run.summary and rows(steps.lake, "leave_last_out") == written
    # The indices made no commit
    assert again.output_versions | {c.SPLITS: 0} == run.output_versions | {c.SPLITS: 0}


def test_steps_share_the_indices_which_only_grow(steps: Steps) -> None:
    steps.run("few", prepare, source="ingest", split="few", filters=Filters(min_user_events=10))
    few, users = rows(steps.lake, "few"), numbers(steps.lake, c.USER_INDEX)
    # U9 to u13 and u23 to u27 have 10 to 14
    assert {row[3] for row in few} == set(users) and len(users) == 10
    run = steps.run("random", prepare, source="ingest", rule="random", fractions=(0.6, 0.2, 0.2))
    assert (
        users.items() < numbers(steps.lake, c.USER_INDEX).items() and run.summary["num_users"] == 30
    )
    assert rows(steps.lake, "few") == few and len(rows(steps.lake, "random")) == len(EVENTS)


@pytest.mark.soak
def test_killed_before_the_split_is_written_then_rerun_is_one_clean_run(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Lake, "replace", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            steps.run("prepare", prepare, source="ingest")
    run = steps.run("prepare", prepare, source="ingest")
    clean = Steps(steps.spark, steps.root / "clean")
    clean.ingest(list(reversed(EVENTS)))
    assert (
        clean.run("prepare", prepare, source="ingest").summary["fingerprint"]
        == run.summary["fingerprint"]
    )
    assert rows(clean.lake, "leave_last_out") == rows(steps.lake, "leave_last_out")


def test_filters_count_what_each_dropped_in_one_job(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [("a", "x", 9, 5.0), ("a", "x", 1, 1.0), ("a", "x", 1, 5.0), ("a", "y", 1, 5.0)]
    events += [("b", "x", 2, 5.0), ("b", "x", 3, 5.0), ("b", "x", 4, 4.0)]
    rows = spark.createDataFrame(events, "user_id string, item_id string, ts long, value double")
    actions, count = [], ClassicDataFrame.count
    monkeypatch.setattr(ClassicDataFrame, "count", lambda frame: actions.append(1) or count(frame))
    wanted = Filters(min_value=2.0, min_item_events=2, min_user_events=2)
    kept, dropped = filters.apply(rows, wanted, until=9)
    assert dropped == {"later": 1, "min_value": 1, "min_item_events": 1, "min_user_events": 1}
    assert len(actions) == 1
    assert sorted(tuple(row) for row in kept.collect()) == sorted(events[4:])
    kept.unpersist()


def test_two_prepare_steps_at_once_never_give_one_number_to_two_ids(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another step numbers its ids after ours has counted, and before ours has committed."""
    ctx = Steps(spark, tmp_path).context("prepare")
    new_ids, other_ids = (
        spark.createDataFrame([(name,) for name in names], "user_id string")
        for names in (("ann", "bob", "eve"), ("bob", "kim"))
    )
    number = index.number

    def overtaken(new: DataFrame, *rest: Any) -> tuple[DataFrame, int]:
        numbered = number(new, *rest)
        monkeypatch.setattr(index, "number", number)
        prepare._extend_index(ctx, c.USER_INDEX, other_ids, c.USER_ID, c.USER_IDX)
        return numbered

    monkeypatch.setattr(index, "number", overtaken)
    version, highest = prepare._extend_index(ctx, c.USER_INDEX, new_ids, c.USER_ID, c.USER_IDX)
    rows = ctx.lake.read(c.USER_INDEX, version).collect()
    assert sorted(row.user_id for row in rows) == ["ann", "bob", "eve", "kim"]
    assert sorted(row.user_idx for row in rows) == [1, 2, 3, highest] == [1, 2, 3, 4]


def test_a_split_is_read_without_rows_of_another_run_of_its_name(
    spark: SparkSession, tmp_path: Path
) -> None:
    """The version may hold both: a split of one name is replaced by whoever writes it last."""
    ctx = Steps(spark, tmp_path).context("export")
    row = {"split": "s", "run_id": "prepare-1", "query_idx": 1}
    rows = [row, row | {"run_id": "prepare-2"}, row | {"split": "other"}]
    names = SCHEMAS[c.SPLITS].fieldNames()
    stored = [tuple(row.get(name) for name in names) for row in rows]
    version = ctx.lake.append(
        c.SPLITS, spark.createDataFrame(stored, SCHEMAS[c.SPLITS]), txn=("rows", 1)
    )
    ctx.inputs = {
        "prepare": completed("prepare-1", "prepare", {}).model_copy(
            update={"summary": {"split": "s"}, "output_versions": {c.SPLITS: version}}
        )
    }
    read = lineage.split_rows(ctx, "prepare").collect()
    assert [(row.split, row.run_id) for row in read] == [("s", "prepare-1")]


def test_nothing_left_is_refused_before_anything_is_written(steps: Steps) -> None:
    with pytest.raises(
        DataError,
        match=r"interactions, version 1: found no event after .*min_value.*; expected at least "
        r"one. To mend: loosen the filters of the step",
    ):
        steps.run("prepare", prepare, source="ingest", filters=Filters(min_value=6.0))
    assert not any(steps.lake.exists(table) for table in (c.SPLITS, c.USER_INDEX, c.ITEM_INDEX))


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"rule": "rolling_"},
            r"split, rule: found 'rolling_'; expected one of leave_last_out, .*\(did you mean "
            r"'rolling'\?\)",
        ),
        (
            {"rule": "random", "fractions": (0.9, 0.2, 0.1)},
            "rule random, fractions: found .*adding up to 1",
        ),
        ({"rule": "random", "fractions": (1.0, 0.0, 0.0)}, "test above 0"),
        (
            {"fractions": (0.8, 0.1, 0.1)},
            "rule leave_last_out, unknown key fractions: found .*; expected one of hold",
        ),
        ({"hold": 0}, "rule leave_last_out, hold: found 0; expected .*at least 1"),
        (
            {"rule": "strong", "test_user": 3},
            r"rule strong, unknown key test_user: found 3; .*\(did you mean 'test_users'\?\)",
        ),
        (
            {"rule": "strong", "test_users": 1.5},
            "rule strong, test_users: found 1.5; expected .*a whole number, or a share below 1",
        ),
        ({"rule": "strong", "fold_in": 1}, "rule strong, fold_in: found 1; expected .*below 1"),
        (
            {"rule": "click_time"},
            "rule click_time.*threshold or label: what makes an event a click",
        ),
        (
            {"rule": "rolling", "boundaries": ["2000-01-01", "2000-03-01", "2000-02-01"]},
            "boundaries that increase, not 2000-01-01, 2000-03-01",
        ),
        (
            {"rule": "rolling", "boundaries": [1, 2, 3], "window": 2},
            "window 1 to 1 of 3 boundaries",
        ),
        (
            {"rule": "published", "valid": "first_one"},
            "rule published, valid.*: found 'first_one'; expected .*one_random",
        ),
        (
            {"rule": "published", "filters": {"min_value": 4}},
            "no filters: a published split is used as it is",
        ),
        ({"filtrs": {"min_value": 4}}, "filtrs"),
        ({"split": "a b"}, "pattern"),
        ({"filters": {"min_user_events": -1}}, "greater than or equal to 0"),
    ],
)
def test_impossible_jobs_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=message):
        prepare.Job.model_validate({"source": "ingest", **values})


def test_a_stored_job_reads_back_with_the_defaults_of_its_rule() -> None:
    rolling = {
        "rule": "rolling",
        "boundaries": ["2000-01-01", "2000-02-01", 951_868_800],
        "window": 1,
    }
    for values in (
        {},
        {"rule": "random", "fractions": (0.5, 0.25, 0.25)},
        rolling,
        {"rule": "published", "valid": {"share": 0.1}},
    ):
        job = prepare.Job.model_validate({"source": "ingest", **values})
        assert prepare.Job.model_validate_json(job.model_dump_json()) == job
    assert prepare.Job(source="ingest").arguments == {"hold": 1}
    until = prepare.Job.model_validate({"source": "ingest", **rolling}).assigns.until
    assert until == 951_868_800  # 2000-03-01


def test_users_held_out_whole_and_a_window_that_ends(steps: Steps) -> None:
    run = steps.run("strong", prepare, source="ingest", rule="strong", test_users=5, valid_users=4)
    written = rows(steps.lake, "strong")
    assert {
        user for *_, user, _, _, _, part in written if part in ("test", "test_fold_in")
    }.isdisjoint(user for *_, user, _, _, _, part in written if part == "train")
    assert run.summary["held_out"] and run.summary["rows"] == len(EVENTS) == sum(
        run.summary[part] for part in ("train", "valid", "test", "valid_fold_in", "test_fold_in")
    )
    facts = {name: run.summary[name] for name in ("rule", "arguments", "seed", "source_version")}
    assert facts == {
        "rule": "strong",
        "arguments": {"test_users": 5.0, "valid_users": 4.0, "fold_in": 0.8},
        "seed": 1,
        "source_version": 1,
    }

    run = steps.run("rolling", prepare, source="ingest", rule="rolling", boundaries=(10, 20, 30))
    assert (
        run.summary["dropped"] == {"later": sum(ts >= 30 for _, _, ts, _ in EVENTS)}
        and not run.summary["held_out"]
    )
    assert run.summary["train"] == sum(ts < 10 for _, _, ts, _ in EVENTS)


def test_a_later_future_changes_neither_training_rows_nor_vocabularies(steps: Steps) -> None:
    """So nothing that is fitted on them can change: counts, normalisers, models."""
    latest = max(ts for _, _, ts, _ in EVENTS)
    moved = Steps(steps.spark, steps.root / "moved")
    moved.ingest(
        [(user, item, ts + 500 * (ts == latest), value) for user, item, ts, value in EVENTS]
    )
    for made in (steps, moved):
        made.run(
            "time", prepare, source="ingest", rule="global_time", filters=Filters(min_item_events=2)
        )
    one, other = (
        [row for row in rows(made.lake, "global_time") if row[-1] == "train"]
        for made in (steps, moved)
    )
    assert one == other and len(one) > 100
    for table in (c.USER_INDEX, c.ITEM_INDEX):
        assert numbers(steps.lake, table) == numbers(moved.lake, table)
