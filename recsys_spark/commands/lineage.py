"""Dependencies between recorded runs."""

from __future__ import annotations

from collections.abc import Collection

from recsys_spark.core.contracts import Run


def below(runs: Collection[Run], ids: Collection[str]) -> set[str]:
    """`ids` and the ids of all runs upstream of them."""
    upstream = {run.run_id: set(run.upstream.values()) for run in runs}
    reached: set[str] = set()
    queue = list(ids)
    while queue:
        run_id = queue.pop()
        if run_id not in reached:
            reached.add(run_id)
            queue += upstream.get(run_id, ())
    return reached


def above(runs: Collection[Run], ids: Collection[str]) -> list[Run]:
    """The runs downstream of `ids`, directly or indirectly, oldest first."""
    return [
        run
        for run in sorted(runs, key=lambda run: run.started_at)
        if run.run_id not in ids and below(runs, [run.run_id]) & set(ids)
    ]
