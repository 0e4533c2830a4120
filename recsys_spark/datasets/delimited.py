"""Any delimited file of events of one's own: `user item`, `user,item,rating,time`, with a header or without."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.datasets.spec import Dataset, File

_KNOWN = (c.USER_ID, c.ITEM_ID, c.VALUE, c.TS)


class Delimited(Settings):
    """Where the fields stand. Without `ts` an event's time is its line number over all files in order of their names: a file
    added later must sort last. Without `value` every event weighs 1. Names other than the four go into `context`.
    """

    files: str = "*"  # glob below the data folder; .gz is found too
    separator: str = Field(",", min_length=1)
    header: bool = False
    quoted: bool = False
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    columns: tuple[str, ...]  # names of the fields in order, among them user_id and item_id; "-" is left out
    value_min: float = float("-inf")
    value_max: float = float("inf")
    one_per_pair: bool = False  # a second event of the same user and item is a conflict, not another event

    @model_validator(mode="after")
    def _has_ids(self) -> Delimited:
        for name in (c.USER_ID, c.ITEM_ID):
            if name not in self.columns:
                raise ValueError(f"columns must name {name}; they are {', '.join(self.columns)}")
        named = [name for name in self.columns if name != "-"]
        if len(set(named)) != len(named):
            raise ValueError(f"columns name a field twice: {', '.join(self.columns)}")
        return self

    def dataset(self, name: str) -> Dataset:
        extra = {column: f"`{column}`" for column in self.columns if column not in (*_KNOWN, "-")}
        columns = tuple(f"_{place}" if column == "-" else column for place, column in enumerate(self.columns))
        file = File(self.files, "interactions", columns, self.separator, header=self.header, quoted=self.quoted,
                    encoding=self.encoding, fields=extra)
        return Dataset(name, (file,), integer_ids=False, value_min=self.value_min, value_max=self.value_max,
                       one_per_pair=self.one_per_pair)
