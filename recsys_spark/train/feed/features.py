"""Fills the buffers of a model's `Fields` from the side files of users and items. The files are
memory-mapped and copied once.
"""

from __future__ import annotations

import numpy as np
import torch

from recsys_spark.core.contracts import Feature, ShardSet
from recsys_spark.models.base import Model
from recsys_spark.nn.fields import Fields
from recsys_spark.train.data import places


def fill(model: Model, folder: str, shards: ShardSet) -> None:
    """Fill every `Fields` of the model with the shard set's fields of users and items."""
    for fields in model.modules():
        if isinstance(fields, Fields):
            for side, entities in (("user", shards.num_users), ("item", shards.num_items)):
                if fields.features[side]:
                    index, weight = _side(folder, fields, side, entities + 1)
                    fields.fill(side, torch.from_numpy(index), torch.from_numpy(weight))


def _side(folder: str, fields: Fields, side: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns index int32 (rows, S) and weight float32 (rows, S)."""
    slots = sum(feature.slots for feature in fields.features[side])
    index, weight = np.zeros((rows, slots), np.int32), np.zeros((rows, slots), np.float32)
    first = 0
    for feature in fields.features[side]:
        columns = slice(first, first + feature.slots)
        start = fields.start[feature.name]
        fill_field = _numbers if feature.kind == "number" else _codes
        fill_field(folder, feature, start, index[:, columns], weight[:, columns])
        first += feature.slots
    return index, weight


def _codes(
    folder: str, feature: Feature, start: int, index: np.ndarray, weight: np.ndarray
) -> None:
    assert feature.codes is not None, f"field {feature.name} has no side file"
    indptr, codes = (
        np.load(places.side(folder, name, digest), mmap_mode="r")
        if entries
        else np.zeros(0, np.int32)
        for name, digest, entries in (
            (feature.codes.indptr, feature.codes.indptr_digest, feature.codes.rows + 1),
            (feature.codes.indices, feature.codes.indices_digest, feature.codes.entries),
        )
    )
    counts = np.diff(indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(codes)) - np.repeat(indptr[:-1], counts)
    index[row, slot] = start + codes
    weight[row, slot] = (1.0 / np.maximum(counts, 1))[row]


def _numbers(
    folder: str, feature: Feature, start: int, index: np.ndarray, weight: np.ndarray
) -> None:
    assert feature.numbers is not None, f"field {feature.name} has no side file"
    values = (
        np.load(places.side(folder, feature.numbers.path, feature.numbers.digest), mmap_mode="r")
        - feature.mean
    ) / feature.std
    finite = np.isfinite(values)
    index[:, 0], weight[:, 0] = np.where(finite, start + 1, 0), np.where(finite, values, 0.0)
