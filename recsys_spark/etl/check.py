"""The raw rows of one table, every one judged, and counted before anything is published."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from recsys_spark.core import columns as c
from recsys_spark.datasets.spec import Dataset
from recsys_spark.etl import clean
from recsys_spark.etl.clean import PLACE, REASONS, Scan

SMALL_ROWS = 1_000_000  # up to here a side of a join is sent to every task
SPILLING = StorageLevel.MEMORY_AND_DISK


@dataclass
class Checked:
    """Rows with `reason` (null: good). `read` counts the lines of each file pattern, `reasons` the rejected rows."""

    table: str
    key: tuple[str, ...]
    content: Column  # two rows of one key that are equal in it are the same row
    rows: DataFrame
    scans: list[Scan]
    read: dict[str, int]
    reasons: dict[str, int]
    cached: list[DataFrame] = field(default_factory=list)
    conflicts: DataFrame | None = None  # good in themselves, but the table has another row of their key

    @property
    def good(self) -> DataFrame:
        return self.rows.where(F.col(c.REASON).isNull())

    def release(self) -> None:
        for frame in self.cached:
            frame.unpersist()


def entities(table: str, scans: list[Scan], added: list[Scan], dataset: Dataset, stored: DataFrame | None) -> Checked | None:
    """Users or items: small enough to be held. `added` are files that only give further fields. None without files."""
    if not scans:
        return None
    key = (c.USER_ID,) if table == c.USERS else (c.ITEM_ID,)
    rows = _one_task(scans, _union([clean.parse(scan, dataset) for scan in scans]))
    further = _one_task(added, _union([clean.parse(scan, dataset) for scan in added])) if added else None
    if further is not None:
        known = further.where(F.col(c.REASON).isNull()).dropDuplicates(list(key)).select(*key, F.col("fields").alias("_more"))
        none = F.map_from_arrays(F.array().cast("array<string>"), F.array().cast("array<string>"))
        both = F.map_concat(F.coalesce("fields", none), F.coalesce("_more", none))
        rows = rows.join(known, on=list(key), how="left").withColumn("fields", both).drop("_more")
    content = F.to_json(F.struct(*[name for name in ("title", "fields") if name in rows.columns]))
    marked = clean.mark_duplicates(rows, key, content, stored)
    if further is not None:
        bad = further.where(F.col(c.REASON).isNotNull())
        marked = marked.unionByName(bad, allowMissingColumns=True)
    marked = marked.persist(SPILLING)
    counts = marked.groupBy(c.SOURCE_FILE, c.REASON).count().collect()
    pattern = {raw.path.name: scan.file.pattern for scan in scans for raw in scan.raws}
    read = {scan.file.pattern: 0 for scan in scans}
    reasons: dict[str, int] = {}
    for row in counts:
        if row[c.SOURCE_FILE] in pattern:
            read[pattern[row[c.SOURCE_FILE]]] += row["count"]
        if row[c.REASON] is not None:
            reasons[row[c.REASON]] = reasons.get(row[c.REASON], 0) + row["count"]
    return Checked(table, key, content, marked, [*scans, *added], read, reasons, [marked])


def events(scans: list[Scan], users: Checked | None, items: Checked | None, dataset: Dataset, stored: DataFrame | None) -> Checked:
    """Interactions: read once to count and to find repeated keys; the rows themselves are not held but read again when written."""
    rows = _union([clean.parse(scan, dataset) for scan in scans])
    for known, id_column, reason in ((users, c.USER_ID, clean.NO_USER), (items, c.ITEM_ID, clean.NO_ITEM)):
        if known is not None:
            rows = clean.mark_unknown(rows, known.good, id_column, reason)
    parted = any(c.PART in scan.file.fields for scan in scans)  # then a pair in two parts is a contradiction, whatever else is equal
    content = F.struct(c.VALUE, c.TS, *([F.coalesce(F.col("context").getItem(c.PART), F.lit(""))] if parted else []))
    told = Observation()
    names = [[raw.path.name for raw in scan.raws] for scan in scans]
    of_kind = [F.count_if(F.col(c.SOURCE_FILE).isin(kind)).alias(f"kind{n}") for n, kind in enumerate(names)]
    watched = rows.observe(told, *of_kind, *[F.count_if(F.col(c.REASON) == reason).alias(reason) for reason in REASONS])
    hashes = clean.repeated(watched, dataset.key).persist(SPILLING)
    found = hashes.count()
    seen = told.get
    checked = Checked(c.INTERACTIONS, dataset.key, content, rows, scans, {}, {}, [hashes])
    if found:
        small = F.broadcast if found <= SMALL_ROWS else lambda frame: frame
        several = rows.where(F.col(c.REASON).isNull()).withColumn("seen", clean.hash_of(dataset.key))
        several = several.join(small(hashes), on="seen", how="left_semi").drop("seen")
        later = clean.mark_duplicates(several, dataset.key, content, stored).where(F.col(c.REASON).isNotNull())
        later = later.select(*PLACE, F.col(c.REASON).alias("_again")).persist(SPILLING)
        again = {row["_again"]: row["count"] for row in later.groupBy("_again").count().collect()}
        told_again = rows.join(small(later), on=list(PLACE), how="left")
        checked.rows = told_again.withColumn(c.REASON, F.coalesce(c.REASON, "_again")).drop("_again")
        checked.cached.append(later)
        seen = seen | again
    checked.read = {scan.file.pattern: seen[f"kind{n}"] for n, scan in enumerate(scans)}
    checked.reasons = {reason: seen[reason] for reason in REASONS if seen[reason]}
    return checked


def not_stored(checked: Checked, stored: DataFrame | None) -> DataFrame | None:
    """The good rows that the table lacks; None when it has them all. What contradicts a stored row becomes a conflict, and is counted."""
    if stored is None:
        return checked.good
    other = clean.against_stored(checked.rows, stored, checked.key, checked.content).persist(SPILLING)
    counts = {row[c.REASON]: row["count"] for row in other.groupBy(c.REASON).count().collect()}
    checked.cached.append(other)
    if clean.CONFLICT in counts:
        checked.conflicts = other.where(F.col(c.REASON).isNotNull())
        checked.reasons[clean.CONFLICT] = checked.reasons.get(clean.CONFLICT, 0) + counts[clean.CONFLICT]
    return other.where(F.col(c.REASON).isNull()) if counts.get(None) else None


def _one_task(scans: list[Scan], rows: DataFrame) -> DataFrame:
    small = sum(raw.path.stat().st_size for scan in scans for raw in scan.raws) < clean.ONE_TASK_BYTES
    return rows.coalesce(1) if small else rows


def _union(frames: list[DataFrame]) -> DataFrame:
    return reduce(lambda one, other: one.unionByName(other), frames)
