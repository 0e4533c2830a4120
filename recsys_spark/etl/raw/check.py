"""The raw rows of one table: each is accepted or gets a reason, and all are counted before anything
is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files.spec import Dataset
from recsys_spark.datasets.forms.scan import Scan, inner
from recsys_spark.etl.raw import clean
from recsys_spark.etl.raw.clean import REASONS
from recsys_spark.lake.schemas import KEYS

SMALL_ROWS = 1_000_000  # a side of a join with at most so many rows is broadcast
SPILLING = StorageLevel.MEMORY_AND_DISK


@dataclass
class Checked:
    """Rows with `reason` (null: good). read: {label of the files: rows}; reasons: {reason: rejected
    rows}.
    """

    table: str
    key: tuple[str, ...]
    content: Column  # rows with equal key and equal content are exact duplicates
    rows: DataFrame
    scans: list[Scan]
    read: dict[str, int]
    reasons: dict[str, int]
    cached: list[DataFrame] = field(default_factory=list)
    conflicts: DataFrame | None = None  # good rows that contradict a stored row with the same key
    outlived: int = 0  # stored rows of which the source has no good row
    times: tuple[int, int] | None = None  # first and last of good events, as their source says

    @property
    def is_own(self) -> bool:
        """A user's own data, not a data set of known content."""
        return all(scan.file.own for scan in self.scans)

    @property
    def good(self) -> DataFrame:
        return self.rows.where(F.col(c.REASON).isNull())

    def release(self) -> None:
        for frame in self.cached:
            frame.unpersist()


def entities(
    table: str, scans: list[Scan], added: list[Scan], dataset: Dataset, stored: DataFrame | None
) -> Checked | None:
    """Users or items, which are small enough to persist. added: files that only add fields. None
    without files.
    """
    if not scans:
        return None
    key = clean.IDS[table]
    parsed = [clean.parse(scan, dataset) for scan in scans]
    several = [lines for scan, lines in zip(scans, parsed, strict=True) if scan.file.repeats]
    single = [lines for scan, lines in zip(scans, parsed, strict=True) if not scan.file.repeats]
    # Over all such files: a user of one may be in another
    first = [clean.first_of_each(_union(several), key)] if several else []
    rows = _one_task(scans, _union([*single, *first]))
    further = (
        _one_task(added, _union([clean.parse(scan, dataset) for scan in added])) if added else None
    )
    if further is not None:
        added_fields = (
            further.where(F.col(c.REASON).isNull())
            .groupBy(*key)
            .agg(F.min_by("fields", F.struct(*map(F.expr, clean.IN_ORDER))).alias("_more"))
        )
        none = F.map_from_arrays(F.array().cast("array<string>"), F.array().cast("array<string>"))
        merged = F.map_concat(F.coalesce("fields", none), F.coalesce("_more", none))
        rows = (
            rows.join(added_fields, on=list(key), how="left")
            .withColumn("fields", merged)
            .drop("_more")
        )
    content = F.to_json(F.struct(*[name for name in ("title", "fields") if name in rows.columns]))
    marked = clean.mark_duplicates(rows, key, content, stored)
    if further is not None:
        bad = further.where(F.col(c.REASON).isNotNull())
        marked = marked.unionByName(bad, allowMissingColumns=True)
    marked = marked.persist(SPILLING)
    counts = marked.groupBy(c.SOURCE_FILE, c.REASON).count().collect()
    label = {name: scan.file.label for scan in scans for name in scan.names}
    read = {scan.file.label: 0 for scan in scans}
    reasons: dict[str, int] = {}
    for row in counts:
        if row[c.SOURCE_FILE] in label:
            read[label[row[c.SOURCE_FILE]]] += row["count"]
        if row[c.REASON] is not None:
            reasons[row[c.REASON]] = reasons.get(row[c.REASON], 0) + row["count"]
    return Checked(table, key, content, marked, [*scans, *added], read, reasons, [marked])


