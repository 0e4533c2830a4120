"""Raw files -> tables: what is kept, what is quarantined and where it stood, and that nothing is
ever half published.
"""

from __future__ import annotations

import gzip
import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql.classic.dataframe import DataFrame

from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.files import folder as folders
from recsys_spark.datasets.files.spec import Dataset, File, find
from recsys_spark.datasets.forms import blocks
from recsys_spark.etl.raw import clean
from recsys_spark.etl.split import RULES
from recsys_spark.lake.tables import Lake
from recsys_spark.stages import ingest
from tests.rawsets import EPOCH as T
from tests.rawsets import (
    completed,
    events,
    gathered_from,
    job,
    judge,
    plain,
    quarantined,
    run,
    small_set,
    tables,
    write,
)

DIRTY = [
    (f"1::10::5::{T}", None),
    (f"1::11::4::{T + 1}", None),
    (f"1::12::4::{T}::9", "wrong_number_of_fields"),
    ("", "wrong_number_of_fields"),
    (f"2::ten::3::{T}", "not_a_number"),
    (f"2::10::NaN::{T}", "not_a_number"),
    ("2::10::3::never", "not_a_time"),
    (f"2::10::6::{T}", "value_out_of_range"),
    (f"2::10::2.5::{T}", "value_out_of_range"),
    ("2::10::3::97830", "time_out_of_range"),
    (f"9::10::3::{T}", "unknown_user"),
    (f"2::99::3::{T}", "unknown_item"),
    (f"1::10::5::{T}", "exact_duplicate"),
    (f"1::10::4::{T}", "conflicting_duplicate"),
    (f"1::11::4::{T + 2}", "conflicting_duplicate"),
    (f"2::10::3::{T + 5}", None),
    (f"3::11::2::{T}", None),
]


def test_each_kind_of_bad_row_then_again_then_one_more_file(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_set(tmp_path / "raw", "".join(line + "\n" for line, _ in DIRTY))
    loose = job(folder, max_quarantine_share=0.9)
    # The file is read in several parts, that cut lines
    monkeypatch.setattr(blocks, "SMALLEST_BLOCK", 97)
    outcome = run(lake, loose)
    kept = [
        ("1", "10", T, 5.0),
        ("1", "11", T + 1, 4.0),
        ("2", "10", T + 5, 3.0),
        ("3", "11", T, 2.0),
    ]
    bad = sorted(
        ("ratings.dat", line, reason, raw) for line, (raw, reason) in enumerate(DIRTY, 1) if reason
    )
    assert events(lake) == kept
    assert quarantined(lake) == bad
    assert outcome.summary["rows"] == {"users": 3, "items": 3, "interactions": len(DIRTY)}
    assert outcome.summary["quarantined"]["interactions"]["conflicting_duplicate"] == 2
    assert {row.item_id: (row.title, row.fields) for row in lake.read("items").collect()} == {
        "10": ("Amélie (2001)", {"genres": "Comedy|Romance", "year": "2001"}),
        "11": ("Untitled", {}),
        "12": ("Heat (1995)", {"genres": "Action", "year": "1995"}),
    }
    assert lake.read("users").where("user_id = '2'").collect()[0].fields == {
        "gender": "F",
        "age": "25-34",
        "occupation": "college/grad student",
        "zip": "02000",
    }

    assert run(lake, loose, "ingest-2").tables == outcome.tables  # nothing new: not even a commit
    assert tables(lake)["quarantine"] == bad

    before = ingest.source_fingerprint(loose, tmp_path)
    # Contradicts what is stored
    small_set(folder, "".join(line + "\n" for line, _ in DIRTY[:-1]) + f"3::11::5::{T}\n")
    write(folder, ratings__2_dat=f"3::12::1::{T}\n1::10::1::{T + 9}\n2::10::3::{T + 5}\n")
    assert ingest.source_fingerprint(loose, tmp_path) != before
    run(lake, loose, "ingest-3")
    assert events(lake) == sorted([*kept, ("3", "12", T, 1.0)])
    assert quarantined(lake) == sorted(
        [
            *bad,
            ("ratings.dat", len(DIRTY), "conflicting_duplicate", f"3::11::5::{T}"),
            ("ratings-2.dat", 2, "conflicting_duplicate", f"1::10::1::{T + 9}"),
            ("ratings-2.dat", 3, "exact_duplicate", f"2::10::3::{T + 5}"),
        ]
    )


def test_ids_are_looked_up_without_sending_all_of_them_to_every_task(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("a", None), ("z", None)], "user_id string, reason string")
    known = spark.createDataFrame([("a",)], "user_id string")
    before = spark.conf.get("spark.sql.autoBroadcastJoinThreshold")
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", -1)  # as if they were too many
    try:
        marked = clean.mark_unknown(rows, known, "user_id", "unknown_user")
        plan = marked._jdf.queryExecution().executedPlan().toString()
    finally:
        spark.conf.set("spark.sql.autoBroadcastJoinThreshold", before)
    assert "SortMergeJoin" in plan and "Broadcast" not in plan


