"""JSON lines: one object a line, every value as the text that stands there."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as t

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import heads
from recsys_spark.datasets.forms import blocks, lines
from recsys_spark.datasets.forms.failures import spelled_out
from recsys_spark.datasets.forms.files import Files
from recsys_spark.datasets.forms.scan import AT, BLOCK, ENCODING, HEADER, RECORD, Scan, inner
from recsys_spark.datasets.forms.source import Entry

_CORRUPT = "_corrupt_record"
_RECORD = inner("record")


def scan(spark: SparkSession, entry: Entry, files: Files) -> Scan:
    """Numbers come as text, so no digit of a long one is lost; the columns are those that any
    object has. Raises DataError for files that are no JSON lines.
    """
    for stored in files.stored:
        first = heads.lines(spark, stored.url, 1)[0]
        if first.lstrip(b"\xef\xbb\xbf \t")[:1] != b"{":
            raise DataError(
                f"{stored.url}, line 1",
                found=repr(first[:80].decode("utf-8", errors="replace")),
                expected="one JSON object a line",
                remedy="write an array as lines, for example by `jq -c '.[]'`, or set `format`",
            )
    reader = blocks.reading(spark, files.size_bytes)
    options = {"primitivesAsString": "true", "columnNameOfCorruptRecord": _CORRUPT}
    folders = blocks.partitions(files.stored)
    with spelled_out(f"files {entry.files}"):
        objects = reader.read.options(**options).json(blocks.paths(files.stored)).schema
    fields = [field for field in objects if field.name not in (_CORRUPT, *folders)]
    schema = t.StructType([*fields, t.StructField(_CORRUPT, t.StringType())])
    line = F.col(inner(c.RAW))
    text = blocks.in_session(spark, lines.text(files.stored, reader))
    parsed = text.withColumn(_RECORD, F.from_json(line, schema, options))
    broken = F.col(_RECORD)[_CORRUPT].isNotNull()
    rows = parsed.select(
        *[inner(name) for name in (c.SOURCE_FILE, BLOCK, AT, c.RAW)],
        F.when(~F.is_valid_utf8(line), ENCODING).when(broken, RECORD).alias(inner(c.REASON)),
        (F.trim(line) == "").alias(inner(HEADER)),  # an empty line is no row
        *[F.col(_RECORD)[field.name].alias(field.name) for field in fields],
        *folders,
    )
    names = (*[field.name for field in fields], *folders)
    return blocks.scanned(entry.file(str(entry.files), names, typed=False), files.stored, rows)
