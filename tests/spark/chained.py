"""Steps whose runs know what they build on, as the pipeline records it: scoring asks for that."""

from __future__ import annotations

from typing import Any

from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Run
from recsys_spark.pipeline.steps import references
from tests.spark.prepared import Steps


class Chain(Steps):
    def run(self, step: str, stage: Any, **job: Any) -> Run:
        made = super().run(step, stage, **job)
        needs = {
            name: self.done[name].run_id
            for names in references(stage.Job(**job)).values()
            for name in names
        }
        self.done[step] = made.model_copy(
            update={"upstream": needs, "config": stage.Job(**job).model_dump(mode="json")}
        )
        self.lake.add_run(self.done[step])
        return self.done[step]

    def rows(self, table: str, step: str) -> list[Any]:
        """What the run of the step left in the table."""
        made = self.done[step]
        return (
            self.lake.read(table, made.output_versions[table])
            .where(f"{c.RUN_ID} = '{made.run_id}'")
            .collect()
        )
