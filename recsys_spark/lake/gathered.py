"""A catalog's tables for the commands that only ask: read by Spark, the asked rows gathered."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.core.contracts import Run
from recsys_spark.lake.direct import Where
from recsys_spark.lake.tables import Lake


class Gathered:
    """A `direct.Reader` of a lake that Spark has opened."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.root = lake, lake.root

    def runs(self) -> list[Run]:
        return self.lake.runs()

    def attempts(self) -> list[Run]:
        return self.lake.attempts()

    def exists(self, name: str) -> bool:
        return self.lake.exists(name)

    def table(
        self,
        name: str,
        version: int | None = None,
        *,
        columns: Sequence[str] = (),
        where: Where | None = None,
    ) -> pa.Table:
        rows = self._rows(name, version, where)
        return (rows.select(*columns) if columns else rows).toArrow()

    def counts(
        self, name: str, version: int, column: str, where: Where | None = None
    ) -> dict[str, int]:
        counted = self._rows(name, version, where).groupBy(column).count().collect()
        return {row[0]: row[1] for row in counted}

    def _rows(self, name: str, version: int | None, where: Where | None) -> DataFrame:
        rows = self.lake.read(name, version)
        for column, values in (where or {}).items():
            rows = rows.where(F.col(column).isin(list(values)))
        return rows
