"""User-defined delimited files of events: `user item`, `user,item,rating,time`, with a header or
without, of one kind or several.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.datasets.files.described import meant
from recsys_spark.datasets.files.spec import Dataset, File, Unit
from recsys_spark.datasets.forms.source import Separator, Zone

_OPTIONAL = (c.SESSION_ID, c.ACTION, c.POSITION, c.STEP, c.IMPRESSION_ID)
_KNOWN = (c.USER_ID, c.ITEM_ID, c.VALUE, c.TS, *_OPTIONAL)


class Kind(Settings):
    """Files of one kind. Settings that are left out are those of `delimited` for all kinds."""

    files: str = Field(min_length=1)  # glob below the data folder; .gz also matches
    part: Literal["train", "valid", "test", "valid_fold_in", "test_fold_in"] | None = (
        None  # for `rule: published` of a prepare step
    )
    required: bool = True
    separator: Separator | None = None
    header: bool | None = None
    quoted: bool | None = None
    encoding: Literal["UTF-8", "ISO-8859-1"] | None = None
    columns: tuple[str, ...] | None = None


class Delimited(Settings):
    """Positions of the fields. Times are numbers in `unit`, or text such as 2026-01-31T10:00:00Z.
    Without `ts` an event's time is its line number over all files of
    its kind in the order of their paths: a file added later must sort last. Without `value` every
    event weighs 1. session_id, action, position, step and impression_id fill the columns with these
    names; other names go into `context`.
    """

    files: str = "*"  # glob below the data folder; .gz also matches
    kinds: tuple[
        Kind, ...
        # Instead of `files`, for files that differ in their fields or in the part of a published
        # split
    ] = ()
    separator: Separator = ","
    header: bool = False
    quoted: bool = False
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    columns: tuple[
        str, ...
        # Names of the fields in order, including user_id and item_id; "-" marks a field to skip
    ] = ()
    unit: Unit = "s"  # of numeric times since 1970
    zone: Zone | None = None  # of times as text that name none, such as Europe/Berlin
    value_min: float = 0.0
    value_max: float = float("inf")
    one_per_pair: bool = (
        False  # True: a second event of the same user and item is a conflict, not another event
    )

    @model_validator(mode="after")
    def _kinds_fit(self) -> Delimited:
        if self.kinds and "files" in self.model_fields_set and self.files != "*":
            raise ValueError("files or kinds, not both: each kind names its own files")
        for kind in self._kinds():
            _check(
                kind.columns or self.columns,
                f"columns of {kind.files}" if self.kinds else "columns",
            )
        return self

    def dataset(self, name: str) -> Dataset:
        files = tuple(self._file(kind) for kind in self._kinds())
        return Dataset(
            name,
            files,
            integer_ids=False,
            value_min=self.value_min,
            value_max=self.value_max,
            one_per_pair=self.one_per_pair,
        )

    def _kinds(self) -> tuple[Kind, ...]:
        return self.kinds or (Kind(files=self.files),)

    def _file(self, kind: Kind) -> File:
        said = self.model_dump(
            include={"separator", "header", "quoted", "encoding", "columns"}
        ) | kind.model_dump(exclude_none=True)
        extra = {
            column: f"`{column}`" for column in said["columns"] if column not in (*_KNOWN, "-")
        }
        if kind.part is not None:
            extra[c.PART] = f"'{kind.part}'"
        columns = tuple(
            f"_{place}" if column == "-" else column for place, column in enumerate(said["columns"])
        )
        return File(
            kind.files,
            "interactions",
            columns,
            said["separator"],
            header=said["header"],
            quoted=said["quoted"],
            unit=self.unit,
            zone=self.zone,
            own=True,
            encoding=said["encoding"],
            fields=extra,
            required=kind.required,
        )


def _check(columns: tuple[str, ...], thing: str) -> None:
    """Raises ValueError for columns that do not name what must be there, name a field twice, or
    call one by another name than the lake's.
    """
    for column in (c.TS, c.VALUE):
        others = [name for name in columns if meant(name) == column]
        if column not in columns and others:
            raise ValueError(
                f"{thing} name {others[0]}, which would only be kept beside the events: did you "
                f"mean {column}? If not, give it another name"
            )
    for name in (c.USER_ID, c.ITEM_ID):
        if name not in columns:
            raise ValueError(
                f"{thing} must name {name}; they are {', '.join(columns) or 'missing'}"
            )
    named = [name for name in columns if name != "-"]
    if len(set(map(str.lower, named))) != len(named):
        raise ValueError(
            f"{thing} name a field twice, or in upper and lower case: {', '.join(columns)}"
        )
