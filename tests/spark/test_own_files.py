"""Delimited files of a team's own: which are read and under what name, whether they are as said,
and what is said where they are not.
"""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import folder as folders
from recsys_spark.lake.tables import Lake
from recsys_spark.stages import ingest
from tests.logs import logged
from tests.rawsets import job as raw_job
from tests.rawsets import judge, plain, write

T = 1_767_261_600  # 2026-01-01 10:00:00 UTC
COLUMNS = ["user_id", "item_id", "ts", "value"]
LINES = f"u,i,t,v\nu1,i1,{T},5\nu2,i2,{T + 1},3\n"
READ = [("u1", "i1", T, 5.0), ("u2", "i2", T + 1, 3.0)]


def job(folder: Path, **delimited: Any) -> ingest.Job:
    own = {"files": "*.csv", "header": True, "columns": COLUMNS} | delimited
    return raw_job(folder, dataset="shop", delimited=own)


def read(lake: Lake, folder: Path, **delimited: Any) -> list[tuple]:
    good, bad = judge(lake, job(folder, **delimited))
    assert bad == []
    return plain(good["interactions"])


def refused(lake: Lake, folder: Path, message: str, **delimited: Any) -> None:
    """Nothing is published, and the error says this."""
    told = job(folder, **delimited)
    with pytest.raises(DataError, match=message):
        ingest.run(_context(lake), told)
    assert not lake.exists("interactions") and not lake.exists("quarantine")


def _context(lake: Lake) -> Any:
    from tests.rawsets import context

    return context(lake)


def test_names_that_other_tools_would_misread(lake: Lake, tmp_path: Path) -> None:
    """Brackets, spaces, plus and percent signs, in files and folders; names twice."""
    header = LINES.splitlines()[0]
    names = ["shop [2026]/events (1).csv", "shop [2026]/100%.csv", "a+b/{x}.csv", "b/{x}.csv"]
    for number, name in enumerate(names):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_text(f"{header}\nu{number},i,{T},1\nbroken\n")
    good, bad = judge(lake, job(tmp_path / "raw", files="**/*.csv"))
    assert plain(good["interactions"]) == [(f"u{n}", "i", T, 1.0) for n in range(4)]
    assert [(file, line) for file, line, *_ in bad] == [(name, 3) for name in sorted(names)]


def test_what_spark_does_not_read_is_named_and_hidden_files_are_left_out(
    lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "raw", events_csv=LINES)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "events.csv").write_text(LINES)
    (folder / ".events.csv").write_text(LINES)
    assert read(lake, folder, files="**/*") == READ
    assert "left_out" in logged(caplog) and ".ipynb_checkpoints/events.csv" in logged(caplog)
    (folder / "_events-2.csv").write_text(LINES)
    refused(
        lake,
        folder,
        r"data folder .*: found _events-2\.csv, which Spark does not read; expected names that do "
        r"not begin with an underscore. To mend: rename them",
    )


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
def test_whole_files_pass_whatever_their_ends(lake: Lake, tmp_path: Path, ending: str) -> None:
    """A byte order mark, \\r\\n, no end of the last line, compressed or not."""
    (tmp_path / "raw").mkdir()
    content = b"\xef\xbb\xbf" + LINES.rstrip("\n").replace("\n", "\r\n").encode()
    path = tmp_path / "raw" / f"events.csv{ending}"
    if ending == ".zst":
        with pa.output_stream(str(path), compression="zstd") as target:
            target.write(content)
    else:
        pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
        path.write_bytes(pack(content))
    assert read(lake, tmp_path / "raw") == READ
    headless = content.replace(b"u,i,t,v\r\n", b"")
    (tmp_path / "raw2").mkdir()
    (tmp_path / "raw2" / "events.csv").write_bytes(headless)
    assert read(lake, tmp_path / "raw2", header=False) == READ


