"""Ids, times and values of whatever type and form come out as the same text, second and number;
what cannot is quarantined with its place, or refused before anything runs.
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from pyspark.sql import SparkSession

from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.lake.tables import Lake
from tests.rawsets import plain, write
from tests.sources import T, judge

PLAIN = {"user_id": "u", "item_id": "i", "ts": "t", "value": "v"}
NOON = datetime.datetime(2026, 1, 1, 10, 0, 0)  # T in UTC


def entry(place: Any, **settings: Any) -> dict[str, Any]:
    where = {"query": place} if isinstance(place, str) else {"files": str(place)}
    return {**where, "columns": PLAIN} | settings


@pytest.mark.parametrize(
    ("kind", "ids", "kept"),
    [
        ("long", [12, 2**63 - 1], ["12", "9223372036854775807"]),
        ("double", [12.0, 12.5, 2.0**53 + 2, float("nan")], ["12", None, None, None]),
        ("float", [12.0, 2.0**24 + 4], ["12", None]),
        ("decimal(20,2)", [decimal.Decimal("12.00"), decimal.Decimal("0.50")], ["12", None]),
        ("decimal(38,0)", [decimal.Decimal(10**30)], [str(10**30)]),
        ("string", ["007", "12.0", " x", "", None], ["007", "12.0", " x", None, None]),
    ],
)
def test_ids_of_any_type(
    spark: SparkSession, lake: Lake, tmp_path: Path, kind: str, ids: list, kept: list
) -> None:
    rows = [(each, n, T + n, 1) for n, each in enumerate(ids)]
    frame = spark.createDataFrame(rows, f"u {kind}, i long, t long, v int").coalesce(1)
    frame.write.parquet(str(tmp_path / "rows"))
    good, bad = judge(lake, entry(tmp_path / "rows", unit="s"))
    assert sorted((row.user_id, row.item_id) for row in good) == sorted(
        (each, str(n)) for n, each in enumerate(kept) if each is not None
    )
    wrong = [n for n, each in enumerate(kept) if each is None]
    assert [line for _, line, *_ in bad] == [n + 1 for n in wrong]
    assert {reason for _, _, reason, _ in bad} <= {"missing_id", "not_a_number"}


def test_uuids_and_names_that_differ_in_case_alone(lake: Lake, tmp_path: Path) -> None:
    """As other tools than Spark write them."""
    (tmp_path / "rows").mkdir()
    user = uuid.UUID("6fa459ea-ee8a-3ca4-894e-db77e160355e")
    times = pa.array([T * 10**9], pa.timestamp("ns", "UTC"))
    columns = {"u": pa.array([user.bytes], pa.uuid()), "i": [7], "t": times, "v": [1.0]}
    pq.write_table(pa.table(columns), tmp_path / "rows" / "a.parquet")
    good, bad = judge(lake, entry(tmp_path / "rows"))
    assert (plain(good), bad) == ([(str(user), "7", T, 1.0)], [])
    pq.write_table(pa.table({"a": [1], "A": [2]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="found names of columns that differ in case alone"):
        judge(lake, entry(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("kind", "time", "settings"),
    [
        ("timestamp", NOON.replace(tzinfo=datetime.UTC), {}),
        ("timestamp_ntz", NOON + datetime.timedelta(hours=1), {"zone": "Europe/Berlin"}),
        ("date", NOON.date(), {"ts": "CAST(t AS TIMESTAMP) + INTERVAL 10 HOURS"}),
        ("string", "2026-01-01T11:00:00.999+01:00", {}),
        ("string", "2026-01-01 05:00", {"zone": "America/New_York"}),
        ("string", f"{T}", {"unit": "s"}),
        ("long", T * 1000 + 999, {"unit": "ms"}),
        ("double", T + 0.75, {"unit": "s"}),
        ("decimal(20,3)", decimal.Decimal(T * 1000), {"unit": "ms"}),
    ],
)
def test_times_of_any_type(
    spark: SparkSession, lake: Lake, tmp_path: Path, kind: str, time: Any, settings: dict
) -> None:
    frame = spark.createDataFrame([("a", "b", time, 1)], f"u string, i string, t {kind}, v int")
    frame.write.parquet(str(tmp_path / "rows"))
    columns = PLAIN | ({"ts": settings["ts"]} if "ts" in settings else {})
    settings = {name: value for name, value in settings.items() if name != "ts"}
    good, bad = judge(lake, entry(tmp_path / "rows", columns=columns, **settings))
    assert (plain(good), bad) == ([("a", "b", T, 1.0)], [])


def test_values_and_times_that_cannot_be_are_quarantined_with_their_place(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    rows = [
        ("a", str(T), 1.0, None),
        ("b", str(T), -1.0, "value_out_of_range"),
        ("c", str(T), float("nan"), "not_a_number"),
        ("d", str(T), float("inf"), "not_a_number"),
        ("e", str(T), None, "not_a_number"),
        ("f", str(T), 1.5, "value_out_of_range"),
        ("g", "soon", 1.0, "not_a_time"),
        ("h", f"{T}000", 1.0, "time_in_another_unit"),
        ("i", "2026-01-01 10:00:00", 1.0, "time_without_zone"),
        ("j", None, 1.0, "not_a_time"),
    ]
    for form in ("parquet", "orc"):
        frame = spark.createDataFrame(
            [(user, "x", time, value) for user, time, value, _ in rows],
            "u string, i string, t string, v double",
        )
        frame.coalesce(1).write.format(form).save(str(tmp_path / form))
        good, bad = judge(lake, entry(tmp_path / form, unit="s", values="count"))
        assert plain(good) == [("a", "x", T, 1.0)]
        assert sorted((line, reason) for _, line, reason, _ in bad) == [
            (n, reason) for n, (*_, reason) in enumerate(rows, 1) if reason
        ]
        assert all(json.loads(raw)["i"] == "x" for *_, raw in bad)


def test_json_lines_keep_every_digit(lake: Lake, tmp_path: Path) -> None:
    lines = [
        f'{{"u": 9223372036854775809, "i": "007", "t": {T}, "v": 4.5, "tags": ["a", "b"]}}',
        f'{{"v": 1, "t": {T + 1}, "i": 7, "u": {{"id": "x"}}, "more": true}}',
        "",
        '{"u": "y", "i": ',
        f'{{"u": "z", "t": {T + 2}, "v": 1}}',
    ]
    folder = write(tmp_path / "raw", e_jsonl="\n".join(lines))
    good, bad = judge(lake, entry(folder, unit="s", keep=["tags", "more"]))
    assert [(row.user_id, row.item_id, row.ts, row.value) for row in good] == [
        ("9223372036854775809", "007", T, 4.5),
        ('{"id":"x"}', "7", T + 1, 1.0),
    ]
    assert [row.context for row in good] == [{"tags": "a|b"}, {"more": "true"}]
    assert [row[:3] for row in bad] == [
        ("e.jsonl", 4, "not_a_record"),
        ("e.jsonl", 5, "missing_id"),
    ]


def test_delimited_files_go_by_their_header(lake: Lake, tmp_path: Path) -> None:
    """In folders that are columns, with quoted text over several lines."""
    text = f'v,note,u,i,t\n5,"says ""hi,\nall""",u1,007,{T}\n1,x,u2,i\n2,,u3,08,{T + 1}\n'
    for store, name in (("store=007", "a.csv"), ("store=08", "a.csv")):
        (tmp_path / "raw" / store).mkdir(parents=True)
        content = text if store == "store=007" else f"v,note,u,i,t\n3,,u4,i,{T}"
        (tmp_path / "raw" / store / name).write_text(content)
    settings = {"unit": "s", "keep": ["store", "note"], "multiline": True}
    good, bad = judge(lake, entry(tmp_path / "raw", **settings))
    assert [(row.user_id, row.item_id, row.value, row.context) for row in good] == [
        ("u1", "007", 5.0, {"store": "007", "note": 'says "hi,\nall"'}),
        ("u3", "08", 2.0, {"store": "007"}),
        ("u4", "i", 3.0, {"store": "08"}),
    ]
    assert [row[:3] for row in bad] == [("store=007/a.csv", 2, "wrong_number_of_fields")]


