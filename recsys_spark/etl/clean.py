"""Lines of raw files -> typed rows, each with the reason why it cannot be used, or none. Built-in functions only.

A row keeps where it comes from: `source_file`, `block` (where the part of the file starts that one task reads) and `at` (a number
that grows along a task's lines). With the blocks of a file counted, these give its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from recsys_spark.core import columns as c
from recsys_spark.datasets.folder import Raw, header_of
from recsys_spark.datasets.spec import Dataset, File

BLOCK, AT, FIRST = "block", "at", "first_line"
PLACE = (c.SOURCE_FILE, BLOCK, AT)
ONE_TASK_BYTES = 1 << 26  # smaller files are read by one task: no exchange, no tiny files

FIELDS, ENCODING, NUMBER = "wrong_number_of_fields", "wrong_encoding", "not_a_number"
VALUE_RANGE, TIME_RANGE = "value_out_of_range", "time_out_of_range"
NO_USER, NO_ITEM = "unknown_user", "unknown_item"
EXACT, CONFLICT = "exact_duplicate", "conflicting_duplicate"
REASONS = (ENCODING, FIELDS, NUMBER, VALUE_RANGE, TIME_RANGE, NO_USER, NO_ITEM, EXACT, CONFLICT)


@dataclass(frozen=True)
class Scan:
    """All lines of the files of one kind, headers too: source_file, block, raw."""

    file: File
    raws: tuple[Raw, ...]
    lines: DataFrame

    def first_lines(self) -> DataFrame:
        """One row a block: the number (from 1) that the line `at` = 0 of its block would have had, in its file and over all files.

        A small job: it counts lines and parses none.
        """
        numbered = self.lines.withColumn(AT, F.monotonically_increasing_id())
        blocks = numbered.groupBy(c.SOURCE_FILE, BLOCK).agg(F.min(AT).alias(AT), F.count(F.lit(1)).alias("lines"))
        order = {raw.path.name: place for place, raw in enumerate(self.raws)}
        rows, over_all, file, in_file = [], 0, None, 0
        for block in sorted(blocks.collect(), key=lambda row: (order[row[c.SOURCE_FILE]], row[BLOCK])):
            in_file = in_file if block[c.SOURCE_FILE] == file else 0
            file = block[c.SOURCE_FILE]
            rows.append((file, block[BLOCK], in_file + 1 - block[AT], over_all + 1 - block[AT]))
            in_file, over_all = in_file + block["lines"], over_all + block["lines"]
        schema = f"{c.SOURCE_FILE} string, {BLOCK} long, {FIRST} long, {FIRST}_of_all long"
        return F.broadcast(self.lines.sparkSession.createDataFrame(rows, schema))


def scan(spark: SparkSession, raws: list[Raw]) -> Scan:
    """Files of one kind (the same `File`), read as text."""
    file = raws[0].file
    text = spark.read.text([str(raw.path.absolute()) for raw in raws])
    raw = F.col("value") if file.encoding == "UTF-8" else F.decode(F.col("value").cast("binary"), file.encoding)
    return Scan(file, tuple(raws), text.select(
        F.col("_metadata.file_name").alias(c.SOURCE_FILE),
        F.col("_metadata.file_block_start").alias(BLOCK),
        raw.alias(c.RAW),
    ))


def parse(scanned: Scan, dataset: Dataset) -> DataFrame:
    """The table's columns of every line but headers, with PLACE, raw and `reason` (null: good so far)."""
    file, lines = scanned.file, scanned.lines
    numbered = file.table == c.INTERACTIONS and c.TS not in file.columns
    if numbered:  # an ordered file without times: a line's number is its time
        lines = lines.join(scanned.first_lines(), on=[c.SOURCE_FILE, BLOCK], how="left")
        lines = lines.withColumn(c.TS, F.col(f"{FIRST}_of_all") + F.monotonically_increasing_id())
    width, texts = _split(file)
    fields = lines.select(c.SOURCE_FILE, BLOCK, c.RAW, *([c.TS] if numbered else []), width.alias("width"),
                          *[text.alias(name) for text, name in zip(texts, file.columns, strict=True)])
    wrong = [(F.col("width") != len(file.columns), FIELDS)]
    if file.encoding == "UTF-8":
        wrong.insert(0, (~F.is_valid_utf8(c.RAW), ENCODING))
    columns: dict[str, Column] = {}
    for name in (c.USER_ID, c.ITEM_ID):
        if name in file.columns:
            columns[name] = F.col(name).try_cast("bigint").cast("string") if dataset.integer_ids else F.trim(name)
            wrong.append((columns[name].isNull() | (columns[name] == ""), NUMBER if dataset.integer_ids else FIELDS))
    if file.table == c.INTERACTIONS:
        columns[c.VALUE] = F.col(c.VALUE).try_cast("double") if c.VALUE in file.columns else F.lit(1.0)
        columns[c.TS] = F.col(c.TS).try_cast("bigint")
        wrong += _out_of_range(columns[c.VALUE], columns[c.TS], dataset)
    if file.table == c.ITEMS and not file.adds_fields:
        columns["title"] = F.col("title") if "title" in file.columns else F.lit(None).cast("string")
    extra = "context" if file.table == c.INTERACTIONS else "fields"
    columns[extra] = _map(file.fields)
    reason = F.coalesce(*[F.when(condition, F.lit(name)) for condition, name in wrong])
    headers = {name for raw in scanned.raws for name in header_of(raw)} if file.header else set()
    judged = fields.select(
        c.SOURCE_FILE,
        BLOCK,
        # Not known beforehand, so Spark moves no filter below this step: there it would split each line once for every use of a field.
        F.monotonically_increasing_id().alias(AT),
        F.make_valid_utf8(c.RAW).alias(c.RAW),
        reason.alias(c.REASON),
        *[column.alias(name) for name, column in columns.items()],
        (F.col(c.RAW).isin(*headers) if headers else F.lit(False)).alias("_header"),
    )
    return judged.where(~F.col("_header")).drop("_header")