def test_too_many_bad_rows_publish_nothing(lake: Lake, tmp_path: Path) -> None:
    folder = small_set(tmp_path / "raw", f"1::10::5::{T}\n1::11::4\n2::10::7::{T}\n2::11::3::{T}\n")
    message = (
        r"raw rows of interactions: found 2 of 4 rejected \(1 wrong_number_of_fields, 1 "
        r"value_out_of_range\): ratings\.dat line 2 wrong_number_of_fields '1::11::4'; "
        r".*expected at most 10 % \(max_quarantine_share=0\.1\); nothing was published\. To "
        r"mend: look at these lines"
    )
    with pytest.raises(DataError, match=message):
        run(lake, job(folder, max_quarantine_share=0.1))
    assert not any(lake.exists(name) for name in ("users", "items", "interactions", "quarantine"))


def test_a_known_set_of_another_size_is_refused(lake: Lake, tmp_path: Path) -> None:
    folder = small_set(tmp_path / "raw", f"1::10::5::{T}\n")
    message = (
        r"users\.dat: found 3 rows; expected 6,040 rows; nothing was published\. To mend: "
        r".*expected: ignore"
    )
    with pytest.raises(DataError, match=message):
        run(lake, job(folder, expected="check"))
    assert not lake.exists("users")


def test_another_data_set_does_not_come_into_the_lake(lake: Lake, tmp_path: Path) -> None:
    ingest_job = job(small_set(tmp_path / "raw", f"1::10::5::{T}\n"))
    config = ingest_job.model_copy(update={"dataset": "ml-100k"}).model_dump(mode="json")
    lake.add_run(completed("ingest-9", "ingest", config))
    with pytest.raises(
        ConfigError, match=r"/lake: found data set ml-100k.*no other than ml-1m.*set env\.lake"
    ):
        run(lake, ingest_job)


def test_a_folder_that_is_missing_empty_or_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"data folder .*/nowhere: found no such folder; expected the files of ml-1m: "
        r"ratings\.dat",
    ):
        ingest.source_fingerprint(job(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"/empty: found an empty folder"):
        ingest.source_fingerprint(job(tmp_path / "empty"), tmp_path)
    other = write(tmp_path / "other", notes_txt="x\n")
    with pytest.raises(
        DataError,
        match=r"/other: found no ratings\.dat \(notes\.txt\).*recsys-spark download ml-1m",
    ):
        ingest.source_fingerprint(job(other), tmp_path)


def test_recsys_data_names_the_folder_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_set(tmp_path / "ml-1m", f"1::10::5::{T}\n")
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    assert folders.locate(find("ml-1m"), None) == tmp_path / "ml-1m"
    assert folders.locate(find("ml-20m"), None, root=tmp_path / "none") is None
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path / "gone"))
    with pytest.raises(
        DataError, match=r"RECSYS_DATA=.*/gone: found no such folder.*correct the variable"
    ):
        folders.locate(find("ml-1m"), None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ratings_dat",
            f"1::10::5::{T}\n1::11::4::9783",
            r"ratings\.dat: found a last line without its end.*cut short",
        ),
        ("users_dat", b"", r"users\.dat: found an empty file"),
    ],
)
def test_a_file_cut_in_the_middle_of_a_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    folder = write(small_set(tmp_path, f"1::10::5::{T}\n"), **{name: content})
    with pytest.raises(DataError, match=message):
        folders.require_whole(folders.files(find("ml-1m"), folder))


