"""Any delimited files of events of one's own: `user item`, `user,item,rating,time`, with a header or without; of one kind or of several."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.datasets.spec import Dataset, File

_KNOWN = (c.USER_ID, c.ITEM_ID, c.VALUE, c.TS)


class Kind(Settings):
    """Files of one kind. What is left out is as `delimited` says for all kinds."""

    files: str = Field(min_length=1)  # glob below the data folder; .gz is found too
    part: Literal["train", "valid", "test", "valid_fold_in", "test_fold_in"] | None = None  # for `rule: published` of a prepare step
    required: bool = True
    separator: str | None = Field(None, min_length=1)
    header: bool | None = None
    quoted: bool | None = None
    encoding: Literal["UTF-8", "ISO-8859-1"] | None = None
    columns: tuple[str, ...] | None = None


class Delimited(Settings):
    """Where the fields stand. Without `ts` an event's time is its line number over all files of its kind in order of their names: a file
    added later must sort last. Without `value` every event weighs 1. Names other than the four go into `context`.
    """

    files: str = "*"  # glob below the data folder; .gz is found too
    kinds: tuple[Kind, ...] = ()  # in place of `files`, where the files differ in their fields or in the part of a published split
    separator: str = Field(",", min_length=1)
    header: bool = False
    quoted: bool = False
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    columns: tuple[str, ...] = ()  # names of the fields in order, among them user_id and item_id; "-" is left out
    value_min: float = float("-inf")
    value_max: float = float("inf")
    one_per_pair: bool = False  # a second event of the same user and item is a conflict, not another event

    @model_validator(mode="after")
    def _kinds_fit(self) -> Delimited:
        if self.kinds and "files" in self.model_fields_set and self.files != "*":
            raise ValueError("files or kinds, not both: each kind names its own files")
        for kind in self._kinds():
            _check(kind.columns or self.columns, f"columns of {kind.files}" if self.kinds else "columns")
        return self

    def dataset(self, name: str) -> Dataset:
        files = tuple(self._file(kind) for kind in self._kinds())
        return Dataset(name, files, integer_ids=False, value_min=self.value_min, value_max=self.value_max, one_per_pair=self.one_per_pair)

    def _kinds(self) -> tuple[Kind, ...]:
        return self.kinds or (Kind(files=self.files),)

    def _file(self, kind: Kind) -> File:
        said = self.model_dump(include={"separator", "header", "quoted", "encoding", "columns"}) | kind.model_dump(exclude_none=True)
        extra = {column: f"`{column}`" for column in said["columns"] if column not in (*_KNOWN, "-")}
        if kind.part is not None:
            extra[c.PART] = f"'{kind.part}'"
        columns = tuple(f"_{place}" if column == "-" else column for place, column in enumerate(said["columns"]))
        return File(kind.files, "interactions", columns, said["separator"], header=said["header"], quoted=said["quoted"],
                    encoding=said["encoding"], fields=extra, required=kind.required)


def _check(columns: tuple[str, ...], thing: str) -> None:
    for name in (c.USER_ID, c.ITEM_ID):
        if name not in columns:
            raise ValueError(f"{thing} must name {name}; they are {', '.join(columns) or 'missing'}")
    named = [name for name in columns if name != "-"]
    if len(set(named)) != len(named):
        raise ValueError(f"{thing} name a field twice: {', '.join(columns)}")