def mark_unknown(rows: DataFrame, known: DataFrame, id_column: str, reason: str) -> DataFrame:
    """Rows whose id is not in `known` (one column, distinct, small enough to be sent to every task) get `reason`."""
    there = F.broadcast(known.select(id_column).withColumn("_known", F.lit(True)))
    joined = rows.join(there, on=id_column, how="left")
    marked = F.coalesce(F.col(c.REASON), F.when(F.col("_known").isNull(), F.lit(reason)))
    return joined.select(*[column for column in rows.columns if column != c.REASON], marked.alias(c.REASON))


def mark_duplicates(rows: DataFrame, key: tuple[str, ...], content: Column, stored: DataFrame | None) -> DataFrame:
    """Of good rows with equal `key` one stays: the one that is stored already, else the first by file name and line. The others are
    exact or conflicting duplicates of it. `stored` is the table, if there is one."""
    good, in_order = F.col(c.REASON).isNull(), (F.substring_index(c.SOURCE_FILE, ".", 1), *PLACE)  # as `folder.files` has them
    judged = rows.withColumn("_content", content).withColumn("_kept", F.lit(None))
    if stored is not None:
        judged = judged.drop("_kept").join(stored.select(*key, content.alias("_kept")), on=list(key), how="left")
    by_place = Window.partitionBy(*key, good).orderBy(*in_order)
    judged = judged.withColumn("_kept", F.coalesce("_kept", F.first("_content").over(by_place)))
    equal = F.col("_kept") == F.col("_content")
    judged = judged.withColumn("_rank", F.row_number().over(Window.partitionBy(*key, good, equal).orderBy(*in_order)))
    again = F.when(~equal, F.lit(CONFLICT)).when(F.col("_rank") > 1, F.lit(EXACT))
    reason = F.when(good, again).otherwise(F.col(c.REASON))
    return judged.select(*[column for column in rows.columns if column != c.REASON], reason.alias(c.REASON))


def repeated(rows: DataFrame, key: tuple[str, ...]) -> DataFrame:
    """Hashes (column `seen`) that more than one good row has. Only eight bytes a row are exchanged; unequal keys of one hash do no harm."""
    hashes = rows.where(F.col(c.REASON).isNull()).select(hash_of(key).alias("seen"))
    return hashes.groupBy("seen").count().where(F.col("count") > 1).select("seen")


def hash_of(key: tuple[str, ...]) -> Column:
    return F.xxhash64(*key)


def against_stored(rows: DataFrame, stored: DataFrame, key: tuple[str, ...], content: Column) -> DataFrame:
    """The good rows that are not in the table already; those that contradict a stored row get CONFLICT: what is stored stays."""
    there = stored.select(*key, content.alias("_stored"))
    joined = rows.where(F.col(c.REASON).isNull()).withColumn("_content", content).join(there, on=list(key), how="left")
    other = joined.where(F.col("_stored").isNull() | (F.col("_stored") != F.col("_content")))
    reason = F.when(F.col("_stored").isNotNull(), F.lit(CONFLICT))
    return other.select(*[column for column in rows.columns if column != c.REASON], reason.alias(c.REASON))


def _out_of_range(value: Column, ts: Column, dataset: Dataset) -> list[tuple[Column, str]]:
    infinite = F.abs(value) == float("inf")
    outside = ~value.between(dataset.value_min, dataset.value_max)
    if dataset.value_step:
        outside = outside | (value % dataset.value_step != 0)
    return [
        (value.isNull() | F.isnan(value) | infinite | ts.isNull(), NUMBER),
        (outside, VALUE_RANGE),
        (~ts.between(dataset.ts_min, dataset.ts_max), TIME_RANGE),
    ]


def _split(file: File) -> tuple[Column, list[Column]]:
    """How many fields a line has, and the first ones; a missing one is null."""
    separator = re.escape(file.separator)
    if not file.quoted:
        parts = F.split(c.RAW, separator, -1)
        return F.size(parts), [F.get(parts, F.lit(place)) for place in range(len(file.columns))]
    bare = F.regexp_replace(c.RAW, '"([^"]|"")*"', "")  # what stands in quotes may hold the separator
    options = {"sep": file.separator, "quote": '"', "escape": '"'}
    parsed = F.from_csv(F.col(c.RAW), ", ".join(f"_{place} string" for place in range(len(file.columns))), options)
    return F.size(F.split(bare, separator, -1)), [parsed[f"_{place}"] for place in range(len(file.columns))]


def _map(fields: dict[str, str]) -> Column:
    """{name: value} of the expressions that are neither null nor empty; null when there is no expression at all."""
    if not fields:
        return F.lit(None).cast("map<string,string>")
    entries = F.array(*[F.struct(F.lit(name), F.trim(F.expr(sql))) for name, sql in fields.items()])
    return F.map_from_entries(F.filter(entries, lambda entry: F.coalesce(entry["col2"] != "", F.lit(False))))