def test_a_url_is_listed_and_read_by_the_client_of_its_store(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    text = f"v,u,i,t\n5,u1,007,{T}\n"
    write(tmp_path / "in [1] +%20", a_csv=text, b_csv=text.replace("u1", "u2"), c_txt="")
    url = (tmp_path / "in [1] +%20").absolute()
    settings = {
        "unit": "s",
        "files": f"file://{url}".replace("[", "\\[").replace("]", "\\]") + "/*.csv",
    }
    good, bad = judge(lake, entry(tmp_path, **settings))
    assert (plain(good), bad) == ([("u1", "007", T, 5.0), ("u2", "007", T, 5.0)], [])


def test_a_query_and_a_view_with_rows_that_repeat(spark: SparkSession, lake: Lake) -> None:
    rows = [("a", "x", T, 1.0), ("a", "x", T, 1.0), ("a", "y", T, 1.0), ("b", None, T, 1.0)]
    frame = spark.createDataFrame(rows, "u string, i string, t long, v double")
    frame.repartition(3).createOrReplaceTempView("seen_events")
    query = entry("SELECT * FROM seen_events WHERE v > 0", unit="s")
    view = {"table": "seen_events", "columns": PLAIN, "unit": "s"}
    for name, source in (("query", query), ("seen_events", view)):
        good, bad = judge(lake, source)
        assert plain(good) == [("a", "x", T, 1.0), ("a", "y", T, 1.0)]
        assert [row[:3] for row in bad] == [
            (name, None, "exact_duplicate"),
            (name, None, "missing_id"),
        ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"columns": PLAIN | {"user_id": "usr"}},
            r"source\.interactions\.columns\.user_id: found usr, of which the source has no column "
            r"usr; expected columns of .*: u, i, t, v, b, Weird Name",
        ),
        ({"columns": PLAIN | {"value": "CASE WHEN v"}}, r"columns\.value: found CASE WHEN v"),
        ({"columns": PLAIN | {"value": "sum(v)"}}, r"columns\.value: found sum\(v\): "),
        ({"columns": PLAIN | {"value": "explode(array(v))"}}, r"columns\.value: found explode"),
        (
            {"columns": PLAIN | {"value": "array(v)"}},
            r"columns\.value: found array\(v\) of type array<int>; expected a number",
        ),
        (
            {"columns": PLAIN | {"user_id": "b"}},
            r"columns\.user_id: found b of type binary; .*write an expression, such as hex\(x\)",
        ),
        ({"keep": ["nothing"]}, r"keep\.nothing: found nothing, of which the source has no"),
        ({"unit": None}, r"columns\.ts: found t of type bigint, a number without its unit"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_before_anything_runs(
    spark: SparkSession, lake: Lake, settings: dict, message: str
) -> None:
    frame = spark.createDataFrame(
        [], "u string, i string, t long, v int, b binary, `Weird Name` string"
    )
    frame.createOrReplaceTempView("nothing_yet")
    with pytest.raises(ConfigError, match=message) as refused:
        judge(lake, entry("SELECT * FROM nothing_yet", **{"unit": "s"} | settings))
    assert "\n" not in str(refused.value) and isinstance(refused.value, RecsysError)
