"""Sessions in trivago's format: what becomes an event, what a list, what goes to quarantine."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, QualityError
from recsys_spark.datasets.files import download
from recsys_spark.datasets.trivago import CLICKOUT, COLUMNS
from recsys_spark.stages import ingest
from tests.spark.chained import Chain

T = 1_541_100_000
Row = dict[str, Any]
CUT = {"data": "", "expected": "ignore", "dataset": "trivago"}  # a part of the published rows


def action(session: str, step: int, kind: str, reference: Any = "", **other: Any) -> Row:
    row = dict.fromkeys(COLUMNS, "") | {
        "platform": "US",
        "city": "Rochester, USA",
        "device": "mobile",
    }
    at = {"timestamp": T + step, "step": step, "action_type": kind, "reference": reference}
    return row | {"user_id": f"u{session[-1]}", "session_id": session} | at | other


def clickout(session: str, step: int, reference: Any, shown: str = "11|12|13", **other: Any) -> Row:
    prices = "|".join(str(9 * n) for n in range(1, 1 + len(shown.split("|"))))
    return action(session, step, CLICKOUT, reference, impressions=shown, prices=prices) | other


def write(folder: Path, rows: list[Row], name: str = "train.csv") -> Path:
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def read(spark: SparkSession, folder: Path, root: Path, **job: Any) -> Chain:
    chain = Chain(spark, root)
    chain.run("ingest", ingest, **CUT | {"data": str(folder)} | job)
    return chain


SESSION = [
    action("s1", 1, "search for destination", "Rochester, USA"),
    action("s1", 2, "filter selection", "Hotel", current_filters="Hotel"),
    action("s1", 3, "interaction item image", 12),
    action("s1", 4, "interaction item image", "unknown", timestamp=T + 3),
    action("s1", 5, "interaction item info", 13, timestamp=T + 3),
    clickout("s1", 6, 11, timestamp=T + 3),
]


def test_actions_are_events_and_click_outs_are_lists(spark: SparkSession, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", SESSION)
    write(folder, [clickout("s2", 1, "", "12|14")], "test.csv")
    (folder / "item_metadata.csv").write_text("item_id,properties\n11,Hotel|WiFi (Rooms)\n")
    chain = read(spark, folder, tmp_path)
    events = chain.lake.read(c.INTERACTIONS).orderBy("session_id", "step").collect()
    assert [row.item_id for row in events] == ["", "", "12", "", "13", "11", ""]
    assert [row.context.get("reference") for row in events[:4]] == [
        *("Rochester, USA", "Hotel", None, "unknown")
    ]
    assert events[1].context["filters"] == "Hotel" and events[5].position == 1
    lists = chain.lake.read(c.IMPRESSIONS).orderBy("query_id", "position").collect()
    assert [(row.query_id, row.item_id, row.context["price"], row.value) for row in lists] == [
        ("u1#s1", "11", "9", 1.0),
        ("u1#s1", "12", "18", 0.0),
        ("u1#s1", "13", "27", 0.0),
        ("u2#s2", "12", "9", None),
        ("u2#s2", "14", "18", None),
    ]
    [item] = chain.lake.read(c.ITEMS).collect()
    assert item.fields == {"properties": "Hotel|WiFi (Rooms)"}
    assert not chain.lake.read(c.QUARANTINE).count()
    # Once more, and with another session: nothing doubles
    write(folder, [clickout("s3", 1, 12)], "train-2.csv")
    chain.run("again", ingest, **CUT | {"data": str(folder)})
    assert chain.lake.read(c.INTERACTIONS).count() == 8
    assert chain.lake.read(c.IMPRESSIONS).count() == 8


BAD = {
    "unequal_lists": clickout("s2", 1, 11, prices="5|6"),
    "not_shown": clickout("s2", 1, 99),
    "unknown_action": action("s2", 1, "dance", 11),
    "time_out_of_range": action("s2", 1, "search for item", 11, timestamp=1_400_000_000),
    "no_list": clickout("s2", 1, 11, impressions="", prices=""),
}


def test_bad_rows_are_quarantined_with_file_line_and_reason(
    spark: SparkSession, tmp_path: Path
) -> None:
    again = clickout("s4", 1, 12, "11|12|11")  # of a repeated item the first place stays
    folder = write(tmp_path / "data", [*SESSION, *BAD.values(), again, again])
    with open(folder / "train.csv", "ab") as file:
        file.write(b"u\xff,s5,1541100000,1,search for item,11,US,x,mobile,,,\n")
        file.write(b"u5,s6,1541100000,1,search for item,11\n")
    with pytest.raises(
        QualityError, match=r"4 of 9 rejected .*train.csv line 13 conflicting_duplicate"
    ):
        read(spark, folder, tmp_path)
    chain = read(spark, folder, tmp_path, max_quarantine_share=0.6)
    odd = chain.lake.read(c.QUARANTINE).orderBy("line").collect()
    rows = [row for row in odd if row.table == c.INTERACTIONS]
    assert [(row.table, row.source_file, row.line, row.reason) for row in rows] == [
        (c.INTERACTIONS, "train.csv", 8 + place, reason) for place, reason in enumerate(BAD)
    ] + [
        (c.INTERACTIONS, "train.csv", 14, "exact_duplicate"),
        (c.INTERACTIONS, "train.csv", 15, "wrong_encoding"),
        (c.INTERACTIONS, "train.csv", 16, "wrong_number_of_fields"),
    ]
    # Of the first list the repeated item, of the second one all
    lists = [(row.line, row.reason) for row in odd if row.table == c.IMPRESSIONS]
    assert sorted(lists) == [
        (13, "conflicting_duplicate"),
        (14, "conflicting_duplicate"),
        (14, "exact_duplicate"),
        (14, "exact_duplicate"),
    ]
    shown = chain.lake.read(c.IMPRESSIONS).orderBy("query_id", "position").collect()
    assert {row.query_id for row in shown} == {"u1#s1", "u4#s4"}
    of_list = [(row.item_id, row.position) for row in shown if row.query_id == "u4#s4"]
    assert of_list == [("11", 1), ("12", 2)]


def test_the_published_counts_are_asked_for(spark: SparkSession, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", SESSION)
    with pytest.raises(QualityError, match=r"6 rows.*15,932,992 rows"):
        read(spark, folder, tmp_path, expected="check")


def test_download_says_where_to_register(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"https://recsys\.trivago\.cloud.*point `data:`"):
        download.download("trivago", tmp_path)
