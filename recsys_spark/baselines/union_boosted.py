"""The second of two stages: gradient-boosted trees that rank the union of other models' lists by
where each of these models put an item (etl/union.py).

Paper: Guolin Ke et al. LightGBM: A Highly Efficient Gradient Boosting Decision Tree. NeurIPS 2017;
    objectives as in `shown_boosted`. Two stages: Paul Covington, Jay Adams and Emre Sargin. Deep
    Neural Networks for YouTube Recommendations. RecSys 2016, section 2.
Differs: there both stages are networks; here the first is whatever models the pipeline names.

For: joining several models into one list that is better than each of theirs
Needs: lists of the validation part by models that were fitted on the training part alone, united
    by a step of stage candidates with `among: union`
Cold: as the united models: an item or user that one of them lists is ranked
Memory: 4 bytes a feature of a candidate on the driver, three features for each united model and
    four more, and as much again while trees grow
Not for: models that agree, or a few hundred queries: their fused order (`shown_order`) does it too
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys_spark.baselines.fitting import trees
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError

TASK = "ranking"
READS_UNION = True
Config = trees.Config


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`. Raises DataError where no candidate was wanted."""
    assert training.lists is not None, "asked for by READS_UNION"
    names = tuple(name for name in training.lists.columns if name not in (c.QUERY_ID, "wanted"))
    return trees.write(
        folder,
        model="union_boosted",
        lists=training.lists,
        names=names,
        training=training,
        config=config,
        empty=DataError(
            "lists to fit on",
            found="none with an event of the validation part",
            expected="at least one",
            remedy="unite longer lists (`k` of their score steps), or more models",
        ),
    )