def test_a_cut_gzip_file(tmp_path: Path) -> None:
    folder = small_set(tmp_path, f"1::10::5::{T}\n")
    (folder / "ratings.dat").unlink()
    whole = gzip.compress(b"".join(b"1::%d::5::978300000\n" % item for item in range(9999)))
    (folder / "ratings.dat.gz").write_bytes(whole)
    folders.require_whole(folders.files(find("ml-1m"), folder))
    (folder / "ratings.dat.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"ratings\.dat\.gz: found a damaged gzip file.*copy it again"
    ):
        folders.require_whole(folders.files(find("ml-1m"), folder))


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data set 'ml1m'.*did you mean 'ml-1m'"):
        ingest.Job(stage="ingest", dataset="ml1m")


def test_lines_in_order_without_times(lake: Lake, tmp_path: Path) -> None:
    """The form `user item`, oldest first: an event's time is its line number over all files; the
    same pair may come again.
    """
    folder = write(tmp_path / "raw", a_txt="u1 x\r\nu1 y\r\nbroken\r\n")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"u2 x\nu1 x\nu2 x\n"))
    options = {"files": "*.txt", "separator": " ", "columns": ["user_id", "item_id"]}
    good, bad = judge(lake, job(folder, dataset="mine", delimited=options))
    expected = [("u1", "x", 1), ("u1", "x", 5), ("u1", "y", 2), ("u2", "x", 4), ("u2", "x", 6)]
    assert plain(good["interactions"]) == [(*event, 1.0) for event in expected]
    assert bad == [("a.txt", 3, "wrong_number_of_fields", "broken")]


