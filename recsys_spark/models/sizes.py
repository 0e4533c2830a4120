"""How many bytes a model's weights take, by the number of users and items: counted, not written
down, so that it is true of the code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from recsys_spark.core.contracts import Feature
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry
from recsys_spark.models.base import Model, Sizes

STATISTICS = {"label_count": 1e6, "label_mean": 3.5, "label_min": 1.0, "label_max": 5.0}
TIME = Feature(name="ts", side="event", kind="time", low=0.0, high=1e8)
_NEAR, _FAR = 100, 200  # small: the models are built


class Bytes(NamedTuple):
    """Of the parameters, in float32."""

    fixed: int
    per_user: int
    per_item: int

    def of(self, users: int, items: int) -> int:
        return self.fixed + users * self.per_user + items * self.per_item


def shape(name: str, config: dict[str, Any], users: int, items: int) -> Model:
    """The model without fields; one that reads times has them."""
    try:
        return registry.build(name, config, Sizes(users, items, STATISTICS), seed=1)
    except ConfigError:
        return registry.build(name, config, Sizes(users, items, STATISTICS, (TIME,)), seed=1)


def bytes_of(name: str, config: dict[str, Any]) -> Bytes:
    """Without fields of users and items: these add to it. A network's tables grow with the users,
    the items or both; nothing in a model grows with their product.
    """

    def weights(users: int, items: int) -> int:
        model = shape(name, config, users, items)
        return sum(weight.numel() * 4 for weight in model.parameters())

    near = weights(_NEAR, _NEAR)
    per_user = (weights(_FAR, _NEAR) - near) // (_FAR - _NEAR)
    per_item = (weights(_NEAR, _FAR) - near) // (_FAR - _NEAR)
    return Bytes(near - _NEAR * (per_user + per_item), per_user, per_item)
