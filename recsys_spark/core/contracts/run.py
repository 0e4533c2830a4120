"""`Run`: what is remembered of a completed stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from recsys_spark.core.config import Settings


class Run(Settings):
    """A row of `runs`, written only when the stage has completed: its tables and files are whole."""

    run_id: str
    pipeline: str
    step: str
    stage: str
    key: str  # fingerprint of stage, configuration and the runs it builds on: equal key, equal result
    config: dict[str, Any]  # the resolved job
    upstream: dict[str, str]  # step -> run_id
    input_versions: dict[str, int]  # Delta table -> version read; `<table> of <step>` where another step's version was read too
    output_versions: dict[str, int]  # Delta table -> version after writing
    shard_fingerprint: str = ""
    run_dir: str
    code_version: str
    seed: int
    started_at: float  # seconds since 1970
    ended_at: float
    summary: dict[str, Any] = Field(default_factory=dict)  # small facts for the report: rows, seconds, metrics
