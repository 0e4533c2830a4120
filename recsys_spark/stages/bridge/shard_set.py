"""The end of every stage that makes a shard set: its manifest, and what is told of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recsys_spark.core import artifacts, log, shardset
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import MANIFEST, ShardSet
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import Context, Outcome
from recsys_spark.train.data import places

logger = log.get(__name__)
FOLDER = "shards"  # in the run folder


def finish(folder: Path, made: ShardSet) -> ShardSet:
    """Write the manifest of a set whose files all lie in the folder, and open it as its readers
    will. Returned with its fingerprint.
    """
    whole = shardset.sealed(made)
    for left_over in folder.rglob(".tmp-*"):  # of attempts that lost
        left_over.unlink()
    artifacts.write_model(folder / MANIFEST, whole)
    places.load(folder)
    return whole


def outcome(
    ctx: Context, job: context.Job, source: str, made: ShardSet, began: float, **facts: Any
) -> Outcome:
    """source: the prepare step. began: by time.monotonic(). facts: what only this stage can
    tell.
    """
    files = [file for part in made.parts.values() for file in part.files]
    summary = {
        "layout": made.layout,
        "split": made.split,
        **facts,
        "rows": made.parts[c.TRAIN].rows,
        "valid_rows": made.parts[c.VALID].rows if c.VALID in made.parts else 0,
        "files": len(files),
        "row_groups": sum(len(file.row_groups) for file in files),
        "bytes": sum(size for _, size, _ in shardset.files(made)),
        "seconds": round(time.monotonic() - began, 2),
        "num_users": made.num_users,
        "num_items": made.num_items,
        "fingerprint": made.fingerprint,
        **made.statistics,
    }
    if made.features:
        summary["features"] = {
            one.name: one.kind if one.kind in ("number", "time") else len(one.vocabulary)
            for one in made.features
        }
    logger.info(log.fields(stage=job.stage, **summary))
    return Outcome(
        tables=dict(ctx.inputs[source].output_versions),
        shard_fingerprint=made.fingerprint,
        summary=summary,
    )
