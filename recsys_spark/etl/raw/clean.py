"""The rows of a source -> rows of the contract, each with the reason why it cannot be used, or
null; and which of several rows with one key stays. Uses only built-in functions of Spark.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType
from pyspark.sql.window import Window

from recsys_spark.core import columns as c
from recsys_spark.datasets.files.spec import Dataset, File
from recsys_spark.datasets.forms.scan import (
    AT,
    BLOCK,
    CUT,
    ELSEWHERE,
    ENCODING,
    ENTRY,
    FIELDS,
    FIRST,
    HEADER,
    MISSING_KEY,
    PLACE,
    RECORD,
    TWICE,
    UNKNOWN_KEY,
    WRONG_COUNT,
    Scan,
    inner,
)
from recsys_spark.etl import queries
from recsys_spark.etl.raw.typed import NO_UNIT, NO_ZONE, OTHER_UNIT, Typed, typed

# SQL sort key of rows: files in the order of `folder.files`, then by block and line
ROW = (*PLACE, ENTRY)
IN_ORDER = (f"substring_index({c.SOURCE_FILE}, '.', 1)", *ROW)
ONE_TASK_BYTES = 1 << 26  # smaller files are read by one task: no exchange, no tiny files
NUMBER, TIME, NO_ID = "not_a_number", "not_a_time", "missing_id"
VALUE_RANGE, TIME_RANGE = "value_out_of_range", "time_out_of_range"
NO_USER, NO_ITEM = "unknown_user", "unknown_item"
EXACT, CONFLICT = "exact_duplicate", "conflicting_duplicate"
REASONS = (
    *(ENCODING, FIELDS, RECORD, MISSING_KEY, UNKNOWN_KEY, CUT, TWICE, ELSEWHERE, WRONG_COUNT),
    *(NO_ID, NUMBER, TIME, NO_UNIT, NO_ZONE, OTHER_UNIT, VALUE_RANGE, TIME_RANGE),
    *(NO_USER, NO_ITEM, EXACT, CONFLICT),
)


OF_EVENTS = (c.INTERACTIONS, c.IMPRESSIONS)  # tables with a row an event
IDS = {
    c.INTERACTIONS: (c.USER_ID, c.ITEM_ID),
    c.IMPRESSIONS: (c.USER_ID, c.ITEM_ID),
    c.USERS: (c.USER_ID,),
    c.ITEMS: (c.ITEM_ID,),
}


def parse(scan: Scan, dataset: Dataset) -> DataFrame:
    """The table's columns for every row except headers, with PLACE, raw and `reason` (null: no
    reason to reject so far).
    """
    file, rows = scan.file, scan.rows
    if file.table == c.INTERACTIONS and file.expression(c.TS) is None:
        # An ordered file without times: the line number is the time
        lines = scan.first_lines().select(
            F.col(c.SOURCE_FILE).alias(inner(c.SOURCE_FILE)),
            F.col(BLOCK).alias(inner(BLOCK)),
            F.col(f"{FIRST}_of_all").alias(inner(FIRST)),
        )
        rows = rows.join(lines, on=[inner(c.SOURCE_FILE), inner(BLOCK)], how="left")
    columns, wrong = _ids(file, rows, dataset)
    if file.table in OF_EVENTS:
        further, also_wrong = _event(file, rows, dataset)
        columns, wrong = columns | further, wrong + also_wrong
    if file.table == c.ITEMS and not file.adds_fields:
        columns["title"] = _title(_typed(file, rows, "title"))
    columns["context" if file.table in OF_EVENTS else "fields"] = _map(file.fields, rows)
    reason = F.coalesce(
        inner(c.REASON), *[F.when(condition, F.lit(name)) for condition, name in wrong]
    )
    parsed = rows.where(~F.col(inner(HEADER))).select(
        *[F.col(inner(name)).alias(name) for name in PLACE],
        (F.col(inner(ENTRY)) if file.lists else F.lit(0)).alias(ENTRY),
        F.make_valid_utf8(inner(c.RAW)).alias(c.RAW),
        reason.alias(c.REASON),
        *[column.alias(name) for name, column in columns.items()],
    )
    return _of_queries(parsed, file) if file.table == c.IMPRESSIONS else parsed


def _of_queries(shown: DataFrame, file: File) -> DataFrame:
    """Impressions with the query that they were shown to, which the mapping names by a user, a
    session of a user, or a playlist. What one query was shown in one second is one list, unless the
    source says which list it is.
    """
    named = {c.USER_ID, c.SESSION_ID} & set(file.mapped)
    kind: queries.Kind = (
        "session" if len(named) == 2 else "user" if c.USER_ID in named else "playlist"
    )
    return shown.withColumns(
        {
            c.QUERY_KIND: F.lit(kind),
            c.QUERY_ID: queries.id_of(kind),
            c.IMPRESSION_ID: F.coalesce(c.IMPRESSION_ID, F.col(c.TS).cast("string")),
            c.REASON: F.coalesce(c.REASON, F.when(queries.id_of(kind).isNull(), F.lit(NO_ID))),
        }
    ).drop(c.USER_ID, c.SESSION_ID, c.ACTION, c.STEP)


def first_of_each(rows: DataFrame, key: tuple[str, ...]) -> DataFrame:
    """The first good row, by file and line, of each key."""
    others = [name for name in rows.columns if name not in key]
    first = F.min_by(F.struct(*others), F.struct(*map(F.expr, IN_ORDER))).alias("first")
    chosen = rows.where(F.col(c.REASON).isNull()).groupBy(*key).agg(first)
    return chosen.select(*key, "first.*").select(*rows.columns)


def mark_unknown(rows: DataFrame, known: DataFrame, id_column: str, reason: str) -> DataFrame:
    """Rows whose id is not in `known` (distinct in that column) get `reason`.

    There is no broadcast hint: Spark broadcasts few ids by itself, and uses a sort-merge join for
    hundreds of millions, which fit into no task.
    """
    known_ids = known.select(id_column).withColumn("_known", F.lit(True))
    joined = rows.join(known_ids, on=id_column, how="left")
    marked = F.coalesce(F.col(c.REASON), F.when(F.col("_known").isNull(), F.lit(reason)))
    return joined.select(
        *[column for column in rows.columns if column != c.REASON], marked.alias(c.REASON)
    )


def mark_duplicates(
    rows: DataFrame, key: tuple[str, ...], content: Column, stored: DataFrame | None
) -> DataFrame:
    """Of good rows with equal `key` one stays: the stored one, else the first by file name and
    line. The others are marked as exact or conflicting duplicates. stored: the table, if it exists.
    """
    good, in_order = F.col(c.REASON).isNull(), [F.expr(sql) for sql in IN_ORDER]
    judged = rows.withColumn("_content", content).withColumn("_kept", F.lit(None))
    if stored is not None:
        judged = judged.drop("_kept").join(
            stored.select(*key, content.alias("_kept")), on=list(key), how="left"
        )
    by_place = Window.partitionBy(*key, good).orderBy(*in_order)
    judged = judged.withColumn("_kept", F.coalesce("_kept", F.first("_content").over(by_place)))
    equal = F.col("_kept") == F.col("_content")
    judged = judged.withColumn(
        "_rank", F.row_number().over(Window.partitionBy(*key, good, equal).orderBy(*in_order))
    )
    again = F.when(~equal, F.lit(CONFLICT)).when(F.col("_rank") > 1, F.lit(EXACT))
    reason = F.when(good, again).otherwise(F.col(c.REASON))
    return judged.select(
        *[column for column in rows.columns if column != c.REASON], reason.alias(c.REASON)
    )


def repeated(rows: DataFrame, key: tuple[str, ...]) -> DataFrame:
    """Key hashes (column `seen`) shared by several good rows. Only eight bytes per row are
    exchanged; hash collisions do no harm.

    Rejected rows are exchanged as well, as nulls: what was observed of `rows` gets lost where Spark
    finds, while it runs, that no row is left.
    """
    good = F.col(c.REASON).isNull()
    hashes = rows.select(good.alias("good"), F.when(good, hash_of(key)).alias("seen"))
    counts = hashes.groupBy("seen").agg(F.count_if("good").alias("count"))
    return counts.where(F.col("count") > 1).select("seen")


def hash_of(key: tuple[str, ...]) -> Column:
    return F.xxhash64(*key)


def against_stored(
    rows: DataFrame, stored: DataFrame, key: tuple[str, ...], content: Column
) -> DataFrame:
    """The good rows that are not in the table yet; those that contradict a stored row get the
    reason CONFLICT, and the stored row stays.
    """
    stored_rows = stored.select(*key, content.alias("_stored"))
    joined = (
        rows.where(F.col(c.REASON).isNull())
        .withColumn("_content", content)
        .join(stored_rows, on=list(key), how="left")
    )
    other = joined.where(F.col("_stored").isNull() | (F.col("_stored") != F.col("_content")))
    reason = F.when(F.col("_stored").isNotNull(), F.lit(CONFLICT))
    return other.select(
        *[column for column in rows.columns if column != c.REASON], reason.alias(c.REASON)
    )


Wrong = list[tuple[Column, str]]  # conditions, each with the reason to reject a row


def _ids(file: File, rows: DataFrame, dataset: Dataset) -> tuple[dict[str, Column], Wrong]:
    columns: dict[str, Column] = {}
    wrong: Wrong = []
    for name in IDS[file.table]:
        given = _typed(file, rows, name)
        if file.table == c.IMPRESSIONS and name not in file.mapped:
            columns[name] = F.lit(None).cast("string")
            continue
        if dataset.integer_ids:
            columns[name] = given.column.try_cast("bigint").cast("string")
        else:
            columns[name] = given.id(trimmed=not file.typed)
            if not (dataset.itemless and name == c.ITEM_ID and file.table == c.INTERACTIONS):
                wrong.append((given.blank(), NO_ID))
        wrong.append((columns[name].isNull(), NUMBER))
    return columns, wrong


def _event(file: File, rows: DataFrame, dataset: Dataset) -> tuple[dict[str, Column], Wrong]:
    value = _typed(file, rows, c.VALUE)
    number = F.lit(1.0) if file.expression(c.VALUE) is None else value.number()
    is_event = file.table == c.INTERACTIONS
    if not is_event and file.expression(c.VALUE) is None:
        number = F.lit(None).cast("double")
    wrong: Wrong = []
    if file.expression(c.TS) is None:
        ts = F.col(inner(FIRST)) + F.col(inner(AT))
    else:
        ts, wrong = _typed(file, rows, c.TS).seconds(file.unit, file.zone)
    columns = {c.VALUE: number, c.TS: ts}
    for name in (c.SESSION_ID, c.ACTION, c.IMPRESSION_ID):
        columns[name] = _typed(file, rows, name).text()
    whole: Wrong = []
    for name in (c.POSITION, c.STEP):
        given = _typed(file, rows, name).text()
        columns[name] = given.try_cast("int")
        needed = name == c.STEP and name in file.mapped  # part of the key then
        there = F.lit(True) if needed else given.isNotNull()
        whole.append((there & columns[name].isNull(), NUMBER))
    known = F.lit(True) if is_event else value.column.isNotNull()
    return columns, [*whole, *wrong, *_out_of_range(number, ts, dataset, known)]


def _title(given: Typed) -> Column:
    return given.column if isinstance(given.kind, StringType) else given.text()


def _typed(file: File, rows: DataFrame, name: str) -> Typed:
    return typed(rows, file.expression(name) or "CAST(NULL AS STRING)")


def _out_of_range(value: Column, ts: Column, dataset: Dataset, known: Column) -> Wrong:
    """known: whether there must be a value."""
    infinite = F.abs(value) == float("inf")
    outside = ~value.between(dataset.value_min, dataset.value_max)
    if dataset.value_step:
        outside = outside | (value % dataset.value_step != 0)
    return [
        (known & (value.isNull() | F.isnan(value) | infinite), NUMBER),
        (ts.isNull(), TIME),
        (outside, VALUE_RANGE),
        (~ts.between(dataset.ts_min, dataset.ts_max), TIME_RANGE),
    ]


def _map(fields: dict[str, str], rows: DataFrame) -> Column:
    """{name: value} of the expressions that are neither null nor empty; null when there are no
    expressions.
    """
    if not fields:
        return F.lit(None).cast("map<string,string>")
    entries = F.array(
        *[F.struct(F.lit(name), typed(rows, sql).text()) for name, sql in fields.items()]
    )
    return F.map_from_entries(F.filter(entries, lambda entry: entry["col2"].isNotNull()))
