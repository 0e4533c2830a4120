"""What `from recsys_spark import Lake, recommend, run` gives: the engine of the command line, for
Python. Spark starts in `run` alone. docs/python.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from recsys_spark.core import columns as c
from recsys_spark.core import config
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError
from recsys_spark.lake.direct import Direct, is_catalog

if TYPE_CHECKING:
    from recsys_spark.pipeline.runner import Event

_RUN = ("run_id", "step", "stage", "state", "problem", "seed", "config", "summary", "run_dir")
_TIMES = ("started_at", "ended_at")


class Lake:
    """The tables of a lake in a folder or an object store, only to be read, without Spark.

    >>> Lake("out/shop/lake").table("metrics")                       # doctest: +SKIP
    """

    def __init__(self, root: str | Path, runs: str | Path | None = None) -> None:
        """runs: the folder of the run folders, by default that of a pipeline, beside the lake.
        Raises ConfigError for a catalog's lake.
        """
        if is_catalog(str(root)):
            raise ConfigError(
                "Lake",
                found=f"{root}, a schema in a catalog",
                expected="a folder or a URL",
                remedy=f"read its tables with Spark: spark.table('{root}.runs')",
            )
        beside = Path(root).parent / "runs"
        self._tables = Direct(str(root), Path(runs) if runs is not None else beside)

    @classmethod
    def of(cls, file: str | Path, *settings: str) -> Lake:
        """The lake of a pipeline file. settings: `key=value`, or files of them."""
        from recsys_spark.pipeline import steps

        env = steps.read(config.located(file), settings).env
        return cls(env.lake, env.runs)

    def runs(self) -> pd.DataFrame:
        """A row for each completed run and each failure that nothing has made good yet, oldest
        first: ids, times, seconds, settings (`config`) and facts (`summary`, both dicts).
        """
        attempts = self._tables.attempts()
        rows = [{name: getattr(run, name) for name in _RUN} for run in attempts]
        table = pd.DataFrame(rows, columns=list(_RUN))
        started, ended = ([getattr(run, name) for run in attempts] for name in _TIMES)
        table["started"] = pd.to_datetime(pd.Series(started, dtype=float), unit="s", utc=True)
        table["seconds"] = pd.Series(ended, dtype=float) - pd.Series(started, dtype=float)
        return table

    def table(
        self,
        name: str,
        *,
        version: int | None = None,
        columns: Sequence[str] = (),
        where: Mapping[str, Collection[str]] | None = None,
        arrow: bool = False,
    ) -> Any:
        """Rows of a table, as a pandas data frame or (`arrow`) a pyarrow.Table: at the latest
        version, all columns, unless said otherwise. where: {column: the values that it may have}.
        The rows are read into memory: ask for less of a large table. Raises TableError.
        """
        rows = self._tables.table(name, version, columns=columns, where=where)
        return rows if arrow else _frame(rows)

    def current(self, name: str = "default") -> pd.DataFrame:
        """The published lists of this name, of all queries, by query and rank. Raises TableError
        where nothing was published under it.
        """
        return self._published(name, {})

    def recommend(
        self, queries: Iterable[str], k: int = 10, *, name: str = "default"
    ) -> pd.DataFrame:
        """The first k places of the published lists of these users (sessions, playlists), with
        titles where the items have some: query_id, rank, item_id, title, score, model. A query
        without a list has no row.
        """
        lists = self._published(name, {c.QUERY_ID: list(queries)})
        lists = lists[lists[c.RANK] <= k].reset_index(drop=True)
        titles = {}
        if len(lists) and self._tables.exists(c.ITEMS):
            items = {c.ITEM_ID: sorted(set(lists[c.ITEM_ID]))}
            rows = self._tables.table(c.ITEMS, columns=(c.ITEM_ID, "title"), where=items)
            titles = {row[c.ITEM_ID]: row["title"] for row in rows.to_pylist()}
        lists["title"] = lists[c.ITEM_ID].map(titles)
        return lists[[c.QUERY_ID, c.RANK, c.ITEM_ID, "title", c.SCORE, c.MODEL]]

    def _published(self, name: str, where: Mapping[str, Collection[str]]) -> pd.DataFrame:
        rows = (
            self._tables.table(c.CURRENT, where={c.NAME: [name], **where})
            if self._tables.exists(c.CURRENT)
            else None
        )
        if rows is None or not (len(rows) or where):
            raise TableError(
                f"lists {name!r} of {self._tables.root}",
                found="none published",
                expected="a completed publish step",
                remedy="recsys-spark run FILE --production",
            )
        return _frame(rows).sort_values([c.QUERY_ID, c.RANK], ignore_index=True)


def _frame(rows: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = rows.to_pandas(maps_as_pydicts="strict")
    return frame


def recommend(
    file: str | Path, queries: Iterable[str], k: int = 10, *, name: str = "default"
) -> pd.DataFrame:
    """As `Lake.of(file).recommend(queries, k)`: what was published for these users."""
    return Lake.of(file).recommend(queries, k, name=name)


def run(
    file: str | Path,
    *settings: str,
    select: Iterable[str] = (),
    exclude: Iterable[str] = (),
    production: bool = False,
    force: bool = False,
    listener: Callable[[Event], None] | None = None,
) -> dict[str, Run]:
    """As `recsys-spark run`: {step: its completed run}, of the steps that are done already too.

    settings: `key=value`, or files of them; select, exclude: steps, as the command has them;
    production: what `production:` of the file names; force: run the selected steps again. listener:
    called with an Event when a step starts, is kept, ends or fails. Raises RecsysError for what the
    user can mend, before Spark starts where the configuration alone says it.
    """
    from recsys_spark.pipeline import steps

    path = config.located(file)
    pipeline, known = steps.load(path, settings, in_production=production)
    patterns = list(select)
    if production and not patterns:
        patterns = [step for step in known if step not in pipeline.steps]
    names = steps.select(known, patterns=patterns, exclude=exclude, source=str(path))
    chosen = steps.closure(known, names)
    for step in chosen:
        steps.missing(step)
    from recsys_spark.pipeline import runner  # Spark, which the validation above does not need

    return runner.run(
        pipeline,
        chosen,
        lake=runner.open_lake(pipeline),
        listener=listener or (lambda event: None),
        force=names if force else (),
    )
