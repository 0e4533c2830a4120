"""Cross products of fields: a feature for every combination of their values, so that a linear model can remember each of them."""

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
    """One weight, which starts at zero, for each combination; row 0 is for those with an unknown value.

    crosses: names of fields, "user" and "item" among them; None: every category of users with every one of items.
    Raises ConfigError for a field that is not there, has no categories, or too many combinations.
    """

    def __init__(self, fields: Fields, crosses: Sequence[Sequence[str]] | None) -> None:
        super().__init__()
        sizes = {"user": fields.num_users, "item": fields.num_items, **{
            one.name: len(one.vocabulary) for side in fields.features.values() for one in side if one.kind != "number"}}
        if crosses is None:
            of = {side: [one.name for one in fields.features[side] if one.name in sizes] for side in ("user", "item")}
            crosses = [(mine, theirs) for mine in of["user"] for theirs in of["item"]]
        for name in (name for cross in crosses for name in cross):
            if name not in sizes:
                raise ConfigError("config.crosses", found=repr(name), expected=f"one of {', '.join(sizes)}{nearest(name, sizes)}",
                                  remedy="export the shards with that field as a category, or leave the cross out")
        self.start = {"user": 0, "item": fields.num_users, **fields.start}
        self.crosses = [[(name, sizes[name]) for name in cross] for cross in crosses]
        counts = [math.prod(size for _, size in cross) for cross in self.crosses]
        if sum(counts) > MOST:
            raise ConfigError("config.crosses", found=f"{sum(counts)} combinations", expected=f"at most {MOST}",
                              remedy="leave out the cross with the most values")
        self.first = [1 + sum(counts[:place]) for place in range(len(counts))]
        self.table = table(sum(counts), 1, 0.0)

    def forward(self, found: Mapping[str, Slots]) -> Tensor:
        """{field: slots (..., S)} -> (...), shapes broadcast: the sum over crosses of weight times the product of the slots' weights.

        Of a field that is not among them nothing is known.
        """
        total: Tensor | float = 0.0
        for first, cross in zip(self.first, self.crosses, strict=True):
            if not all(name in found for name, _ in cross):
                continue
            place, weight = None, None
            for name, size in cross:
                slots = found[name]
                code = slots.feature - self.start[name] - 1  # 0, 1, ...; negative where unknown
                here = slots.weight * (slots.feature > 0)
                if place is None or weight is None:
                    place, weight = code, here
                    continue
                place = (place.unsqueeze(-1) * size + code.unsqueeze(-2)).flatten(-2)  # (..., S * S')
                weight = (weight.unsqueeze(-1) * here.unsqueeze(-2)).flatten(-2)
            assert place is not None and weight is not None
            rows = self.table((place + first) * (weight != 0))
            total = total + (rows.squeeze(-1) * weight).sum(-1)
        if isinstance(total, float):
            return self.table.weight.new_zeros(())
        return total

    def extra_repr(self) -> str:
        return ", ".join(" x ".join(name for name, _ in cross) for cross in self.crosses)


def parts(fields: Fields, side: str, slots: Slots) -> dict[str, Slots]:
    """The slots of a side, field by field."""
    names = [*([] if side == "event" else [side]), *(one.name for one in fields.features[side])]
    widths = fields.widths(side)
    return {name: Slots(feature, weight) for name, feature, weight in zip(
        names, torch.split(slots.feature, widths, -1), torch.split(slots.weight, widths, -1), strict=True)}
