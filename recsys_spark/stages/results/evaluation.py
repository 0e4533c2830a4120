"""Base of the configuration of stage `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from recsys_spark.core.errors import nearest
from recsys_spark.metrics import names
from recsys_spark.metrics.tasks import OF_RANKINGS, RANKING, TASKS
from recsys_spark.pipeline import context
from recsys_spark.pipeline.context import StepOf


class Evaluation(context.Job):
    """The runs to measure, the part of the split, and the metrics."""

    source: Annotated[str, StepOf("prepare")]  # whose split is evaluated on
    of: Annotated[tuple[str, ...], StepOf("score")] = Field(min_length=1)
    ks: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((10, 20), min_length=1)
    part: Literal["valid", "test"] = "test"
    # As what lists of the whole catalogue are measured; one of tasks.OF_RANKINGS
    task: str = RANKING.name
    # playlist_continuation: the items' field by which r_precision_artist gives credit
    artist_field: str = "artist_id"
    metrics: tuple[str, ...] = ()  # names of metrics.names; empty: all that apply
    user_fields: tuple[str, ...] = ()  # fields by whose values users are sliced
    item_fields: tuple[
        str, ...
        # Fields by whose values held-out items are sliced, and in which diversity is measured
    ] = ()

    @field_validator("ks")
    @classmethod
    def _different(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(ks)) != len(ks):
            raise ValueError("cut-offs must differ")
        return ks

    @field_validator("task")
    @classmethod
    def _of_rankings(cls, task: str) -> str:
        if task not in OF_RANKINGS:
            raise ValueError(f"one of {', '.join(OF_RANKINGS)}{nearest(task, OF_RANKINGS)}")
        return task

    @property
    def longest(self) -> int:
        """Places that are measured of a list of the whole catalogue."""
        return TASKS[self.task].places or max(self.ks)

    @field_validator("metrics")
    @classmethod
    def _known(cls, chosen: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := names.unknown(chosen):
            raise ValueError(wrong)
        return chosen
