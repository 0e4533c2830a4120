"""A re-ranker of lists that were shown, by gradient-boosted trees over what is known of each item
in its list (etl/shown_features.py).

Paper: Guolin Ke et al. LightGBM: A Highly Efficient Gradient Boosting Decision Tree. NeurIPS 2017;
    objective: Christopher J. C. Burges. From RankNet to LambdaRank to LambdaMART: An Overview.
    Microsoft Research MSR-TR-2010-82; or Sebastian Bruch. An Alternative Cross Entropy Loss for
    Learning-to-Rank (XE-NDCG). WWW 2021.
Differs: the package's own code (`pip install 'recsys_spark[boost]'`), on the driver: at most
    `lists` lists are fitted on, those with the lowest hashes.

For: re-ranking lists that were shown, where many of them were answered
Needs: the lists that were shown (`impressions`) and what was chosen of them; what else is known
    comes from the events of the query and from answers of earlier days
Cold: works on any list: new items are ranked by what their list and their query say of them
Memory: 76 bytes an item of a list on the driver, 2 kB for a list of 25, and as much again while
    trees grow
Not for: a few hundred lists: there the four weights of `shown_logit` are better
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.baselines.fitting import trees
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError

TASK = "ranking"
READS_LISTS = c.SHOWN_FEATURES
Config = trees.Config


def write(training: Training, config: Config, folder: Path) -> dict[str, Any]:
    """Fits and writes the index at `folder`. Raises DataError where no list has an answer."""
    assert training.lists is not None, "asked for by READS_LISTS"
    places = F.sequence(F.lit(0), F.size(READS_LISTS[0]) - 1)
    wanted = F.transform(places, lambda place: (place == F.col("chosen")).cast("int"))
    return trees.write(
        folder,
        model="shown_boosted",
        lists=training.lists.withColumn("wanted", wanted),
        names=READS_LISTS,
        training=training,
        config=config,
        empty=DataError(
            "lists to fit on",
            found="none of which an item was chosen",
            expected="at least one in the fitted parts",
            remedy="give impressions a `value`, and a split of sessions by action",
        ),
    )
