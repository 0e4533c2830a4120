"""A form of files that nobody knew: a file of its own, an entry of FORMS, and one of SCANS. Checks,
quarantine, line numbers and budget are then its own too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.datasets.forms import blocks, lines, opened, source
from recsys_spark.datasets.forms.files import Files
from recsys_spark.datasets.forms.scan import AT, BLOCK, FIELDS, HEADER, Scan, inner
from recsys_spark.datasets.forms.source import Entry
from recsys_spark.lake.tables import Lake
from tests.rawsets import events, quarantined
from tests.sources import run

LINE = r"^(\w+) bought (\w+) at (\w+)$"
COLUMNS = {"user_id": "who", "item_id": "what", "ts": "moment"}


def scan(spark: SparkSession, entry: Entry, files: Files) -> Scan:
    """Sentences: `ann bought lamp at 1767261600`."""
    reader = blocks.reading(spark, files.size_bytes)
    text = blocks.in_session(spark, lines.text(files.stored, reader))
    line = F.col(inner(c.RAW))
    rows = text.select(
        *[inner(name) for name in (c.SOURCE_FILE, BLOCK, AT, c.RAW)],
        F.when(~line.rlike(LINE), FIELDS).alias(inner(c.REASON)),
        F.lit(False).alias(inner(HEADER)),
        *[F.regexp_extract(line, LINE, n + 1).alias(name) for n, name in enumerate(NAMES)],
    )
    return blocks.scanned(entry.file(str(entry.files), NAMES, typed=False), files.stored, rows)


NAMES = ("who", "what", "moment")


def test_a_new_form_is_read_as_all_others_are(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(source.FORMS, "sentences", (".said",))
    monkeypatch.setitem(opened.SCANS, "sentences", scan)
    (tmp_path / "shop.said").write_text(
        "ann bought lamp at 1767261600\n"
        "bob bought 007 at 1767261601\n"
        "nonsense\n"
        "ann bought 007 at then\n"
    )
    entry = {"files": str(tmp_path), "columns": COLUMNS, "values": "none", "unit": "s"}
    run(lake, entry, max_quarantine_share=0.5)
    assert events(lake) == [("ann", "lamp", 1767261600, 1.0), ("bob", "007", 1767261601, 1.0)]
    assert [(line, reason) for _, line, reason, _ in quarantined(lake)] == [
        (3, "wrong_number_of_fields"),
        (4, "not_a_time"),
    ]


def test_a_form_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of delimited, json.*did you mean 'parquet'"):
        source.Interactions(files="a", format="parket", columns=COLUMNS, values="none")
