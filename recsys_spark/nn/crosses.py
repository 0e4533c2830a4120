"""Cross products of fields: a feature for every combination of their values, so that a linear model
can have a weight for each combination.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.nn.fields import Fields, Slots
from recsys_spark.nn.tables import table

MOST = 1 << 25  # combinations of all crosses together: 128 MB of weights


class Crosses(nn.Module):
    """One weight, initially zero, for each combination; row 0 is for combinations with an unknown
    value.

    crosses: names of fields, "user" and "item" among them; None: every category of users with every
    category of items. Raises ConfigError for a field that does not exist or has no categories, or
    for too many combinations.
    """

    def __init__(self, fields: Fields, crosses: Sequence[Sequence[str]] | None) -> None:
        super().__init__()
        sizes = {
            "user": fields.num_users,
            "item": fields.num_items,
            **{
                field.name: len(field.vocabulary)
                for side in fields.features.values()
                for field in side
                if field.kind != "number"
            },
        }
        if crosses is None:
            categories = {
                side: [field.name for field in fields.features[side] if field.name in sizes]
                for side in ("user", "item")
            }
            crosses = [
                (user_field, item_field)
                for user_field in categories["user"]
                for item_field in categories["item"]
            ]
        for name in (name for cross in crosses for name in cross):
            if name not in sizes:
                raise ConfigError(
                    "config.crosses",
                    found=repr(name),
                    expected=f"one of {', '.join(sizes)}{nearest(name, sizes)}",
                    remedy="export the shards with that field as a "
                    "category, or leave the cross out",
                )
        self.start = {"user": 0, "item": fields.num_users, **fields.start}
        self.crosses = [[(name, sizes[name]) for name in cross] for cross in crosses]
        counts = [math.prod(size for _, size in cross) for cross in self.crosses]
        if sum(counts) > MOST:
            raise ConfigError(
                "config.crosses",
                found=f"{sum(counts)} combinations",
                expected=f"at most {MOST}",
                remedy="leave out the cross with the most values",
            )
        self.first = [1 + sum(counts[:number]) for number in range(len(counts))]
        self.table = table(sum(counts), 1, 0.0)

    def forward(self, slots_of: Mapping[str, Slots]) -> Tensor:
        """{field: slots (..., S)} -> (...), shapes broadcast: the sum over crosses of weight times
        the product of the slots' weights.

        A cross with a field that is missing from the argument adds nothing.
        """
        total: Tensor | float = 0.0
        for first, cross in zip(self.first, self.crosses, strict=True):
            if not all(name in slots_of for name, _ in cross):
                continue
            combination, weight = None, None
            for name, size in cross:
                slots = slots_of[name]
                code = slots.feature - self.start[name] - 1  # 0, 1, ...; negative where unknown
                known_weight = slots.weight * (slots.feature > 0)
                if combination is None or weight is None:
                    combination, weight = code, known_weight
                    continue
                # (..., S * S')
                combination = (combination.unsqueeze(-1) * size + code.unsqueeze(-2)).flatten(-2)
                weight = (weight.unsqueeze(-1) * known_weight.unsqueeze(-2)).flatten(-2)
            assert combination is not None and weight is not None
            rows = self.table((combination + first) * (weight != 0))
            total = total + (rows.squeeze(-1) * weight).sum(-1)
        if isinstance(total, float):
            return self.table.weight.new_zeros(())
        return total

    def extra_repr(self) -> str:
        return ", ".join(" x ".join(name for name, _ in cross) for cross in self.crosses)


def parts(fields: Fields, side: str, slots: Slots) -> dict[str, Slots]:
    """The slots of a side, field by field."""
    names = [*([] if side == "event" else [side]), *(field.name for field in fields.features[side])]
    widths = fields.widths(side)
    return {
        name: Slots(feature, weight)
        for name, feature, weight in zip(
            names,
            torch.split(slots.feature, widths, -1),
            torch.split(slots.weight, widths, -1),
            strict=True,
        )
    }
