"""Autoencoder of items' rating profiles (I-AutoRec): predicts all users' ratings of an item from
the ratings of some.

Paper: Suvash Sedhain, Aditya Krishna Menon, Scott Sanner, Lexing Xie. AutoRec: Autoencoders Meet
Collaborative Filtering. WWW 2015 Companion, doi:10.1145/2740908.2742726 (equations 1 to 3, with
items' vectors).
Differs: as autorec_user. An item without ratings gets the predictions for an empty profile, which
depend on the user; a user absent from training gets the training mean. It ranks no items for a
user: that would need the profiles of all items at once.

For: ratings: the best figure here on ML-1M, rows at random.
Needs: rated events, shards by item.
Cold: a user without training events gets the mean; an item without ratings is predicted from an
    empty profile.
Not for: rankings: that would need the profiles of all items at once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsys_spark.batches.query import Query
from recsys_spark.core.errors import ConfigError
from recsys_spark.models.profile.autorec_user import AutorecUser


class AutorecItem(AutorecUser):
    """Rows are items, their entries users."""

    @classmethod
    def by_of(cls, config: dict[str, Any]) -> str:
        return "item"

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """Raises ConfigError."""
        raise cannot_rank("autorec_item")


def cannot_rank(model: str) -> ConfigError:
    return ConfigError(
        f"ranking by {model}",
        found="a model of items' profiles",
        expected="one of users' profiles",
        remedy="leave out `task: ranking`, so that it predicts ratings",
    )
