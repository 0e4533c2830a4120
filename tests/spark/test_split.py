"""The split rules, by hand and by their properties. Many rules go through one small table, and one
job collects what they made of it.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import reduce
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.etl import order
from recsys_spark.etl.filters import Filters, apply
from recsys_spark.etl.split import RULES

SCHEMA = (
    "user_id string, item_id string, ts long, value double, session_id string, context "
    "map<string,string>, action string, position int, step int"
)
Event = tuple[str, str, int]  # user, item, ts
Parts = dict[Event, str]

VARIANTS: dict[str, dict[str, Any]] = {
    "leave_last_out": {},
    "leave_last_out of 2": {"hold": 2},
    "last_share": {},
    "stratified": {},
    "stratified by item": {"by": "item"},
    "random": {},
    "global_time": {},
    "click_time": {"threshold": 4},
    "session_time": {},
    "session_time by gaps": {"gap_s": 6},
    "rolling": {"boundaries": (10, 15, 20, 25), "window": 1},
    "strong": {"valid_users": 6, "test_users": 0.2},
    "cold_users": {"known": 2},
    "cold_items": {},
    "published": {"valid": "one_random"},
}
IN_TIME = ("global_time", "click_time", "session_time", "session_time by gaps", "rolling")
BY_TIME = (*IN_TIME, "leave_last_out", "leave_last_out of 2", "last_share", "cold_users")


def frame(spark: SparkSession, rows: list[Event], given: str = "train") -> DataFrame:
    """A session is what happened in 5 seconds, the last one open to the end; values 1..5 by
    turns.
    """
    full = [
        (
            *row,
            float(1 + row[2] % 5),
            f"s{min(row[2], 29) // 5}",
            {"part": "test" if row[2] >= 25 else given},
            None,
            None,
            None,
        )
        for row in rows
    ]
    return spark.createDataFrame(full, SCHEMA)


def assign_all(
    events: DataFrame, variants: dict[str, dict[str, Any]], seed: int = 3
) -> dict[str, Parts]:
    """Variant -> event -> part; refuses an event that a rule gives back twice."""
    made = []
    for name, arguments in variants.items():
        rule = RULES[name.split()[0]](**arguments)
        kept = events if rule.until is None else events.where(F.col(c.TS) < rule.until)
        made.append(
            rule.assign(kept, seed).select(
                F.lit(name).alias("variant"), "user_id", "item_id", "ts", "part"
            )
        )
    found: dict[str, Parts] = {name: {} for name in variants}
    for row in reduce(DataFrame.unionByName, made).collect():
        event = (row["user_id"], row["item_id"], row["ts"])
        assert event not in found[row["variant"]], f"{row['variant']} doubles {event}"
        found[row["variant"]][event] = row["part"]
    return found


def crowd_rows() -> list[Event]:
    """40 users with 1 to 12 events at 30 different times, so ties abound; no (user, item, ts)
    twice.
    """
    draw = random.Random(5)
    return sorted(
        {
            (f"u{u}", f"i{draw.randrange(60)}", draw.randrange(30))
            for u in range(40)
            for _ in range(1 + u % 12)
        }
    )


@pytest.fixture(scope="module")
def crowd(spark: SparkSession) -> DataFrame:
    return frame(spark, crowd_rows()).cache()


@pytest.fixture(scope="module")
def found(crowd: DataFrame) -> dict[str, Parts]:
    return assign_all(crowd, VARIANTS)


def times(parts: Parts, part: str) -> list[int]:
    return [ts for (_, _, ts), other in parts.items() if other == part]


def users(parts: Parts, *of: str) -> set[str]:
    return {user for (user, _, _), part in parts.items() if part in of}


def test_parts_are_disjoint_and_complete(found: dict[str, Parts]) -> None:
    everything = set(crowd_rows())
    for variant, parts in found.items():
        assert set(parts) == (
            everything if variant != "rolling" else {event for event in everything if event[2] < 20}
        ), variant
        folded = {"valid_fold_in", "test_fold_in"} if variant in ("strong", "cold_users") else set()
        assert set(parts.values()) == {"train", "valid", "test"} | folded, variant


def test_another_partitioning_gives_the_same_split(
    crowd: DataFrame, found: dict[str, Parts]
) -> None:
    assert (
        assign_all(crowd.repartition(5, "item_id").sortWithinPartitions(F.rand(1)), VARIANTS)
        == found
    )


def test_a_later_future_changes_no_other_event(
    spark: SparkSession, found: dict[str, Parts]
) -> None:
    """The latest events move far away; whatever came before them keeps its part. (Where gaps make
    the sessions they leave theirs.)
    """
    last = max(ts for _, _, ts in crowd_rows())
    moved = [(user, item, ts + 10_000 * (ts == last)) for user, item, ts in crowd_rows()]
    assert Counter(ts == last for _, _, ts in crowd_rows())[True] > 3
    again = assign_all(
        frame(spark, moved), {name: VARIANTS[name] for name in (*BY_TIME, "random", "cold_items")}
    )
    for variant, parts in again.items():
        left = {
            user for user, _, ts in crowd_rows() if ts == last and variant == "session_time by gaps"
        }
        before = {
            event: part
            for event, part in found[variant].items()
            if event[2] != last and event[0] not in left
        }
        assert {
            event: part for event, part in parts.items() if event[2] < last and event[0] not in left
        } == before, variant


def test_no_training_event_is_as_late_as_a_test_event_where_time_decides(
    found: dict[str, Parts],
) -> None:
    for variant in ("global_time", "click_time", "rolling"):
        parts = found[variant]
        assert (
            max(times(parts, "train"))
            < min(times(parts, "valid"))
            <= max(times(parts, "valid"))
            < min(times(parts, "test"))
        ), variant
    sessions: dict[tuple[str, int], int] = {}
    for user, _, ts in found["session_time"]:
        sessions[user, ts // 5] = max(ts, sessions.get((user, ts // 5), 0))
    ends = [
        sessions[user, ts // 5]
        for (user, _, ts), part in found["session_time"].items()
        if part == "test"
    ]
    assert max(times(found["session_time"], "train")) < min(ends)


def test_a_user_trains_on_nothing_later_than_what_is_held_out(found: dict[str, Parts]) -> None:
    for variant, held in (("leave_last_out", 1), ("leave_last_out of 2", 2), ("last_share", None)):
        parts = found[variant]
        for user in users(parts, "test"):
            own = {event: part for event, part in parts.items() if event[0] == user}
            mine = {part: times(own, part) for part in ("train", "valid", "test")}
            assert max(mine["train"]) <= min(mine["valid"] + mine["test"]) and max(
                mine["train"] + mine["valid"]
            ) <= min(mine["test"])
            assert held is None or len(mine["valid"]) == len(mine["test"]) == held
        assert len(users(parts, "test")) > 20


def test_held_out_users_and_items_are_not_trained_on(found: dict[str, Parts]) -> None:
    for variant in ("strong", "cold_users"):
        parts = found[variant]
        train, valid, test = (
            users(parts, "train"),
            users(parts, "valid", "valid_fold_in"),
            users(parts, "test", "test_fold_in"),
        )
        assert not (train & valid or train & test or valid & test), variant
        assert (
            len(train | valid | test) == 40
            and (len(valid), len(test)) == {"strong": (6, 8), "cold_users": (4, 4)}[variant]
        )
    items = {
        part: {item for (_, item, _), other in found["cold_items"].items() if other == part}
        for part in ("train", "valid", "test")
    }
    assert not (
        items["train"] & items["valid"]
        or items["train"] & items["test"]
        or items["valid"] & items["test"]
    )
    assert (
        len(items["valid"]) == len(items["test"]) == round(0.1 * len(set().union(*items.values())))
    )


def test_what_is_known_of_a_held_out_user(found: dict[str, Parts]) -> None:
    for part in ("valid", "test"):
        for user in users(found["strong"], part, f"{part}_fold_in"):
            mine = Counter(other for (who, _, _), other in found["strong"].items() if who == user)
            assert mine[part] == sum(mine.values()) // 5  # 20 %, rounded down
        for user in users(found["cold_users"], part, f"{part}_fold_in"):
            known = [
                ts
                for (who, _, ts), other in found["cold_users"].items()
                if who == user and other == f"{part}_fold_in"
            ]
            later = [
                ts
                for (who, _, ts), other in found["cold_users"].items()
                if who == user and other == part
            ]
            assert len(known) == min(2, len(known) + len(later)) and max(known) <= min(
                later, default=max(known)
            )


def test_shares_are_counted_to_the_nearest_event(found: dict[str, Parts]) -> None:
    for variant, place, (train, valid) in (
        ("stratified", 0, (65, 75)),
        ("stratified by item", 1, (65, 75)),
        ("last_share", 0, (70, 80)),
    ):
        counts: dict[str, Counter[str]] = {}
        for event, part in found[variant].items():
            counts.setdefault(event[place], Counter())[part] += 1
        for each in counts.values():
            n = sum(each.values())
            assert (each["train"], each["train"] + each["valid"]) == (
                (n * train + 50) // 100,
                (n * valid + 50) // 100,
            )


def test_a_validation_part_is_taken_out_of_a_published_train_part(
    spark: SparkSession, crowd: DataFrame, found: dict[str, Parts]
) -> None:
    parts = found["published"]
    assert {event for event, part in parts.items() if part == "test"} == {
        event for event in parts if event[2] >= 25
    }
    of_train = Counter(user for user, _, ts in parts if ts < 25)
    assert Counter(
        user for (user, _, _), part in parts.items() if part == "valid"
    ) == dict.fromkeys((user for user, n in of_train.items() if n > 1), 1)
    more = {
        "published last": {"valid": "last_one"},
        "published share": {"valid": {"share": 0.3}},
        "published": {},
    }
    last, share, plain = assign_all(crowd, more).values()
    for (user, _, ts), part in last.items():
        if part == "valid":
            assert ts == max(when for who, _, when in last if who == user and when < 25)
    assert set(plain.values()) == {"train", "test"}
    assert all((plain[event] == "test") == (part == "test") for event, part in share.items())
    taken, of = Counter(share.values())["valid"], Counter(plain.values())["train"]
    assert abs(taken - 0.3 * of) < 5 * (of * 0.21) ** 0.5


@pytest.mark.parametrize(
    ("given", "rule", "message"),
    [
        (
            "extra",
            {},
            r"events of rule published: found \d+ with part 'extra'; expected one of train, "
            r"valid, test, .*To mend: give each kind",
        ),
        (
            "valid",
            {},
            r"found the parts test, valid; expected train among them\. To mend: name the files "
            r"of part train",
        ),
        ("valid", {"valid": "last_one"}, r"expected train among them"),
    ],
)
def test_a_published_split_that_lacks_something_is_named(
    spark: SparkSession, given: str, rule: dict[str, str], message: str
) -> None:
    rows = frame(spark, [("a", "x", 1), ("a", "y", 30)], given)
    with pytest.raises(DataError, match=message):
        RULES["published"](**rule).assign(rows, 1)


def test_what_a_rule_cannot_do_is_named(spark: SparkSession) -> None:
    rows = frame(spark, [("a", "x", 1), ("b", "y", 30)])
    with pytest.raises(DataError, match=r"found 1 without a part; expected one of train"):
        RULES["published"]().assign(
            rows.withColumn("context", F.when(F.col("user_id") == "a", F.col("context"))), 1
        )
    both = rows.withColumn(
        "context", F.create_map(F.lit("part"), F.when(F.col("ts") < 5, "train").otherwise("valid"))
    )
    both = both.unionByName(frame(spark, [("c", "x", 40)]))
    with pytest.raises(
        DataError,
        match=r"rule published, valid: found 'last_one', where the files hold 1 events of "
        r".*leave out",
    ):
        RULES["published"](valid="last_one").assign(both, 1)
    with pytest.raises(
        DataError,
        match=r"users of the split: found 2, of which 2 for test and 0 for valid; .* change "
        r"test_users",
    ):
        RULES["strong"](test_users=2, valid_users=0).assign(rows, 1)
    with pytest.raises(
        DataError,
        match=r"found 2 without session_id; expected one in every event\. To mend: .* or set gap_s",
    ):
        RULES["session_time"]().assign(rows.withColumn("session_id", F.lit(None).cast("string")), 1)


def test_by_hand(spark: SparkSession) -> None:
    # Leave last out: b has too few. Global time, 10 events: 60 % and 80 % fall on the 7th and 9th
    # of the sorted times; ties go to valid.
    last = assign_all(
        frame(
            spark,
            [
                ("a", "x", 10),
                ("a", "y", 40),
                ("a", "z", 20),
                ("a", "w", 30),
                ("b", "x", 1),
                ("b", "y", 2),
            ],
        ),
        {"leave_last_out": {}},
    )["leave_last_out"]
    assert last == {
        ("a", "x", 10): "train",
        ("a", "z", 20): "train",
        ("a", "w", 30): "valid",
        ("a", "y", 40): "test",
        ("b", "x", 1): "train",
        ("b", "y", 2): "train",
    }
    when = [0, 1, 2, 3, 6, 6, 6, 7, 8, 9]
    rows = frame(spark, [("a", f"i{n}", ts) for n, ts in enumerate(when)])
    shares = {"fractions": (0.6, 0.2, 0.2)}
    made = assign_all(
        rows,
        {
            "global_time": shares,
            "session_time by gaps": {"gap_s": 1, **shares},
            "rolling": {"boundaries": (2, 3, 6, 8), "window": 2},
        },
    )
    told = {
        name: [parts.get(("a", f"i{n}", ts)) for n, ts in enumerate(when)]
        for name, parts in made.items()
    }
    assert told["global_time"] == ["train"] * 4 + ["valid"] * 4 + ["test"] * 2
    # From 6 on no gap is above 1, and the session ends at 9
    assert told["session_time by gaps"] == ["train"] * 4 + ["test"] * 6
    assert told["rolling"] == ["train"] * 3 + ["valid"] + ["test"] * 4 + [None] * 2
    clicks = RULES["click_time"](threshold=4).assign(rows, 1).orderBy("item_id").collect()
    assert [row["value"] for row in clicks] == [float(1 + ts % 5 >= 4) for ts in when]


def test_leave_last_out_breaks_ties_by_the_written_rule(spark: SparkSession) -> None:
    rows = frame(spark, [("a", item, 7) for item in "vwxyz"])
    hashes = {
        row["item_id"]: row["hash"]
        for row in rows.select("item_id", F.xxhash64("user_id", "item_id").alias("hash")).collect()
    }
    test, valid, *train = sorted(hashes, key=lambda item: (hashes[item], item))
    expected = {test: "test", valid: "valid", **dict.fromkeys(train, "train")}
    assert {
        item: part
        for (_, item, _), part in assign_all(rows, {"leave_last_out": {}})["leave_last_out"].items()
    } == expected


def test_random_depends_on_seed_and_event_alone(
    spark: SparkSession, crowd: DataFrame, found: dict[str, Parts]
) -> None:
    fewer = assign_all(crowd.where("user_id < 'u2'"), {"random": {}})["random"]
    assert fewer and all(found["random"][event] == part for event, part in fewer.items())
    assert assign_all(crowd, {"random": {}}, seed=4)["random"] != found["random"]
    many = spark.range(20_000).selectExpr(
        *("cast(id as string) user_id", "'i' item_id", "id ts", "1D value"),
        *("null session_id", "null action", "null position", "null step"),
    )
    counted = RULES["random"](fractions=(0.9, 0.0, 0.1)).assign(many, 1).groupBy("part").count()
    counts = {row["part"]: row["count"] for row in counted.collect()}
    assert (
        set(counts) == {"train", "test"} and abs(counts["test"] - 2000) < 5 * (20_000 * 0.09) ** 0.5
    )


def test_ranks_are_those_of_the_sorted_column(spark: SparkSession) -> None:
    draw = random.Random(2)
    numbers = sorted(
        [draw.randrange(-50, 50) for _ in range(500)] + [draw.randrange(10**6) for _ in range(500)]
    )
    rows = spark.createDataFrame([(n,) for n in numbers], "n long")
    wanted = [0, 1, 250, 499, 500, 750, 998, 999]
    for most in (order.HASH_END, 1000):  # by a histogram, and sorted by the driver
        ranks = order.ranks(rows, F.col("n"), most=most)
        assert ranks.count == 1000 and ranks.at(wanted) == [numbers[rank] for rank in wanted]
    slots = spark.range(12).select(order.slot(F.col("id"), [2, 5, 5, 9]).alias("slot")).collect()
    assert [row["slot"] for row in slots] == [0, 0, 1, 1, 1, 3, 3, 3, 3, 4, 4, 4]


def test_filters_run_time_then_value_then_items_then_users_and_count_what_they_drop(
    spark: SparkSession,
) -> None:
    rows = [
        ("a", "x", 1.0),
        ("a", "y", 5.0),
        ("a", "z", 5.0),
        ("b", "y", 5.0),
        ("b", "z", 5.0),
        ("c", "y", 4.0),
        ("c", "w", 4.0),
    ]
    plain = "user_id string, item_id string, ts long, value double"
    later = [("d", "w", 9, 5.0), ("d", "y", 9, 5.0)]  # with them w would have two events
    events = spark.createDataFrame(
        [(user, item, 1, value) for user, item, value in rows] + later, plain
    )
    kept, dropped = apply(
        events, Filters(min_value=4.0, min_item_events=2, min_user_events=2), until=9
    )
    # (a,x) by value, (c,w) its item, (c,y) then its user
    assert dropped == {"later": 2, "min_value": 1, "min_item_events": 1, "min_user_events": 1}
    assert sorted((row["user_id"], row["item_id"]) for row in kept.collect()) == [
        ("a", "y"),
        ("a", "z"),
        ("b", "y"),
        ("b", "z"),
    ]
    assert apply(events, Filters()) == (events, {})


@pytest.mark.parametrize("gap_s", [None, 6])
def test_the_last_event_of_a_held_out_session_is_to_be_found(
    crowd: DataFrame, gap_s: int | None
) -> None:
    """Against session_time on the same events: sessions go where they go there, and become the
    queries.
    """
    rule = RULES["next_in_session"](gap_s=gap_s)
    rows = rule.assign(crowd, 3).collect()
    whole = assign_all(crowd, {"session_time": {"gap_s": gap_s}})["session_time"]
    assert Counter((row.user_id, row.item_id, row.ts) for row in rows) == Counter(list(whole))
    sessions: dict[str, list[Any]] = {}
    for row in rows:
        sessions.setdefault(row.query_id, []).append(row)
    seen = Counter()
    for name, events in sessions.items():
        user, session = name.split("#")
        assert {(row.user_id, row.session_id) for row in events} == {(user, session)}
        if gap_s is None:
            assert {f"s{min(row.ts, 29) // 5}" for row in events} == {session}
        goes = {whole[user, row.item_id, row.ts] for row in events}
        assert len(goes) == 1
        part = goes.pop()
        to_find = [row for row in events if row.part == part] if part != "train" else []
        assert len(to_find) == (part != "train" and len(events) > 1)
        assert all(
            row.part == (part if row in to_find or part == "train" else f"{part}_fold_in")
            for row in events
        )
        assert all(row.ts <= found.ts for row in events for found in to_find)
        seen[part, len(events) > 1] += 1
    assert len(seen) == 6  # sessions of one event and longer ones, in every part
