"""What a data set is: its files, what their columns mean, which values are possible, what is known of its size.

Every `.py` file of this folder that has a `DATASETS` mapping adds its data sets; their names are the mapping's keys.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, nearest


@dataclass(frozen=True)
class File:
    """Delimited text files of one kind. `columns` names the fields of a line in order.

    user_id, item_id, value, ts and title feed the table's columns of that name; `fields` gives the others: name -> SQL
    expression over the columns, put into the map `fields` where it is neither null nor empty.
    """

    pattern: str  # glob below the data folder; a name with .gz added is found too
    table: Literal["interactions", "users", "items"]
    columns: tuple[str, ...]
    separator: str = "::"
    header: bool = False  # the first line holds the names of `columns`
    quoted: bool = False  # fields may stand in double quotes (CSV)
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    fields: dict[str, str] = field(default_factory=dict)
    adds_fields: bool = False  # the file only adds fields to rows of another file of the same table
    required: bool = True
    rows: int | None = None  # number of lines (without header), where it is known


@dataclass(frozen=True)
class Download:
    """A zip as its publisher ships it. sha256 is empty where nobody can know it: the set changes over time."""

    url: str
    folder: str  # inside the zip
    size_bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    name: str
    files: tuple[File, ...]
    integer_ids: bool = True
    value_min: float = -math.inf
    value_max: float = math.inf
    value_step: float = 0.0  # values are multiples of it; 0: any
    ts_min: int = -(2**63)  # seconds since 1970, inclusive
    ts_max: int = 2**63 - 1
    one_per_pair: bool = True  # a user has one value for an item; else one for an item and a time
    download: Download | None = None
    like_movielens_1m: bool = False  # the generator writes this format

    def of(self, table: str, *, adds_fields: bool = False) -> tuple[File, ...]:
        return tuple(file for file in self.files if file.table == table and file.adds_fields == adds_fields)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of which an event is the only one."""
        return (c.USER_ID, c.ITEM_ID) if self.one_per_pair else (c.USER_ID, c.ITEM_ID, c.TS)


def seconds(day: str) -> int:
    """Seconds since 1970 at the start (UTC) of a day, `2000-04-25`."""
    return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp())


def known() -> dict[str, Dataset]:
    """{name: data set} of every file in this folder."""
    found: dict[str, Dataset] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if "\nDATASETS" in file.read_text(encoding="utf-8"):
            found |= importlib.import_module(f"recsys_spark.datasets.{file.stem}").DATASETS
    return found


def find(name: str) -> Dataset:
    """Raises ConfigError for an unknown name."""
    sets = known()
    if name not in sets:
        raise ConfigError(f"data set {name!r}", found="not a known data set", expected=f"one of {', '.join(sets)}{nearest(name, sets)}",
                          remedy="name one of these, or describe your own files under `delimited:`")
    return sets[name]