@pytest.mark.parametrize(("ending", "name"), [(".gz", "gzip"), (".bz2", "bzip2"), (".zst", "zstd")])
def test_a_compressed_file_cut_short(tmp_path: Path, ending: str, name: str) -> None:
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / f"events.csv{ending}"
    content = LINES.encode() + b"".join(b"u%d,i,%d,1\n" % (n, n * 7919) for n in range(9999))
    if ending == ".zst":
        with pa.output_stream(str(path), compression="zstd") as target:
            target.write(content)
        whole = path.read_bytes()
    else:
        whole = {".gz": gzip.compress, ".bz2": bz2.compress}[ending](content)
    path.write_bytes(whole[: len(whole) // 2])
    described = job(tmp_path / "raw").described()
    with pytest.raises(DataError, match=rf"events\.csv\{ending}: found a damaged {name} file"):
        folders.require_whole(folders.files(described, tmp_path / "raw"))


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (
            "userId,movieId,rating,timestamp\n" + LINES.partition("\n")[2],
            {},
            r"line 1: found 'rating' where `columns` has ts; .*columns: "
            r"\[user_id, item_id, value, ts\]",
        ),
        (
            'u,i,t,v\n"u1","i1",5,5\n',
            {},
            r'line 2, user_id: found "u1" in quotes; .*set `quoted: true`',
        ),
        (
            f"u1\ti1\t{T}\t5\n",
            {"header": False, "separator": "\\\\t"},
            r"1 of 1 rejected \(1 wrong_number_of_fields\).*lines are split by .* into 4 fields "
            r"\(user_id, item_id, ts, value\): set `separator`",
        ),
        (
            f"u,i,t,v\nu1,i1,{T}123,5\n",
            {},
            r"time_in_another_unit.*as numbers of s these times lie after the year 5000: they look "
            r"like ms, or finer; set `unit: ms`",
        ),
        (
            "u,i,t,v\nu1,i1,2026-01-01 10:00:00,5\n",
            {},
            r"time_without_zone 'u1,i1,2026-01-01 10:00:00,5'.*set `zone`",
        ),
        ("u,i,t,v\nu1,i1,5,-1\n", {}, r"1 value_out_of_range.*set `value_min` and `value_max`"),
        ("u,i,t,v\nu1,,5,1\n", {}, r"1 missing_id.*fill the ids"),
        ("u,i,t,v\n", {}, r"raw rows of interactions: found none in \*\.csv"),
    ],
    ids=["order", "quotes", "separator", "unit", "zone", "negative", "no id", "no row"],
)
def test_files_that_are_not_as_described(
    lake: Lake, tmp_path: Path, lines: str, settings: dict, message: str
) -> None:
    refused(lake, write(tmp_path / "raw", events_csv=lines), message, **settings)


def test_files_whose_rows_are_all_rejected_while_spark_plans_anew(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    """What was counted of rows got lost where Spark found that none was left."""
    folder = write(tmp_path / "raw", events_csv="u,i,t,v\na,b\nc,d\n")
    spark.conf.set("spark.sql.adaptive.enabled", "true")
    try:
        refused(lake, folder, r"2 of 2 rejected \(2 wrong_number_of_fields\)")
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", "false")


def test_a_header_in_the_first_of_several_files_alone(lake: Lake, tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", a_csv=LINES, b_csv=f"u3,i1,{T},2\n")
    refused(
        lake, folder, r"b\.csv, line 1: found 'u3,i1,.*expected the header of a\.csv, 'u,i,t,v'"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["user_id", "item_id", "rating", "timestamp"], r"timestamp, .*did you mean ts\?"),
        (["user_id", "item_id", "ts", "rating"], r"rating, .*did you mean value\?"),
        (["user_id", "item_id", "ts", "value", "Value"], "in upper and lower case"),
    ],
)
def test_names_that_are_almost_the_lakes(tmp_path: Path, columns: list, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job(tmp_path, columns=columns)


def test_further_columns_may_have_any_name(lake: Lake, tmp_path: Path) -> None:
    names = ["width", "block", "at", "raw", "reason", "source_file", "line", "header"]
    text = ",".join(["u", "i", "t", "v", *names])
    folder = write(tmp_path / "raw", e_csv=f"{text}\nu1,i1,{T},5,{','.join('7' * len(names))}\n")
    good, bad = judge(lake, job(folder, columns=[*COLUMNS, *names]))
    assert bad == [] and good["interactions"][0].context == dict.fromkeys(names, "7")


def test_times_as_text_and_in_other_units(lake: Lake, tmp_path: Path) -> None:
    for name, settings, time in (
        ("iso", {}, "2026-01-01T10:00:00Z"),
        ("offset", {}, "2026-01-01T11:30:00.25+01:30"),
        ("compact", {}, "2026-01-01 11:00:00+0100"),
        ("zone", {"zone": "Europe/Berlin"}, "2026-01-01 11:00:00"),
        ("ms", {"unit": "ms"}, f"{T}999"),
        ("ns", {"unit": "ns"}, f"{T}999999999"),
    ):
        folder = write(tmp_path / name, e_csv=f"u,i,t,v\nu,i,{time},1\n")
        assert read(lake, folder, **settings) == [("u", "i", T, 1.0)], name


def test_ids_keep_their_digits(lake: Lake, tmp_path: Path) -> None:
    ids = ["007", "12.0", "9223372036854775809", "6fa459ea-ee8a-3ca4-894e-db77e160355e"]
    text = "u,i,t,v\n" + "".join(f"{user},i,{T},1\n" for user in ids)
    kept = read(lake, write(tmp_path / "raw", e_csv=text))
    assert {row[0] for row in kept} == set(ids)