def test_rows_keep_their_names_when_spark_would_cut_files_otherwise_in_each_job(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when executors join between two jobs. An ordered file without times, so that a
    wrong number is a wrong time; with files of one name in two folders.
    """
    draw = random.Random(4)
    pairs = [(f"u{draw.randrange(9)}", f"i{draw.randrange(9)}") for _ in range(90)]
    names = ("2024.01/a+b é.txt", "2024.02/[1] 5%.txt", "2024.02/a+b é.txt")
    files = {name: pairs[30 * n : 30 * n + 30] for n, name in enumerate(names)}
    for name, lines in files.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{user} {item}\n" for user, item in lines)
        (tmp_path / "raw" / name).write_text(text)
    first: dict[tuple[str, str], int] = {}
    repeats = []
    for time, pair in enumerate(pairs, 1):
        if first.setdefault(pair, time) != time:
            file, line = divmod(time - 1, 30)
            repeats.append((names[file], line + 1, "conflicting_duplicate", " ".join(pair)))

    settings = itertools.cycle(
        (
            {"minPartitionNum": 1, "maxPartitionBytes": 83},
            {"minPartitionNum": 40, "maxPartitionBytes": 999},
            {"minPartitionNum": 7, "maxPartitionBytes": 140},
        )
    )
    changed = [
        f"spark.sql.files.{key}"
        for key in ("minPartitionNum", "maxPartitionBytes", "openCostInBytes")
    ]

    def in_another_cut(action: Callable) -> Callable:
        def act(frame: DataFrame) -> object:
            for key, value in (next(settings) | {"openCostInBytes": 1}).items():
                spark.conf.set(f"spark.sql.files.{key}", value)
            return action(frame)

        return act

    monkeypatch.setattr(blocks, "SMALLEST_BLOCK", 101)
    for name in ("collect", "count"):
        monkeypatch.setattr(DataFrame, name, in_another_cut(getattr(DataFrame, name)))
    options = {
        "files": "*/*.txt",
        "separator": " ",
        "columns": ["user_id", "item_id"],
        "one_per_pair": True,
    }
    try:
        good, bad = judge(lake, job(tmp_path / "raw", dataset="mine", delimited=options))
    finally:
        for key in changed:
            spark.conf.unset(key)
    assert plain(good["interactions"]) == sorted((*pair, at, 1.0) for pair, at in first.items())
    assert bad == sorted(repeats)


def test_one_file_feeds_events_and_items_and_fills_sessions(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    columns = ("user_id", "session_id", "ts", "action", "position", "item_id", "title")
    files = (
        File("log.csv", "interactions", columns, ","),
        File("log.csv", "items", columns, ",", repeats=True),
    )
    lines = [
        "u,s1,5,view,1,x,",
        "u,s1,5,view,1,y,Why",
        "u,s1,6,buy,,x,Ex",
        "u,s2,9,view,first,x,Ex",
    ]
    lines += ["u,s2,9,buy,3,y,Y", "u,s2,9,view,3,y,Why", "v,s3,8,view,2"]
    folder = write(tmp_path / "raw", log_csv="".join(line + "\n" for line in lines))
    dataset = Dataset("log", files, integer_ids=False, one_per_pair=False)
    folders.require_whole(folders.files(dataset, folder))
    checked = gathered_from(lake, dataset, folder).checked({})
    items, events = (table.good.collect() for table in checked)
    assert sorted((row.item_id, row.title) for row in items) == [("x", ""), ("y", "Why")]
    assert sorted((row.item_id, row.session_id, row.action, row.position) for row in events) == [
        ("x", "s1", "buy", None),
        ("x", "s1", "view", 1),
        ("y", "s1", "view", 1),
        ("y", "s2", "buy", 3),
    ]
    assert [table.reasons for table in checked] == [
        {},
        {"wrong_number_of_fields": 1, "not_a_number": 1, "conflicting_duplicate": 1},
    ]
    parts = RULES["session_time"](fractions=(0.75, 0.125, 0.125)).assign(checked[1].good, 1)
    assert {(row.ts, row.part) for row in parts.collect()} == {
        (5, "train"),
        (6, "train"),
        (9, "test"),
    }


def test_a_csv_of_ones_own_with_header_quotes_and_more_fields(lake: Lake, tmp_path: Path) -> None:
    lines = [
        "when,who,note,what,stars",
        '100,ana,"says ""hi, all""",é1,4.5',
        "200,bob,,x2,1",
        "300,bob,a,b,c,d,1",
        ",ana,,x2,2",
    ]
    folder = write(tmp_path / "raw", shop_csv="".join(line + "\n" for line in lines).encode())
    (folder / "bad.csv").write_bytes(b"when,who,note,what,stars\n100,caf\xe9,,x,1\n")
    options = {
        "files": "*.csv",
        "header": True,
        "quoted": True,
        "columns": ["ts", "user_id", "note", "item_id", "value"],
        "value_max": 5,
    }
    run(lake, job(folder, dataset="shop", delimited=options, max_quarantine_share=0.9))
    assert events(lake) == [("ana", "é1", 100, 4.5), ("bob", "x2", 200, 1.0)]
    contexts = {row.user_id: row.context for row in lake.read("interactions").collect()}
    assert contexts == {"ana": {"note": 'says "hi, all"'}, "bob": {}}
    assert lake.read("users").isEmpty() and lake.read("items").isEmpty()
    assert [row[:3] for row in quarantined(lake)] == [
        ("bad.csv", 2, "wrong_encoding"),
        ("shop.csv", 4, "wrong_number_of_fields"),
        ("shop.csv", 5, "not_a_time"),
    ]


PUBLISHED = {
    "separator": "\t",
    "one_per_pair": True,
    "columns": ["user_id", "item_id", "value"],
    "kinds": [
        {"files": "train.tsv", "part": "train"},
        {
            "files": "test.csv",
            "part": "test",
            "separator": ",",
            "header": True,
            "columns": ["user_id", "item_id", "value", "ts", "note"],
        },
        {"files": "more.tsv", "part": "valid", "required": False},
    ],
}


