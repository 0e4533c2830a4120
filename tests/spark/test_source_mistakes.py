"""Sources that are not there, not whole, or not what they were: one clear line, and nothing is
published or lost.
"""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.etl.raw import quarantine
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import steps as pipeline
from tests import rawsets
from tests.logs import logged
from tests.rawsets import events, write
from tests.sources import COLUMNS, SOLD, TAKEN, T, job, run, sold


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"table": "/nowhere/at/all"},
            r"table /nowhere/at/all: found no Delta table; .*_log",
        ),
        ({"table": "nowhere"}, r"table nowhere: found The table or view `nowhere` cannot be found"),
        ({"table": "cat.sales.nowhere"}, r"table cat\.sales\.nowhere: found .*catalogs are set"),
        (
            {"files": "/nowhere/*.parquet"},
            r"files /nowhere/\*\.parquet: found no file of this",
        ),
        ({"files": "/nowhere"}, r"files /nowhere: found no such file"),
        ({"files": "file:///nowhere/x"}, r"files file:///nowhere/x: found no file of this name"),
        ({"files": "s4://bucket/x"}, r"files s4://bucket/x: found No FileSystem for scheme"),
        ({"query": "SELECT FROM WHERE"}, r"query SELECT FROM WHERE: found .*; expected a SELECT"),
        ({"query": "SELECT * FROM nowhere"}, r"query .*nowhere: found The table or view `nowhere`"),
    ],
)
def test_what_is_not_there(lake: Lake, source: dict, message: str) -> None:
    refused(lake, source, message)


def refused(lake: Lake, source: dict[str, Any], message: str, **values: Any) -> None:
    with pytest.raises(RecsysError, match=message) as problem:
        run(lake, source, **values)
    assert "\n" not in str(problem.value) and "Exception" not in str(problem.value)
    assert not any(lake.exists(name) for name in ("users", "items", "interactions", "quarantine"))


