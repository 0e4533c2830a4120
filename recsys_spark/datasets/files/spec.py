"""Description of a data set: its files, the meaning of their columns, the valid values, its known
size.

Every `.py` file directly in `datasets/` has a mapping `DATASETS` of data sets by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal

from recsys_spark.core import columns as c
from recsys_spark.core import plugins
from recsys_spark.core.errors import ConfigError, nearest

Unit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class File:
    """Delimited text files of one kind. `columns` names the fields of a line in order.

    user_id, item_id, value, ts, session_id, action, position, step, impression_id and title fill
    the table's columns with these names. `fields`: {name: SQL expression over the columns}; values
    that are neither null nor empty go into the map `fields` (for an event: `context`).

    A file for several tables has a `File` for each of them, with the same pattern. A table or a
    query is described in the same way; `pattern` is then its name.
    """

    pattern: str  # glob below the data folder; names with .gz, .bz2 and .zst added also match
    # left_out: item_ids, one a line, of which no row is read, not even into quarantine
    table: Literal["interactions", "impressions", "users", "items", "left_out"]
    columns: tuple[str, ...]
    separator: str = "::"
    header: bool = False  # the first line has the names of `columns`
    quoted: bool = False  # fields may be in double quotes (CSV)
    multiline: bool = False  # and then go over several lines
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    fields: dict[str, str] = field(default_factory=dict)
    # {column of the table: SQL expression over `columns`}; one that is left out is the column of
    # the same name
    mapped: dict[str, str] = field(default_factory=dict)
    unit: Unit | None = "s"  # of numeric times; None: numeric times are rejected
    zone: str | None = None  # of times without one; None: they are rejected
    adds_fields: bool = False  # the file only adds fields to rows of another file of the same table
    # Lines are rows of another table; a user or item is the first good line with its id. Further
    # lines with that id are not duplicates, and unusable lines are reported by the other table
    repeats: bool = False
    # Columns of parallel lists, joined by `list_separator`: a line is a row for each entry, these
    # columns hold the entry, and `place` its number from 1. What makes such a line unusable is
    # reported by the other table of its file
    lists: tuple[str, ...] = ()
    list_separator: str = "|"
    where: str = ""  # SQL condition over `columns`; other lines are no rows of this table
    wrong: dict[str, str] = field(default_factory=dict)  # {reason to reject: SQL condition}
    required: bool = True
    rows: int | None = None  # number of lines (without header), if known
    of_files: int | None = None  # `rows` is what so many files have; None: however many there are
    form: str = ""  # module of datasets/forms that reads it; empty: lines of delimited text
    # What stands once in each row, by which rows are estimated; empty: the end of a line
    mark: str = ""
    own: bool = False  # a user's description of their own data, which may be mistaken
    typed: bool = False  # its columns have types of their own, so that text is not trimmed

    @property
    def label(self) -> str:
        """What its rows are counted under: the pattern, of a form with rows of several tables also
        the table.
        """
        return f"{self.pattern} ({self.table})" if self.form else self.pattern

    def expression(self, name: str) -> str | None:
        """SQL expression of a column of the table; None where the file does not have it."""
        return self.mapped.get(name) or (f"`{name}`" if name in self.columns else None)


@dataclass(frozen=True)
class Download:
    """A zip on its publisher's server. sha256 is empty for a data set that changes over time."""

    url: str
    folder: str  # folder inside the zip
    size_bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    name: str
    files: tuple[File, ...]
    integer_ids: bool = True
    value_min: float = -math.inf
    value_max: float = math.inf
    value_step: float = 0.0  # values are multiples of it; 0: any value
    ts_min: int = -(2**63)  # seconds since 1970, inclusive
    ts_max: int = 2**63 - 1
    one_per_pair: bool = True  # one value per user and item; else one per user, item and time
    # An event whose user or item is in no file of users or items is rejected, or kept
    unknown_ids: Literal["reject", "keep"] = "reject"
    # Users and items are what the source says now; else a stored one stays as it is
    follows: bool = False
    stepped: bool = False  # events of one user, item and second differ by their step
    itemless: bool = False  # there are events of no item: their item_id is NO_ITEM
    register: str = ""  # where a set is asked for that nobody may pass on
    download: Download | None = None
    like_movielens_1m: bool = False  # the generator writes this format
    generator: str = ""  # a file of `generators/` that writes this format without Spark

    def of(self, table: str, *, adds_fields: bool = False) -> tuple[File, ...]:
        return tuple(
            file for file in self.files if file.table == table and file.adds_fields == adds_fields
        )

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that identify an event."""
        if self.one_per_pair:
            return (c.USER_ID, c.ITEM_ID)
        return (c.USER_ID, c.ITEM_ID, c.TS, *((c.STEP,) if self.stepped else ()))


def seconds(day: str) -> int:
    """Seconds since 1970 at the start (UTC) of a day such as `2000-04-25`."""
    return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp())


def known() -> dict[str, Dataset]:
    """{name: data set} of every file in `datasets/`."""
    package = "recsys_spark.datasets"
    datasets: dict[str, Dataset] = {}
    for name in plugins.names(package):
        datasets |= plugins.load(package, name).DATASETS
    return datasets


def find(name: str) -> Dataset:
    """The data set with this name. Raises ConfigError for an unknown name."""
    sets = known()
    if name not in sets:
        raise ConfigError(
            f"data set {name!r}",
            found="not a known data set",
            expected=f"one of {', '.join(sets)}{nearest(name, sets)}",
            remedy="name one of these, or describe your own files under `delimited:`",
        )
    return sets[name]
