"""What is guessed of data that nobody described, and why; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import yaml

from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.drafts import columns, delimiter, doubts, draft, roles, times
from recsys_spark.datasets.drafts.draft import Looked

N = 40
DAY = 1_767_225_600  # 1 January 2026


def frame(**values: Any) -> pd.DataFrame:
    return pd.DataFrame(values)


def guessed(sample: pd.DataFrame, types: dict[str, str], **given: str) -> dict[str, str]:
    chosen = roles.roles(columns.described(sample, types), given)
    return {role: guess.column.name for role, guess in chosen.items()}


def people(**more: Any) -> pd.DataFrame:
    return frame(a=[n % 7 for n in range(N)], b=[f"i{n % 11}" for n in range(N)], **more)


@pytest.mark.parametrize(
    "names",
    [
        ("customer", "sku", "purchased_at", "qty"),
        ("reviewerID", "asin", "unixReviewTime", "overall"),
        ("user_id", "movieId", "timestamp", "rating"),
        ("visitor", "page", "event_time", "weight"),
    ],
)
def test_names_that_people_use(names: tuple[str, ...]) -> None:
    user, item, ts, value = names
    sample = frame(
        **{
            "row": range(N),
            ts: [DAY + n for n in range(N)],
            value: [1.0 + n % 5 for n in range(N)],
            item: [f"i{n % 11}" for n in range(N)],
            user: [n % 7 for n in range(N)],
        }
    )
    types = {
        "row": "bigint",
        ts: "bigint",
        value: "double",
        item: "string",
        user: "bigint",
    }
    assert guessed(sample, types) == {
        "user_id": user,
        "item_id": item,
        "ts": ts,
        "value": value,
    }


def test_names_that_say_nothing_leave_it_to_the_values() -> None:
    sample = people(c=[DAY * 1000 + n for n in range(N)], d=[n / 3 for n in range(N)])
    types = {"a": "bigint", "b": "string", "c": "bigint", "d": "double"}
    chosen = roles.roles(columns.described(sample, types), {})
    # Of what repeats the first is the user; numbers with a fraction are no ids
    assert {role: guess.column.name for role, guess in chosen.items()} == {
        "user_id": "a",
        "item_id": "b",
        "ts": "c",
    }
    assert chosen["ts"].why == "by its values" and chosen["ts"].column.time == "ms"
    assert guessed(sample, types, user_id="b")["item_id"] == "a"


def test_what_cannot_be_guessed_is_asked_for() -> None:
    described = columns.described(
        frame(key=range(N), text=["x"] * N), {"key": "int", "text": "string"}
    )
    with pytest.raises(ConfigError, match=r"none that looks like the user.*name it with --user"):
        roles.roles(described, {})
    with pytest.raises(ConfigError, match=r"--user: found 'kez'.*did you mean 'key'"):
        roles.roles(described, {"user_id": "kez"})


@pytest.mark.parametrize(
    ("values", "kind", "time"),
    [
        ([DAY, DAY + 1], "bigint", "s"),
        ([DAY * 1000, DAY * 1000 + 5], "bigint", "ms"),
        ([str(DAY), str(DAY + 1)], "string", "s"),
        (["2026-01-01T10:00:00Z", "2026-01-02T10:00:00+01:00"], "string", "text"),
        (["2026-01-01", "2026-01-02"], "string", "text"),
        ([1, 2], "bigint", ""),
        (["yesterday", "2026-01-01"], "string", ""),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), "timestamp", "timestamp"),
    ],
)
def test_times_are_known_by_how_they_look(values: Any, kind: str, time: str) -> None:
    [column] = columns.described(frame(t=values), {"t": kind})
    assert column.time == time


@pytest.mark.parametrize("way", times.WAYS, ids=lambda way: way.pattern)
def test_times_that_are_written_otherwise(way: times.Written) -> None:
    at = pd.to_datetime([DAY + n * (86_400 + 3_600) for n in range(N)], unit="s", utc=True)
    written = pd.Series(at.strftime(way.strptime))
    [column] = columns.described(frame(at=written), {"at": "string"})
    assert column.time == "written" and column.written == way and not column.either
    early = pd.Series(at.strftime(way.strptime)[:5])
    [column] = columns.described(frame(at=early), {"at": "string"})
    assert column.either == way.words.endswith("/year")


def test_neither_lists_nor_ordinals_nor_prices_are_ids() -> None:
    sample = frame(
        user=[f"u{n % 7}" for n in range(N)],
        shown=[" ".join(f"n{m}-0" for m in range(n % 9, n % 9 + 6)) for n in range(N)],
        step=[n % 30 for n in range(N)],
        price=[n % 20 for n in range(N)],
    )
    types = dict.fromkeys(sample, "string")
    with pytest.raises(ConfigError, match=r"like the item .*several parts: shown; .*explode"):
        roles.roles(columns.described(sample, types), {})
    sample["reference"] = [f"r{n % 4}" for n in range(N)]
    assert guessed(sample, types | {"reference": "string"})["item_id"] == "reference"


LOOKED = Looked(rows=N, users=7, items=11, events_a_user=5.0, repeated=4, instants=N, whole=True)


def drafted(sample: pd.DataFrame, types: dict[str, str], looked: Looked = LOOKED) -> Any:
    chosen = roles.roles(columns.described(sample, types), {})
    return yaml.safe_load(draft.pipeline("shop", {"table": "shop.events"}, chosen, looked))


def test_a_draft_says_what_was_seen() -> None:
    sample = people(at=["2026-01-01 10:00"] * N, stars=[n % 5 + 1 for n in range(N)])
    types = {"a": "bigint", "b": "string", "at": "string", "stars": "int"}
    steps = drafted(sample, types)["steps"]
    source = steps["ingest"]["source"]["interactions"]
    assert source["columns"] == {"user_id": "a", "item_id": "b", "ts": "at", "value": "stars"}
    assert source["zone"] == "UTC" and source["values"] == "rating" and "unit" not in source
    assert steps["split"]["rule"] == "leave_last_out" and "ease" in steps


@pytest.mark.parametrize(
    ("median", "instants", "rule"),
    [(3.0, 10, "leave_last_out"), (2.0, 10, "global_time"), (3.0, 9, "random")],
)
def test_time_decides_where_there_are_times(median: float, instants: int, rule: str) -> None:
    sample = people(at=[DAY + n for n in range(N)])
    types = {"a": "bigint", "b": "string", "at": "bigint"}
    looked = replace(LOOKED, events_a_user=median, instants=instants)
    assert drafted(sample, types, looked)["steps"]["split"]["rule"] == rule
    untimed = drafted(sample, {"a": "bigint", "b": "string"}, looked)
    assert untimed["steps"]["split"]["rule"] == "random"


@pytest.mark.parametrize(
    ("values", "repeats"), [([1, 2, 3, 4, 5], "latest"), ([1, 20, 300, 4_000, 5_000], "events")]
)
def test_who_rates_again_thinks_so_now(values: list[int], repeats: str) -> None:
    sample = people(at=["2026-01-01 10:00"] * N, stars=values * (N // 5))
    types = {"a": "bigint", "b": "string", "at": "string", "stars": "int"}
    assert drafted(sample, types)["steps"]["ingest"]["repeats"] == repeats


def few_events() -> Looked:
    return Looked(
        rows=N, users=30, items=11, events_a_user=1.0, repeated=0, instants=N, whole=False
    )


def test_ease_is_left_out_where_the_number_of_items_is_not_known() -> None:
    sample = people(at=[DAY + n for n in range(N)])
    types = {"a": "bigint", "b": "string", "at": "bigint"}
    pipeline = drafted(sample, types, few_events())
    assert (
        "ease" not in pipeline["steps"] and "score_ease" not in pipeline["steps"]["ranking"]["of"]
    )
    source = pipeline["steps"]["ingest"]["source"]["interactions"]
    assert source["unit"] == "s" and source["values"] == "none"


def test_what_reads_the_order_is_there_where_times_decide() -> None:
    types = {"a": "bigint", "b": "string", "at": "bigint"}
    timed = drafted(people(at=[DAY + n for n in range(N)]), types, few_events())["steps"]
    assert timed["markov"]["model"] == "markov" and "score_markov" in timed["ranking"]["of"]
    untimed = drafted(people(), {"a": "bigint", "b": "string"})["steps"]
    assert untimed["split"]["rule"] == "random" and "markov" not in untimed


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (Looked(0, 0, 0, 0.0, 0, 0, True), "no event with a user and an item"),
        (Looked(9, 1, 5, 9.0, 0, N, True), "events of one user"),
        (Looked(9, 5, 1, 2.0, 4, N, True), "events of one item"),
        (Looked(9, 9, 5, 1.0, 0, N, True), "one event of each user"),
        (Looked(9, 5, 9, 1.0, 0, N, True), "one event of each item"),
    ],
)
def test_data_from_which_nothing_can_be_recommended(seen: Looked, found: str) -> None:
    with pytest.raises(DataError, match=f"events.csv: found {found}.*--user and --item"):
        draft.require_possible(seen, "events.csv")


def test_what_looks_wrong_is_said() -> None:
    sample = frame(
        user=[None, "anonymous", "anonymous", "c"] * 10,
        item=[1.0, 2.0, 3.0, 4.0] * 10,
        ts=[DAY] * N,
        value=[-1.0] * N,
    )
    types = {"user": "string", "item": "double", "ts": "bigint", "value": "double"}
    chosen = roles.roles(columns.described(sample, types), {})
    events = frame(
        user_id=sample.user.dropna(), item_id=sample.item.astype(int).astype(str), ts=sample.ts
    ).dropna()
    said = " | ".join(doubts.doubts(chosen, events, now=DAY - 1.0))
    for part in (
        "user is null in 25.0 % of the rows",
        "user is 'anonymous' in 20 of 30 rows",
        "12.0 becomes the id 12",
        "ts is the same in all rows",
        "value goes down to -1",
        "value is -1 everywhere",
    ):
        assert part in said
    later = doubts.doubts(chosen, events.assign(ts=range(len(events))), now=5.0)
    assert any("ts lies in the future in 24 rows" in doubt for doubt in later)


@pytest.mark.parametrize(
    ("lines", "separator", "header"),
    [
        (["user,item", "a,b"], ",", True),
        (["1\t2\t3", "4\t5\t6"], "\t", False),
        (["1::2::5", "1::3::4"], "::", False),
        (['id;"a;b";3', 'id2;"c;d";4'], ";", False),
        (["1 6393", "1 4291", "2 17"], " ", False),
        (["u1,i7,31.1.2026", "u2,i4,30.12.2025"], ",", False),
        (["id1,id2", "u1,i4"], ",", True),
    ],
)
def test_a_separator_parts_all_lines_alike(lines: list[str], separator: str, header: bool) -> None:
    written = delimiter.written(lines, "file")
    assert (written.separator, written.header) == (separator, header)


def test_lines_that_nothing_parts() -> None:
    with pytest.raises(DataError, match=r"file: found 'no parts here'"):
        delimiter.written(["no parts here", "nor here"], "file")
    with pytest.raises(DataError, match=r"found '2 17 18'.*of lists make rows by a query"):
        delimiter.written(["2 17 18", "1 6393"], "file")
