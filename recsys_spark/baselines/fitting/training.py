"""Input of a baseline's fit. A baseline is a file of `baselines/` with a `Config`, a TASK (or
`task(config)`) and

    write(training, config, folder) -> facts

which fits it and writes its index artefact (artifact.py) at `folder`; the facts go into the run's
summary.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Training:
    """events: query_idx int, item_idx int, ts long, value double of the parts to fit on; a pair may
    occur more than once. Beside them what the baseline's `reads(config)` names, where it has one;
    `place` int is an event's place in its query, from 1, oldest first.

    num_users, num_items: the highest dense index of each. users (query_idx, fields map) and items
    (item_idx, title, fields map) are None where the data have none.
    """

    events: DataFrame
    num_users: int
    num_items: int
    seed: int
    users: DataFrame | None = None
    items: DataFrame | None = None
    # Of a baseline with READS_LISTS, names of c.SHOWN_FEATURES: etl/shown_features.answered, of the
    # queries of `events`. Of one with READS_UNION: etl/union.to_fit
    lists: DataFrame | None = None
