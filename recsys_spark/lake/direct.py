"""Tables of a lake without Spark, whose start takes longer than reading them: for commands that
only ask. A catalog's tables are for Spark alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import TableError

# catalog.schema; anything else is a path or URL
_CATALOG = re.compile(r"[A-Za-z_][\w-]*\.[A-Za-z_][\w-]*")

Where = Mapping[str, Collection[str]]  # {column: the values that it may have}


def is_catalog(root: str) -> bool:
    """Whether the root of a lake is `catalog.schema`, not a path or URL."""
    return bool(_CATALOG.fullmatch(root))


class Reader(Protocol):
    """What the commands that only ask want of a lake: `Direct`, or a catalog's `tables.Lake`."""

    root: str

    def runs(self) -> list[Run]: ...
    def attempts(self) -> list[Run]: ...
    def exists(self, name: str) -> bool: ...
    def table(
        self,
        name: str,
        version: int | None = None,
        *,
        columns: Sequence[str] = (),
        where: Where | None = None,
    ) -> pa.Table:
        """The rows whose columns have one of the named values, in memory: of the latest version, or
        of this one; all columns unless some are named. Raises TableError.
        """

    def counts(
        self, name: str, version: int, column: str, where: Where | None = None
    ) -> dict[str, int]:
        """{value of the column: rows that have it}, counted as they are read."""


class Direct:
    """The tables under a folder or an object-store URL, read-only."""

    def __init__(self, root: str, runs: Path | None = None) -> None:
        self.root, self.runs_dir = root.rstrip("/"), runs

    def attempts(self) -> list[Run]:
        """As `Lake.attempts`: the recorded runs, completed and failed, oldest first."""
        if not self.exists(c.RUNS):
            return []
        rows = self.table(c.RUNS).to_pylist(maps_as_pydicts="strict")
        runs = [Run.of_row(row, self.runs_dir) for row in rows]
        return sorted(runs, key=lambda run: (run.started_at, run.run_id))

    def runs(self) -> list[Run]:
        """The completed runs, oldest first."""
        return [run for run in self.attempts() if run.state == "done"]

    def exists(self, name: str) -> bool:
        return DeltaTable.is_deltatable(f"{self.root}/{name}")

    def table(
        self,
        name: str,
        version: int | None = None,
        *,
        columns: Sequence[str] = (),
        where: Where | None = None,
    ) -> pa.Table:
        scanned = self._scan(name, version, columns, where)
        try:
            return scanned.to_table()
        except (OSError, pa.ArrowException) as problem:
            raise self._unreadable(name, problem) from None

    def counts(
        self, name: str, version: int, column: str, where: Where | None = None
    ) -> dict[str, int]:
        counted: Counter[str] = Counter()
        try:
            for batch in self._scan(name, version, (column,), where).to_batches():
                for entry in pc.value_counts(batch.column(0)).to_pylist():
                    counted[entry["values"]] += entry["counts"]
        except (OSError, pa.ArrowException) as problem:
            raise self._unreadable(name, problem) from None
        return dict(counted)

    def _scan(
        self, name: str, version: int | None, columns: Sequence[str], where: Where | None
    ) -> ds.Scanner:
        try:
            table = DeltaTable(f"{self.root}/{name}", version=version)
            dataset = table.to_pyarrow_dataset(filesystem=_arrows_own(f"{self.root}/{name}"))
            return dataset.scanner(
                columns=list(columns) or None, filter=_expression(where or {}), use_threads=False
            )
        except TableNotFoundError:
            raise TableError(
                f"table {self.root}/{name}",
                found="no such Delta table",
                expected=f"the table {name!r}",
                remedy="run the step that writes it first, or set env.lake to the lake that has it",
            ) from None
        except (DeltaError, OSError, pa.ArrowException) as problem:
            raise self._unreadable(name, problem) from None

    def _unreadable(self, name: str, problem: Exception) -> TableError:
        return TableError(
            f"table {self.root}/{name}",
            found=" ".join(str(problem).split())[:160],
            expected="a Delta table that can be read without Spark",
        )


def _arrows_own(path: str) -> fs.FileSystem | None:
    """Arrow's own way to the files of a folder; None for a URL. Delta's way runs Python in Arrow's
    threads: a process that ended while one of them still held a file was aborted.
    """
    if "://" in path:
        return None
    return fs.SubTreeFileSystem(str(Path(path).absolute()), fs.LocalFileSystem())


def _expression(where: Where) -> pc.Expression | None:
    parts = [
        # Of an equality it is known which partitions hold none
        pc.field(column) == next(iter(values))
        if len(values) == 1
        else pc.field(column).isin(list(values))
        for column, values in where.items()
    ]
    whole = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole
