"""Small tables of a lake without Spark, whose start takes longer than reading them: for commands
that only ask. A catalog's tables are for Spark alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import TableError

# catalog.schema; anything else is a path or URL
_CATALOG = re.compile(r"[A-Za-z_][\w-]*\.[A-Za-z_][\w-]*")


def is_catalog(root: str) -> bool:
    """Whether the root of a lake is `catalog.schema`, not a path or URL."""
    return bool(_CATALOG.fullmatch(root))


class Direct:
    """The tables under a folder or an object-store URL, read-only."""

    def __init__(self, root: str, runs: Path | None = None) -> None:
        self.root, self.runs_dir = root.rstrip("/"), runs

    def attempts(self) -> list[Run]:
        """As `Lake.attempts`: the recorded runs, completed and failed, oldest first."""
        runs = [Run.of_row(row, self.runs_dir) for row in self.rows(c.RUNS)]
        return sorted(runs, key=lambda run: (run.started_at, run.run_id))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows at the latest version; none where there is no such table. Raises TableError."""
        try:
            files = DeltaTable(f"{self.root}/{name}").to_pyarrow_dataset()
            # With threads, half of the processes that had read a table were aborted at their end
            rows: pa.Table = files.to_table(use_threads=False)
        except TableNotFoundError:
            return []
        except (DeltaError, OSError, pa.ArrowException) as problem:
            raise TableError(
                f"table {self.root}/{name}",
                found=" ".join(str(problem).split())[:160],
                expected="a Delta table that can be read without Spark",
            ) from None
        return rows.to_pylist(maps_as_pydicts="strict")