def test_a_version_that_is_not_there(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    sold(spark).write.format("delta").save(str(tmp_path / "sold"))
    source = {"table": str(tmp_path / "sold"), "version": 7}
    refused(lake, source, r"sold, version 7: found Cannot time travel Delta table to version 7")
    refused(
        lake,
        {"files": str(tmp_path / "sold")},
        r"found a Delta table, whose files also hold rows that were deleted; .*`table: ",
    )


@pytest.mark.parametrize("form", ["parquet", "orc"])
def test_a_file_cut_short(spark: SparkSession, lake: Lake, tmp_path: Path, form: str) -> None:
    sold(spark).coalesce(1).write.format(form).save(str(tmp_path / "sold"))
    [path] = (tmp_path / "sold").glob(f"*.{form}")
    path.write_bytes(path.read_bytes()[:-20])
    source = {"files": str(tmp_path / "sold")}
    refused(lake, source, rf"{path.name}: found a damaged {form} file .*copy it again")


@pytest.mark.parametrize("name", ["e.csv.gz", "e.jsonl.gz", "e.csv.bz2"])
def test_compressed_text_cut_short(lake: Lake, tmp_path: Path, name: str) -> None:
    text = "customer,sku,at\n" + "".join(f"{n},{n * 7919},{T + n}\n" for n in range(20_000))
    if "json" in name:
        values = (line.split(",") for line in text.splitlines()[1:])
        text = "".join(f'{{"customer": {u}, "sku": {i}, "at": {t}}}\n' for u, i, t in values)
    pack = gzip.compress if name.endswith("gz") else bz2.compress
    whole = pack(text.encode())
    write(tmp_path / "raw")
    (tmp_path / "raw" / name).write_bytes(whole[: len(whole) // 2])
    columns = {"user_id": "customer", "item_id": "sku", "ts": "at"}
    source = {"files": str(tmp_path / "raw"), "columns": columns, "unit": "s", "values": "none"}
    refused(lake, source, r"found a (file that cannot be read to its end|damaged bzip2).*copy")


@pytest.mark.parametrize(
    ("form", "other", "message"),
    [
        ("csv", "sku,customer,at\n1,2,3\n", r"b\.csv, line 1: found 'sku,.*the header of a\.csv"),
        ("csv", f"1,2,{T}\n", r"b\.csv, line 1: found '1,2,.*write the header into every file"),
        ("jsonl", '{"customer": 3, "item": 4}\n', r"1 of 2 rejected \(1 missing_id\)"),
    ],
)
def test_text_of_several_layouts(
    lake: Lake, tmp_path: Path, form: str, other: str, message: str
) -> None:
    first = {
        "csv": f"customer,sku,at\n1,2,{T}\n",
        "jsonl": f'{{"customer": 1, "sku": 2, "at": {T}}}\n',
    }[form]
    write(tmp_path / "raw", **{f"a_{form}": first, f"b_{form}": other})
    columns = {"user_id": "customer", "item_id": "sku", "ts": "at"}
    source = {"files": str(tmp_path / "raw"), "columns": columns, "unit": "s", "values": "none"}
    refused(lake, source, message)


def test_files_of_several_schemas_or_forms(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    sold(spark).write.parquet(str(tmp_path / "sold" / "a"))
    sold(spark).withColumn("sku", F.lit(7)).write.parquet(str(tmp_path / "sold" / "b"))
    source = {"files": str(tmp_path / "sold")}
    refused(lake, source, r"column sku: found int32 in .*, string in .*one type in all files")
    write(tmp_path / "sold", notes_csv="a,b\n")
    refused(lake, source, r"found notes\.csv; expected files of format parquet alone")


def test_an_array_is_no_json_lines(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "raw", e_json='[{"customer": 1}]\n')
    refused(lake, {"files": str(tmp_path / "raw")}, r"e\.json, line 1: found .*one JSON object a")


def test_avro_without_its_package(lake: Lake, tmp_path: Path) -> None:
    write(tmp_path / "raw", e_avro=b"Obj\x01")
    refused(lake, {"files": str(tmp_path / "raw")}, r"found Avro, which .*spark-avro_2\.13")


@pytest.mark.parametrize("change", ["another comes", "one is written anew"])
def test_a_file_that_changes_while_it_is_read(
    spark: SparkSession,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    sold(spark).coalesce(1).write.parquet(str(tmp_path / "sold"))
    [path] = (tmp_path / "sold").glob("*.parquet")
    budget = quarantine.require_budget

    def and_files_change(*arguments: Any) -> None:
        if change == "another comes":
            (tmp_path / "sold" / f"part-2-{path.name}").write_bytes(path.read_bytes())
        else:
            path.write_bytes(path.read_bytes())
        budget(*arguments)

    monkeypatch.setattr(quarantine, "require_budget", and_files_change)
    source = {"files": str(tmp_path / "sold")}
    refused(lake, source, r"found part-.*, changed while the step read them; .*run the same")


NOBODY = """
import os, sys
from pathlib import Path
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.forms import opened
from recsys_spark.datasets.forms.source import Source
if os.geteuid() == 0:  # root may read all
    os.seteuid(65534)
for place in sys.argv[1:]:
    events = {"files": place, "columns": {"user_id": "u", "item_id": "i"}, "values": "none"}
    try:
        opened.identity(None, Source(interactions=events), Path("runs-that-are-not-there"))
    except DataError as problem:
        print(problem)
"""


def test_files_and_folders_that_nobody_may_read() -> None:
    """Of every form: what they hold is asked for first, before any of them is opened."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        places = [Path(folder, name) for name in ("e.parquet", "e.csv", "e.jsonl.gz", "closed")]
        for place in places[:-1]:
            place.write_text("")
        places[-1].mkdir()
        (places[-1] / "e.csv").write_text("")
        for place in places:
            place.chmod(0)
        command = [sys.executable, "-c", NOBODY, *map(str, places)]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        places[-1].chmod(0o755)
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        f"files {place}: found no permission to read it ({place})" for place in places
    ]


def test_a_schema_that_changed_between_two_runs(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "sold")
    sold(spark).write.parquet(path)
    told = job({"files": path})
    outcome = rawsets.run(lake, told)
    record = rawsets.completed("ingest-1", "ingest", told.model_dump(mode="json"))
    lake.add_run(record.model_copy(update={"summary": outcome.summary}))
    sold(spark).withColumn("customer", F.col("customer").cast("string")).write.mode(
        "overwrite"
    ).parquet(path)
    run(lake, {"files": path}, "ingest-2")
    assert events(lake) == TAKEN
    assert "event=types_changed" in logged(caplog) and "user_id bigint -> string" in logged(caplog)
    sold(spark).withColumnRenamed("customer", "client").write.mode("overwrite").parquet(path)
    with pytest.raises(ConfigError, match=r"no column customer; expected .*client"):
        run(lake, {"files": path}, "ingest-3")
    assert events(lake) == TAKEN


def test_a_delta_table_whose_columns_changed_between_two_runs(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A type that was widened is said, and read; a column that is gone or renamed is refused."""
    path = str(tmp_path / "sold")
    options = {"delta.columnMapping.mode": "name", "delta.enableTypeWidening": "true"}
    sold(spark).write.format("delta").options(**options).save(path)
    source = {"table": path, "incremental": True, "columns": COLUMNS | {"value": "stars"}}
    told = job(source)
    outcome = rawsets.run(lake, told)
    record = rawsets.completed("ingest-1", "ingest", told.model_dump(mode="json"))
    lake.add_run(record.model_copy(update={"summary": outcome.summary}))
    before = events(lake)

    spark.sql(f"ALTER TABLE delta.`{path}` ALTER COLUMN stars TYPE BIGINT")
    added = sold(spark, [(12, "007", T + 9, 7, None, "buy")])
    added = added.withColumn("stars", F.col("stars").cast("long"))
    added.write.format("delta").mode("append").save(path)
    assert run(lake, source, "ingest-2").summary["rows"] == {"interactions": 1}
    assert "value int -> bigint" in logged(caplog)
    now = sorted([*before, ("12", "007", T + 9, 7.0)])
    assert events(lake) == now

    for change, columns in (
        ("RENAME COLUMN sku TO article", "customer, article, purchased_at"),
        ("DROP COLUMN article", "customer, purchased_at"),
    ):
        spark.sql(f"ALTER TABLE delta.`{path}` {change}")
        with pytest.raises(ConfigError, match=f"no column sku; expected .*{columns}"):
            run(lake, source, "ingest-3")
    assert events(lake) == now


def test_times_that_are_all_equal_or_have_not_come_yet(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, times, said in (
        ("equal", [T, T], "all events have one time"),
        ("future", [T, 2 * T], "events that have not happened yet"),
    ):
        rows = [(user, "i", time, 1, None, "buy") for user, time in enumerate(times)]
        sold(spark, rows).write.parquet(str(tmp_path / name))
        run(Lake(spark, str(tmp_path / name / "lake")), {"files": str(tmp_path / name / "p*")})
        assert said in logged(caplog)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": None}, "one of files, table and query, not none"),
        ({"table": "a.b"}, "one of files, table and query, not files and table"),
        ({"version": 3}, "version is of a table"),
        ({"columns": {"user_id": "u"}}, "columns must name item_id"),
        ({"columns": {"user_id": "u", "item_id": "i"}}, "set values: none where every event"),
        ({"columns": {"userid": "u"}}, r"not userid \(did you mean 'user_id'\?\); others go into"),
        ({"zone": "Berlin"}, r"a time zone such as Europe/Berlin or UTC"),
        ({"incremental": True}, "incremental reads the latest version of a table"),
    ],
)
def test_settings_that_do_not_fit(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job({"files": "x"} | change)


def test_stored_rows_that_the_source_has_no_longer(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They stay and are counted, unless the table is to follow; what contradicts them likewise."""
    path = str(tmp_path / "sold")
    sold(spark).write.parquet(path)
    run(lake, {"files": path})
    changed = [SOLD[0][:3] + (1, *SOLD[0][4:]), SOLD[1]]
    sold(spark, changed).write.mode("overwrite").parquet(path)
    with pytest.raises(DataError, match=r"1 conflicting_duplicate.*set `stored: follow` where the"):
        run(lake, {"files": path}, "ingest-2")
    loose = run(lake, {"files": path}, "ingest-3", max_quarantine_share=0.5)
    assert loose.summary["outlived"] == {"interactions": 2} and events(lake) == TAKEN
    assert "event=outlived interactions=2" in logged(caplog)
    follow = run(lake, {"files": path}, "ingest-4", stored="follow")
    assert events(lake) == [("12", "007", T, 1.0), ("12", "08", T + 1, 1.0)]
    assert run(lake, {"files": path}, "ingest-5", stored="follow").tables == follow.tables


def test_two_steps_and_one_that_takes_away(tmp_path: Path) -> None:
    entries = {
        "name": "two",
        "env": {"lake": "x", "runs": "y"},
        "steps": {
            name: job({"files": "x"}, stored=stored).model_dump(mode="json", exclude_none=True)
            for name, stored in (("one", "keep"), ("other", "follow"))
        },
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError, match=r"steps\.other\.stored: found follow, beside another"):
        pipeline.load(tmp_path / "two.yaml")