def test_files_of_several_kinds_carry_their_part(lake: Lake, tmp_path: Path) -> None:
    """A line number stands for the time where a kind has none; a pair that is in two parts is a
    contradiction, also at the same time.
    """
    folder = write(
        tmp_path / "raw",
        train_tsv="a\tx\t5\na\ty\t4\nb\tx\t3\n",
        test_csv="u,i,r,t,n\na,z,5,900,late\nb,x,3,3,\n",
    )
    good, bad = judge(lake, job(folder, dataset="mine", delimited=PUBLISHED))
    kept = {
        (row.user_id, row.item_id, row.ts, row.value, row.context["part"], row.context.get("note"))
        for row in good["interactions"]
    }
    first = {
        ("a", "x", 1, 5.0, "train", None),
        ("a", "y", 2, 4.0, "train", None),
        ("a", "z", 900, 5.0, "test", "late"),
    }
    assert kept - first in ({("b", "x", 3, 3.0, "train", None)}, {("b", "x", 3, 3.0, "test", None)})
    assert [row[2] for row in bad] == ["conflicting_duplicate"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": "*.tsv"}, "files or kinds, not both"),
        ({"columns": ["user_id"]}, r"columns of train\.tsv must name item_id; they are user_id"),
        ({"kinds": [{"files": "train.tsv", "part": "holdout"}]}, "'train', 'valid', 'test'"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job(tmp_path, dataset="mine", delimited=PUBLISHED | change)


def test_files_that_are_missing_or_of_two_kinds_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, train_tsv="a\tx\t5\n", test_csv="u,i,r,t,n\n")
    twice = PUBLISHED | {"kinds": [*PUBLISHED["kinds"], {"files": "t*.tsv", "part": "valid"}]}
    with pytest.raises(
        DataError,
        match=r"train\.tsv: found a file of train\.tsv and one of t\*\.tsv; .*change the "
        r"patterns or the names",
    ):
        folders.files(job(folder, dataset="mine", delimited=twice).described(), folder)
    optional = PUBLISHED | {"kinds": [{"files": "none.tsv", "part": "train", "required": False}]}
    with pytest.raises(
        DataError, match=r"found no file with events; expected none\.tsv\. To mend: point `data=`"
    ):
        folders.files(job(folder, dataset="mine", delimited=optional).described(), folder)


def test_a_header_that_is_none(tmp_path: Path) -> None:
    folder = write(tmp_path, shop_csv="1,2\n3,4\n")
    told = job(
        folder, dataset="shop", delimited={"header": True, "columns": ["user_id", "item_id"]}
    ).described()
    with pytest.raises(
        DataError,
        match=r"shop\.csv, line 1: found '1,2.*expected a header with 2 names.*header: false",
    ):
        folders.require_whole(folders.files(told, folder))


CHILD = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root_folder!r})
from tests.rawsets import job, run
from recsys_spark.lake.session import session
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import SparkSettings
from tests.conftest import TINY

settings = SparkSettings(
    master="local[2]", driver_memory="1g", shuffle_partitions=2, conf=TINY)
spark = session(settings, "killed")
lake, point = Lake(spark, {root!r}), {point!r}
def die():
    os.killpg(0, signal.SIGKILL)
def watch():
    while not any(Path({root!r}, "interactions").glob("*.parquet")):
        time.sleep(0.001)
    die()
if point == "while the events are written":
    threading.Thread(target=watch, daemon=True).start()
publish = Lake.merge_new
def merge_new(self, name, *rest, **named):
    if point == "before " + name: die()
    version = publish(self, name, *rest, **named)
    if point == "after " + name: die()
    return version
Lake.merge_new = merge_new
run(lake, job(Path({folder!r}), max_quarantine_share=0.5))
"""


@pytest.mark.soak
def test_killed_at_any_point_and_run_again_is_one_clean_run(
    spark: SparkSession, tmp_path: Path
) -> None:
    lines = [
        f"{user}::{item}::{1 + (user + item) % 5}::{T + user}"
        for user in (1, 2, 3)
        for item in (10, 11, 12)
    ]
    folder = small_set(tmp_path / "raw", "\n".join([*lines, "1::10", lines[0]]) + "\n")
    clean = Lake(spark, str(tmp_path / "clean"))
    run(clean, job(folder, max_quarantine_share=0.5))
    between = [
        f"{side} {name}"
        for name in ("quarantine", "users", "items", "interactions")
        for side in ("before", "after")
    ]
    for point in ("while the events are written", random.Random(3).choice(between[1:])):
        root = str(tmp_path / point.replace(" ", "-"))
        code = CHILD.format(
            root_folder=str(Path(__file__).parents[2]), root=root, folder=str(folder), point=point
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE
        )
        _, said = child.communicate(timeout=120)
        assert child.returncode == -signal.SIGKILL, said.decode()[-2000:]
        lake = Lake(spark, root)
        assert not lake.exists("interactions") or point == "after interactions"
        run(lake, job(folder, max_quarantine_share=0.5))
        assert tables(lake) == tables(clean), point