def events(
    scans: list[Scan],
    users: Checked | None,
    items: Checked | None,
    dataset: Dataset,
    stored: DataFrame | None,
    *,
    table: str = c.INTERACTIONS,
    may_be_none: bool = False,
) -> Checked:
    """Interactions or impressions: read once to count and to find repeated keys. The rows are not
    persisted but read again when written. Raises DataError where there is no row, unless there may
    be none.
    """
    key = dataset.key if table == c.INTERACTIONS else KEYS[table]
    rows = _union([clean.parse(scan, dataset) for scan in scans])
    for entities_table, id_column, reason in (
        (users, c.USER_ID, clean.NO_USER),
        (items, c.ITEM_ID, clean.NO_ITEM),
    ):
        if entities_table is not None and dataset.unknown_ids == "reject":
            rows = clean.mark_unknown(rows, entities_table.good, id_column, reason)
    content = _content(scans) if table == c.INTERACTIONS else _content_shown()
    if rows.isEmpty():
        if not may_be_none:
            raise _no_row(scans, table)
        read = {scan.file.label: 0 for scan in scans}
        return Checked(table, key, content, rows, scans, read, {})
    observation = Observation()
    watched = rows.observe(observation, *_facts(scans))
    hashes = clean.repeated(watched, key).persist(SPILLING)
    num_repeated = hashes.count()
    seen = observation.get
    num_read = [seen[f"kind{n}"] for n in range(len(scans))]
    _require_read(scans, set(seen["sources"]), num_read)
    checked = Checked(table, key, content, rows, scans, {}, {}, [hashes])
    if num_repeated:
        seen = seen | _mark_again(checked, hashes, num_repeated, stored)
    if all(scan.file.expression(c.TS) for scan in scans) and seen["first"] is not None:
        checked.times = int(seen["first"]), int(seen["last"])
    checked.read = {scan.file.label: count for scan, count in zip(scans, num_read, strict=True)}
    checked.reasons = {reason: seen[reason] for reason in _reasons(scans) if seen[reason]}
    return checked


def _content(scans: list[Scan]) -> Column:
    """Events with the same key but another part, session or action conflict, even if all else is
    equal.
    """
    further = [
        F.coalesce(column, F.lit(""))
        for column, present in (
            (F.col("context").getItem(c.PART), any(c.PART in scan.file.fields for scan in scans)),
            (F.col(c.SESSION_ID), any(scan.file.expression(c.SESSION_ID) for scan in scans)),
            (F.col(c.ACTION), any(scan.file.expression(c.ACTION) for scan in scans)),
        )
        if present
    ]
    return F.struct(c.VALUE, c.TS, *further)


def _content_shown() -> Column:
    """Of impressions: an item of one list with another place, time or value conflicts."""
    return F.struct(c.TS, F.coalesce(c.POSITION, F.lit(-1)), F.coalesce(c.VALUE, F.lit(-1.0)))


def _facts(scans: list[Scan]) -> list[Column]:
    """What is counted of events while they are read."""
    of_good = F.when(F.col(c.REASON).isNull(), F.col(c.TS))
    of_kind = [
        F.count_if(F.col(c.SOURCE_FILE).isin(list(scan.names))).alias(f"kind{n}")
        for n, scan in enumerate(scans)
    ]
    return [
        *of_kind,
        F.collect_set(c.SOURCE_FILE).alias("sources"),
        F.min(of_good).alias("first"),
        F.max(of_good).alias("last"),
        *[F.count_if(F.col(c.REASON) == reason).alias(reason) for reason in _reasons(scans)],
    ]


def _reasons(scans: list[Scan]) -> tuple[str, ...]:
    """All that can be wrong with these rows."""
    return tuple(dict.fromkeys([*REASONS, *(name for scan in scans for name in scan.file.wrong)]))


