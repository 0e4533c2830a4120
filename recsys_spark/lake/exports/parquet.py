"""Lists as Parquet files, for what reads no Delta.

PATH/NAME/generation=7/*.parquet    one generation, whole when the pointer names it
PATH/NAME/current.json              {"generation": 7, "folder": "generation=7", "rows": 120800}

The pointer is written last, in one step. The generation before stays, for who is still reading it.
"""

from __future__ import annotations

import json

import fsspec
from pyspark.sql import DataFrame

from recsys_spark.core import columns as c

POINTER = "current.json"


def write(lists: DataFrame, path: str, *, name: str, generation: int, rows: int) -> None:
    """lists: rows of `current_recommendations` of one name and generation. path: a folder or an
    object-store URL that Spark and fsspec reach.
    """
    root, folder = f"{path.rstrip('/')}/{name}", f"{c.GENERATION}={generation}"
    lists.drop(c.GENERATION).write.mode("overwrite").parquet(f"{root}/{folder}")
    fs, place = fsspec.core.url_to_fs(root)
    pointer = {"generation": generation, "folder": folder, "rows": rows}
    beside = f"{place}/.{POINTER}.part"
    with fs.open(beside, "w") as file:
        json.dump(pointer, file)
    fs.mv(beside, f"{place}/{POINTER}")
    for old in fs.ls(place, detail=False):
        number = old.rsplit(f"{c.GENERATION}=", 1)[-1]
        if number.isdigit() and int(number) < generation - 1:
            fs.rm(old, recursive=True)
