"""Finds the layouts by file name: each file of `batches/layouts/` is one."""

from __future__ import annotations

from recsys_spark.batches.base import Batch
from recsys_spark.core import plugins
from recsys_spark.core.errors import ShardError, nearest

_PACKAGE = "recsys_spark.batches.layouts"


def names() -> list[str]:
    return plugins.names(_PACKAGE)


def find(layout: str) -> type[Batch]:
    """The batch class of a layout. Raises ShardError for a layout that has no file here."""
    known = names()
    if layout not in known:
        raise ShardError(
            "layout of the shard set",
            found=repr(layout),
            expected=f"one of {', '.join(known)}{nearest(layout, known)}",
            remedy="run export_shards again, with this version of the project",
        )
    return plugins.only_class(_PACKAGE, layout, Batch)
