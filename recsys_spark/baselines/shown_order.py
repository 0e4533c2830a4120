"""The order in which a list was shown, perhaps with the item last met first: what a re-ranker of
shown lists must beat.

Paper: P. Knees et al. RecSys Challenge 2019: Session-based Hotel Recommendations. RecSys 2019,
    doi:10.1145/3298689.3346974 (the organisers' baselines by position and by last interaction).
Differs: nothing known.

For: the point of reference of re-ranking lists that were shown.
Needs: the lists that were shown (`impressions`).
Cold: nothing is learned, so nothing is new to it.
Memory: 4 bytes an item.
Not for: anything but shown lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from recsys_spark.baselines.fitting import artifact
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core.config import Settings

TASK = "ranking"


class Config(Settings):
    lift: Literal["", "last"] = ""  # the item of the history's last event goes first; empty: none


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Writes the index at `folder`; of the events only the fallback's counts are read."""
    counts = artifact.counts(training.events, training.num_items)
    artifact.write_shown(folder, model="shown_order", popularity=counts, lift=config.lift)
    return {"events": int(counts.sum(dtype="float64"))}
