"""The key of a predicted event: `query_id|item_id|ts`, the same from Spark and from Arrow.

A bar in an id is escaped as `\\|` and a backslash as `\\\\`, so that no two events share a key.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from recsys_spark.core import columns as c

_ESCAPES = (("\\", "\\\\"), ("|", "\\|"))  # in this order: the second one writes backslashes


def column() -> Column:
    """The key as a Spark column, for rows with query_id, item_id and ts."""
    ids = []
    for name in (c.QUERY_ID, c.ITEM_ID):
        text = F.col(name)
        for plain, escaped in _ESCAPES:
            text = F.replace(text, F.lit(plain), F.lit(escaped))
        ids.append(text)
    return F.concat_ws("|", *ids, c.TS)


def array(rows: pa.Table) -> pa.ChunkedArray:
    """(rows,) strings: the same as `column`, for an Arrow table."""
    ids = []
    for name in (c.QUERY_ID, c.ITEM_ID):
        text = rows[name]
        for plain, escaped in _ESCAPES:
            text = pc.replace_substring(text, plain, escaped)
        ids.append(text)
    return pc.binary_join_element_wise(*ids, rows[c.TS].cast(pa.string()), "|")
