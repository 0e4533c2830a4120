"""Descriptions of the metrics, one row each, in the order of a table's columns.

A metric is computed in the module of its family; this module has only texts for readers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    name: str
    title: str
    better: Literal["higher", "lower", ""]  # empty: descriptive, neither is better
    meaning: str
    unit: Literal["", "share", "count"] = ""  # how a value is written; empty: four digits


_ROWS = (
    Metric(
        "r_precision_artist",
        "R-precision with artists",
        "higher",
        "withheld tracks among as many first places, and a quarter for each of their artists met "
        "there by another track",
    ),
    Metric(
        "r_precision",
        "R-precision",
        "higher",
        "share of the withheld tracks among as many first places",
    ),
    Metric(
        "playlist_ndcg",
        "NDCG of 500",
        "higher",
        "hits among 500 places, the higher the better placed, relative to a perfect list",
    ),
    Metric(
        "clicks",
        "Clicks",
        "lower",
        "pages of ten tracks before the first hit, 51 without one; lower is better",
    ),
    Metric(
        "playlist_ndcg_rules",
        "NDCG by the rules' page",
        "higher",
        "as printed in the rules: relative to a list that begins with the hits; not the leader "
        "board's",
    ),
    Metric(
        "ndcg",
        "NDCG",
        "higher",
        "hits in the first k places, the higher the better placed, relative to a perfect list",
    ),
    Metric(
        "recall",
        "Recall",
        "higher",
        "share of a user's held-out events found in the first k places",
    ),
    Metric(
        "recall_capped",
        "Capped recall",
        "higher",
        "hits in the first k places, relative to the most that k places can hold",
    ),
    Metric(
        "hit_rate",
        "Hit rate",
        "higher",
        "share of users with at least one hit in the first k places",
    ),
    Metric(
        "mrr",
        "MRR",
        "higher",
        "one divided by the place of the first hit",
    ),
    Metric(
        "official_mrr",
        "MRR (official)",
        "higher",
        "one divided by the place of the clicked item; 0 where a list names it twice",
    ),
    Metric(
        "official_map3",
        "MAP@3 (official)",
        "higher",
        "a third where the clicked item is among the first three places",
    ),
    Metric(
        "map",
        "MAP",
        "higher",
        "mean of the precision at each hit, relative to a perfect list",
    ),
    Metric(
        "precision",
        "Precision",
        "higher",
        "share of the first k places that hit",
    ),
    Metric(
        "serendipity",
        "Serendipity",
        "higher",
        "share of the first k places with a hit that is not among the k most popular items "
        "new to the user",
    ),
    Metric(
        "rce",
        "RCE",
        "higher",
        "per cent by which the log loss is below that of the rows' own click rate",
    ),
    Metric(
        "log_loss",
        "Log loss",
        "lower",
        "mean of minus the logarithm of the probability given to what happened; lower is better",
    ),
    Metric(
        "auc",
        "AUC",
        "higher",
        "share of pairs, one wanted and one not, in the right order; 0.5 is chance",
    ),
    Metric(
        "pr_auc",
        "PR-AUC",
        "higher",
        "mean precision over the thresholds, weighted by recall gained; a constant earns the "
        "click rate",
    ),
    Metric(
        "auc_per_user",
        "AUC per user",
        "higher",
        "AUC within each user's rows, averaged over users",
    ),
    Metric(
        "auc_per_impression",
        "AUC per user, by impressions",
        "higher",
        "AUC within each user's rows, averaged over users weighted by their rows",
    ),
    Metric(
        "rmse",
        "RMSE",
        "lower",
        "root of the mean squared error of predicted ratings, over all rows; lower is better",
    ),
    Metric(
        "mae",
        "MAE",
        "lower",
        "mean absolute error of predicted ratings; lower is better",
    ),
    Metric(
        "coverage",
        "Coverage",
        "",
        "share of the training catalogue that appears in anybody's first k places",
        "share",
    ),
    Metric(
        "novelty",
        "Novelty",
        "",
        "bits of surprise of a recommended item: -log2 of its share of the training events, "
        "on average",
    ),
    Metric(
        "diversity",
        "Diversity",
        "",
        "how different the items of a list are from each other, by their fields: 1 minus the "
        "mean cosine",
    ),
    Metric(
        "mean_popularity",
        "Mean popularity",
        "",
        "training events of the items recommended, on average: low means less known items",
        "count",
    ),
    Metric(
        "gini",
        "Gini",
        "",
        "how unevenly items are recommended: 0 all alike, 1 everybody gets the same",
    ),
    Metric(
        "cold_share",
        "Cold items",
        "",
        "share of the recommended items that have no training event",
        "share",
    ),
    Metric(
        "official_rce",
        "RCE (official)",
        "higher",
        "per cent of the log loss of a constant, the share of engagements, that is saved",
    ),
    Metric(
        "official_pr_auc",
        "PR-AUC (official)",
        "higher",
        "area under precision by recall, lines between points: a constant earns more than half",
    ),
    Metric(
        "average_precision",
        "Average precision",
        "higher",
        "precision at each engagement, on average: a constant earns the share of engagements",
    ),
    Metric(
        "official_calibration",
        "Calibration",
        "",
        "mean prediction divided by the share of engagements: 1 is right",
    ),
    Metric(
        "calibration",
        "Calibration",
        "",
        "mean prediction divided by the click rate: 1 is right",
    ),
)
METRICS = {metric.name: metric for metric in _ROWS}
LOWER_IS_BETTER = tuple(metric.name for metric in _ROWS if metric.better == "lower")
JUDGED = tuple(metric.name for metric in _ROWS if metric.better)


def title(name: str) -> str:
    """The title of a metric; for an unknown one, its name as words."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ").capitalize()


def meaning(name: str) -> str:
    return METRICS[name].meaning if name in METRICS else ""


def unit(name: str) -> str:
    return METRICS[name].unit if name in METRICS else ""