def _mark_again(
    checked: Checked, hashes: DataFrame, num_repeated: int, stored: DataFrame | None
) -> dict[str, int]:
    """Gives rows that repeat a key their reason; {reason: number of them}."""
    rows = checked.rows
    small = F.broadcast if num_repeated <= SMALL_ROWS else lambda frame: frame
    several = rows.where(F.col(c.REASON).isNull()).withColumn("seen", clean.hash_of(checked.key))
    several = several.join(small(hashes), on="seen", how="left_semi").drop("seen")
    later = clean.mark_duplicates(several, checked.key, checked.content, stored).where(
        F.col(c.REASON).isNotNull()
    )
    later = later.select(*clean.ROW, F.col(c.REASON).alias("_again")).persist(SPILLING)
    again = {row["_again"]: row["count"] for row in later.groupBy("_again").count().collect()}
    joined = rows.join(small(later), on=list(clean.ROW), how="left")
    checked.rows = joined.withColumn(c.REASON, F.coalesce(c.REASON, "_again")).drop("_again")
    checked.cached.append(later)
    return again


def _no_row(scans: list[Scan], table: str) -> DataError:
    return DataError(
        f"raw rows of {table}",
        found=f"none in {', '.join(scan.file.pattern for scan in scans)}",
        expected="at least one event; nothing was published",
        remedy="point the step at files or a table with rows",
    )


def not_stored(checked: Checked, stored: DataFrame | None) -> DataFrame | None:
    """The good rows that the table lacks; None when it has them all. Rows that contradict a stored
    row become conflicts, and are counted.
    """
    if stored is None:
        return checked.good
    num_good = sum(checked.read.values()) - sum(checked.reasons.values())
    known = stored
    if num_good <= SMALL_ROWS:  # the table is read past them, not sorted beside them
        keys = F.broadcast(checked.good.select(*checked.key))
        known = stored.join(keys, on=list(checked.key), how="left_semi")
    other = clean.against_stored(checked.rows, known, checked.key, checked.content).persist(
        SPILLING
    )
    counts = {row[c.REASON]: row["count"] for row in other.groupBy(c.REASON).count().collect()}
    checked.cached.append(other)
    if clean.CONFLICT in counts:
        checked.conflicts = other.where(F.col(c.REASON).isNotNull())
        checked.reasons[clean.CONFLICT] = (
            checked.reasons.get(clean.CONFLICT, 0) + counts[clean.CONFLICT]
        )
    checked.outlived = stored.count() - (num_good - counts.get(None, 0))
    return other.where(F.col(c.REASON).isNull()) if counts.get(None) else None


def content_of(rows: DataFrame) -> tuple[int, str]:
    """What is equal for equal rows in any order."""
    text = F.to_json(F.struct(*rows.columns))
    summed = F.sum(F.xxhash64(text).cast("decimal(38,0)"))
    count, hashed = rows.agg(F.count(F.lit(1)), summed).collect()[0]
    return int(count), str(hashed)


def _require_read(scans: list[Scan], read: set[str], num_read: list[int]) -> None:
    """Raises DataError where Spark read another number of rows than the files have, or no line of a
    file. read: files of which a row was read.
    """
    for scan, count in zip(scans, num_read, strict=True):
        if scan.num_rows is not None:
            found, expected = f"{count:,} rows", f"{scan.num_rows:,}, as the files' ends say"
            is_wrong = count != scan.num_rows
        else:
            lost = _unread(scan, read) if scan.in_files else []
            found, expected = f"no line of {', '.join(lost[:5])}", "lines of every file"
            is_wrong = bool(lost)
        if is_wrong:
            raise DataError(
                f"files {scan.file.pattern}",
                found=found,
                expected=f"{expected}; nothing was published",
                remedy="run the same command again when nothing writes there",
            )


def _unread(scan: Scan, read: set[str]) -> list[str]:
    """Files without a row of which not even a header was read."""
    name = inner(c.SOURCE_FILE)
    rest = [each for each in scan.names if each not in read]
    if not rest:
        return []
    headed = scan.rows.where(F.col(name).isin(rest)).select(name).distinct().collect()
    return sorted(set(rest) - {row[0] for row in headed})


def _one_task(scans: list[Scan], rows: DataFrame) -> DataFrame:
    small = sum(scan.size_bytes for scan in scans) < clean.ONE_TASK_BYTES
    return rows.coalesce(1) if small else rows


def _union(frames: list[DataFrame]) -> DataFrame:
    return reduce(lambda frame, other: frame.unionByName(other), frames)
