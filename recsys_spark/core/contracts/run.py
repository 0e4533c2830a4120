"""`Run`: the record of a stage that completed, or of its last attempt that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recsys_spark.core.config import Settings


class Run(Settings):
    """A row of `runs`. With `state` done it is written only when the tables and files of the stage
    are complete; a failed attempt has one too, until the same run completes.
    """

    run_id: str
    pipeline: str
    step: str
    stage: str
    # fingerprint of stage, configuration and the runs it builds on: equal key, equal result
    key: str
    config: dict[str, Any]  # the resolved job
    upstream: dict[str, str]  # step -> run_id
    # Delta table -> version read; `<table> of <step>` where another step's version was read too
    input_versions: dict[str, int]
    output_versions: dict[str, int]  # Delta table -> version after writing
    shard_fingerprint: str = ""
    run_dir: str  # absolute, but in the table: see `row`
    code_version: str
    seed: int
    started_at: float  # seconds since 1970
    ended_at: float
    state: Literal["done", "failed"] = "done"
    problem: str = ""  # why it failed, in one line
    # Small facts for the report: rows, seconds, metrics
    summary: dict[str, Any] = Field(default_factory=dict)

    def row(self, runs: Path | None = None) -> dict[str, Any]:
        """As a row of the table `runs`: config and summary are JSON there, and the folder is named
        from `runs` where it lies below it, so that a lake and its run folders can be moved.
        """
        texts = {"config": json.dumps(self.config), "summary": json.dumps(self.summary)}
        folder = Path(self.run_dir)
        if runs is not None and folder.is_relative_to(runs.absolute()):
            texts["run_dir"] = str(folder.relative_to(runs.absolute()))
        return self.model_dump() | texts

    @classmethod
    def of_row(cls, row: Mapping[str, Any], runs: Path | None = None) -> Run:
        """The run of a row; `runs`: where the run folders lie now."""
        texts = {name: json.loads(row[name]) for name in ("config", "summary")}
        folder = Path(row["run_dir"])
        if runs is not None and not folder.is_absolute():
            texts["run_dir"] = str(runs.absolute() / folder)
        return cls(**dict(row) | texts)
