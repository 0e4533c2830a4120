"""What the events of a lake look like, for `recsys-spark look`."""

from __future__ import annotations

from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.core.errors import TableError
from recsys_spark.etl.profile import profile
from recsys_spark.lake.tables import Lake
from recsys_spark.report.content import Profile


def look(lake: Lake) -> Profile:
    """A picture of the latest `interactions`. Raises TableError for a lake without them."""
    if not lake.exists(c.INTERACTIONS):
        raise TableError(
            f"lake {lake.root}",
            found=f"no table {c.INTERACTIONS}",
            expected="a lake into which an ingest step has read events",
            remedy="run the ingest step first: recsys-spark run FILE --step ingest",
        )
    return profile(lake.read(c.INTERACTIONS).where(F.col(c.ITEM_ID) != c.NO_ITEM))
