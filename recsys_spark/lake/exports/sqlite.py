"""Lists by query in an SQLite file, for an application that looks up one key.

lists        name, query_kind, query_id -> items: a JSON array of [item_id, score], best first
generations  name -> generation, model, run_id, published_at (seconds since 1970)

SELECT items FROM lists WHERE name = 'default' AND query_kind = 'user' AND query_id = '42'
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Iterator

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError

BUSY_S = 30.0  # how long a lock of another program is waited for
TABLES = """
CREATE TABLE IF NOT EXISTS lists (
    name TEXT, query_kind TEXT, query_id TEXT, items TEXT NOT NULL,
    PRIMARY KEY (name, query_kind, query_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (
    name TEXT PRIMARY KEY, generation INTEGER, model TEXT, run_id TEXT, published_at REAL
);
"""


def write(lists: DataFrame, path: Path, *, name: str, generation: int) -> None:
    """Replace the lists of a name in one transaction; those of other names stay. The file is made
    where it is missing, on this machine: lists pass through it one by one.

    Raises DataError where the file is no SQLite database or another program holds it locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = lists.select(c.MODEL, c.RUN_ID, F.unix_micros(c.PUBLISHED_AT) / 1e6).first()
    assert facts is not None, "what is published is not empty"
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S)
        try:
            connection.executescript(TABLES)
            with connection:
                connection.execute("DELETE FROM lists WHERE name = ?", (name,))
                connection.executemany(
                    "INSERT INTO lists VALUES (?, ?, ?, ?)",
                    ((name, *row) for row in _by_query(lists)),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?)",
                    (name, generation, *facts),
                )
        finally:
            connection.close()
    except sqlite3.Error as problem:
        raise DataError(
            str(path),
            found=f"{problem}; its lists are as they were",
            expected="an SQLite file that this process may write, or none",
            remedy="name another file, or run this again when no other program holds it",
        ) from None


def _by_query(lists: DataFrame) -> Iterator[tuple[str, str, str]]:
    """(query_kind, query_id, items as JSON) of each query."""
    items = F.array_sort(F.collect_list(F.struct(c.RANK, c.ITEM_ID, c.SCORE)))
    for row in lists.groupBy(c.QUERY_KIND, c.QUERY_ID).agg(items.alias("items")).toLocalIterator():
        # The digits that a float32 holds: .1, not .10000000149011612
        pairs = [[item[c.ITEM_ID], float(f"{item[c.SCORE]:.7g}")] for item in row["items"]]
        yield row[c.QUERY_KIND], row[c.QUERY_ID], json.dumps(pairs)
