"""The columnar engine: rows are fetched once as Arrow tables, numpy builds the blocks, threads
measure them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from recsys_spark.core import columns as c
from recsys_spark.etl import row_key
from recsys_spark.etl.evaluation.engine import Facts, Source, clicks, credited, top_values
from recsys_spark.metrics import blocks, ctr, exposure, partials, row_blocks, slices
from recsys_spark.metrics.blocks import NAN, UNKNOWN, Settings
from recsys_spark.metrics.catalogue import Catalogue
from recsys_spark.metrics.partials import Partial
from recsys_spark.metrics.ragged import dense, distinct

Ints = NDArray[np.integer]


class Tables(NamedTuple):
    """Of an evaluation, in this process."""

    rows: pa.Table  # evaluated events
    known: pa.Table  # events before them
    items: pa.Table
    user_fields: pa.Table | None
    item_fields: pa.Table | None


def _fetch(source: Source) -> Tables:
    """All of it at once: the threads mostly wait for Spark."""
    frames = (source.rows, source.known, source.items, source.user_fields, source.item_fields)
    with ThreadPoolExecutor(4) as pool:
        futures = [None if frame is None else pool.submit(frame.toArrow) for frame in frames]
        return Tables(*(None if future is None else future.result() for future in futures))


class Columnar:
    """Holds the evaluated users, their targets and their known items; rows of a run only while they
    are measured.
    """

    def __init__(self, source: Source) -> None:
        tables = _fetch(source)
        self.rows, self.items = tables.rows, tables.items
        user, item = self.rows[c.QUERY_IDX].to_numpy(), self.rows[c.ITEM_IDX].to_numpy()
        self.users, first, self.row_user = np.unique(user, return_index=True, return_inverse=True)
        self.query_ids = self.rows[c.QUERY_ID].take(pa.array(first)).combine_chunks()
        self.item_idx = self.items[c.ITEM_IDX].to_numpy()
        self.targets = self._lists(self.row_user, item, once=True)
        known_user = tables.known[c.QUERY_IDX].to_numpy()
        place = self._place(known_user)
        self.known = self._lists(place[place >= 0], tables.known[c.ITEM_IDX].to_numpy()[place >= 0])
        self.events = self._count(known_user[tables.known["counted"].to_numpy()])
        self.fields = {
            name: _aligned(tables.user_fields, name, c.QUERY_ID, self.query_ids)
            for name in _fields(tables.user_fields)
        }
        self.facts = self._facts(tables, item)
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def _facts(self, tables: Tables, item: np.ndarray) -> Facts:
        """item: int (rows,) of the evaluated rows."""
        trained = tables.known["trained"].to_numpy()
        values = tables.known[c.VALUE].to_numpy()[trained]
        trained_items = tables.known[c.ITEM_IDX].to_numpy()[trained]
        size = int(max(self.item_idx.max(initial=0), item.max(initial=0)))
        train_events = np.bincount(trained_items, minlength=size + 1)
        of_items = {
            name: _by_number(tables.item_fields, name, self.items, size)
            for name in _fields(tables.item_fields)
        }
        evaluated = np.bincount(item, minlength=size + 1)
        catalogue = credited(Catalogue.of(train_events, of_items, evaluated), self.items)
        return Facts(
            num_users=len(self.users),
            num_rows=len(item),
            unseen_rows=int((train_events[item] == 0).sum()),
            users=self._slices(),
            catalogue=catalogue,
            mean=float(f"{values.mean():.6g}") if len(values) else 0.0,
            low=float(values.min(initial=np.inf)),
            high=float(values.max(initial=-np.inf)),
            binary=bool(np.isin(self.rows[c.VALUE].to_numpy(), (0.0, 1.0)).all()),
        )

    def _slices(self) -> slices.Users:
        quartiles = np.quantile(self.events, [0.25, 0.5, 0.75]) if len(self.users) else np.zeros(0)
        counts = {name: Counter(column.to_pylist()) for name, column in self.fields.items()}
        return slices.Users(
            bounds=tuple(quartiles.tolist()),
            tell_new=bool((self.events == 0).any() and (self.events > 0).any()),
            fields=top_values(counts),
        )

    def ranking(self, entries: DataFrame, settings: Settings) -> Partial:
        rows, user, item, strangers = self._scored(
            entries.select(c.QUERY_ID, c.ITEM_ID, c.SCORE, c.RANK)
        )
        code = np.where(np.isnan(rows[c.SCORE].to_numpy()), NAN, item)
        order = np.lexsort((code, rows[c.RANK].to_numpy(), user))
        lists = self._lists(user[order], code[order], sort=False)
        shown = {}
        if any(name in settings.metrics for name in exposure.METRICS):
            items = np.maximum(dense(pa.chunked_array([lists]), max(settings.ks)), 0)
            counts = exposure.count(
                exposure.without_repeats(items), settings.ks, len(settings.catalogue.events) - 1
            )
            shown = exposure.parts(counts, settings.catalogue, settings.num_users, settings.metrics)
        partial = self._measure(
            {"targets": self.targets, "items": lists, "known": self.known},
            lambda block: settings.ranking(block, shown),
        )
        return partials.merge([partial, Partial({}, {"lists_without_target": strangers})])

    def candidates(self, entries: DataFrame, settings: Settings) -> Partial:
        rows, user, item, strangers = self._scored(entries.select(c.QUERY_ID, c.ITEM_ID, c.SCORE))
        scores = rows[c.SCORE].to_numpy()
        order = np.lexsort((scores, item, user))
        offsets = self._offsets(user)
        columns = {
            "candidates": pa.ListArray.from_arrays(offsets, pa.array(item[order].astype(np.int32))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[order])),
        }
        partial = self._measure(
            {"targets": self.targets, **columns},
            lambda block: blocks.candidate_block(block, settings),
        )
        return partials.merge([partial, Partial({}, {"lists_without_target": strangers})])

    def rating(self, predictions: DataFrame, settings: Settings) -> Partial:
        rows = predictions.select(c.QUERY_ID, c.ITEM_ID, c.VALUE).toArrow()
        repeated = len(rows) - len(rows.group_by([c.QUERY_ID, c.ITEM_ID]).aggregate([]))
        user, item = _index(rows[c.QUERY_ID], self.query_ids), self._items(rows[c.ITEM_ID])
        value = rows[c.VALUE].to_numpy()
        valid = (user >= 0) & (item >= 0)
        span = np.int64(len(settings.catalogue.events))
        key, value = _least((user * span + item)[valid], value[valid])
        evaluated_keys = self.row_user * span + self.rows[c.ITEM_IDX].to_numpy()
        at = np.minimum(np.searchsorted(key, evaluated_keys), max(0, len(key) - 1))
        predicted = (
            np.where(key[at] == evaluated_keys, value[at], np.nan)
            if len(key)
            else np.full(len(evaluated_keys), np.nan)
        )
        finite = np.isfinite(predicted)
        columns = self._rows(np.where(finite, predicted, self.facts.mean), missing=~finite)
        partial = self._measure(columns, lambda block: row_blocks.rating_block(block, settings))
        return partials.merge([partial, Partial({}, {"repeated_predictions": repeated})])

    def click(self, predictions: DataFrame, settings: Settings) -> Partial:
        rows = predictions.select(c.ROW_KEY, c.VALUE).toArrow()
        repeated = len(rows) - pc.count_distinct(rows[c.ROW_KEY]).as_py()
        keys = row_key.array(self.rows)
        at = _index(rows[c.ROW_KEY], keys.combine_chunks())
        at, value = _least(at[at >= 0], rows[c.VALUE].to_numpy()[at >= 0])
        predicted = np.full(len(keys), np.nan)
        predicted[at] = value
        finite = np.isfinite(predicted)
        p = np.clip(np.where(finite, predicted, self.facts.mean), 0.0, 1.0)
        curve = ctr.Curve.of_rows(p, self.rows[c.VALUE].to_numpy())
        columns = self._rows(p, missing=~finite, outside=finite & (predicted != p))
        partial = self._measure(
            columns, lambda block: row_blocks.click_block(block, settings, curve)
        )
        return clicks([partial], settings, curve, repeated)

    def close(self) -> None:
        self.pool.shutdown()

    def _measure(
        self, columns: dict[str, pa.Array], measure: Callable[[pa.Table], Partial]
    ) -> Partial:
        """columns: one entry per evaluated user, in order of query_idx."""
        base = {c.QUERY_IDX: pa.array(self.users), "events": pa.array(self.events)}
        table = pa.table(
            base
            | {
                blocks.field_column(number): column
                for number, column in enumerate(self.fields.values())
            }
            | columns
        )
        block = partials.block_of(self.users, len(self.users))
        parts = [
            np.flatnonzero(block == number)
            for number in range(partials.num_blocks(len(self.users)))
        ]
        filled = [number for number, part in enumerate(parts) if len(part)]
        measured = self.pool.map(
            lambda number: measure(table.take(pa.array(parts[number]))), filled
        )
        return partials.merge_groups(dict(zip(filled, measured, strict=True)))

    def _rows(
        self, predictions: NDArray[np.float64], **counted: NDArray[np.bool_]
    ) -> dict[str, pa.Array]:
        """Columns of `row_blocks` from a prediction for every evaluated row. counted: flags by row;
        each becomes a column with the number of flagged rows per user.
        """
        item, label, ts = (self.rows[name].to_numpy() for name in (c.ITEM_IDX, c.VALUE, c.TS))
        order, offsets = (
            np.lexsort((predictions, label, ts, item, self.row_user)),
            self._offsets(self.row_user),
        )
        lists = {"items": item, "labels": label, "predictions": predictions}
        columns = {
            name: pa.ListArray.from_arrays(offsets, pa.array(values[order]))
            for name, values in lists.items()
        }
        return columns | {
            name: pa.array(np.bincount(self.row_user[rows], minlength=len(self.users)))
            for name, rows in counted.items()
        }

    def _scored(self, entries: DataFrame) -> tuple[pa.Table, Ints, Ints, int]:
        """(rows of evaluated users, places of these users, item or UNKNOWN, number of queries that
        are not evaluated users).
        """
        rows = entries.toArrow()
        user = _index(rows[c.QUERY_ID], self.query_ids)
        if (user < 0).any():
            strangers = pc.count_distinct(rows[c.QUERY_ID].filter(pa.array(user < 0))).as_py()
            rows, user = rows.filter(pa.array(user >= 0)), user[user >= 0]
        else:
            strangers = 0
        scores = pc.fill_null(rows[c.SCORE], float("nan"))
        rows = rows.set_column(rows.column_names.index(c.SCORE), c.SCORE, scores)
        return rows, user, self._items(rows[c.ITEM_ID]), strangers

    def _items(self, ids: pa.ChunkedArray) -> Ints:
        at = _index(ids, self.items[c.ITEM_ID].combine_chunks())
        return (
            np.where(at >= 0, self.item_idx[at], UNKNOWN)
            if len(self.item_idx)
            else np.full(len(at), UNKNOWN)
        )

    def _place(self, user: Ints) -> Ints:
        """The place of each user among the evaluated ones, or -1."""
        if not len(self.users):
            return np.full(len(user), -1)
        at = np.minimum(np.searchsorted(self.users, user), len(self.users) - 1)
        return np.where(self.users[at] == user, at, -1)

    def _count(self, user: Ints) -> Ints:
        place = self._place(user)
        return np.bincount(place[place >= 0], minlength=len(self.users))

    def _offsets(self, place: Ints) -> pa.Array:
        ends = np.cumsum(np.bincount(place, minlength=len(self.users)))
        return pa.array(np.concatenate([[0], ends]).astype(np.int32))

    def _lists(
        self, place: Ints, items: Ints, *, sort: bool = True, once: bool = False
    ) -> pa.Array:
        """One list per evaluated user. once: each item once, in order."""
        if once:
            packed = distinct(place * (np.int64(1) << 32) + items)
            place, items = packed >> 32, packed & 0xFFFFFFFF
        elif sort:
            order = np.argsort(place, kind="stable")
            place, items = place[order], items[order]
        return pa.ListArray.from_arrays(self._offsets(place), pa.array(items.astype(np.int32)))


def _index(ids: pa.ChunkedArray, among: pa.Array) -> Ints:
    """The position of each id in `among`, or -1."""
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)


def _least(key: Ints, value: NDArray[np.float64]) -> tuple[Ints, NDArray[np.float64]]:
    """(distinct keys, ascending; least value of each key, NaN only for a key without numbers)."""
    order = np.lexsort((value, key))
    key, value = key[order], value[order]
    first = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    return key[first], value[first]


def _fields(table: pa.Table | None) -> list[str]:
    return [] if table is None else table.column_names[1:]


def _aligned(table: pa.Table, name: str, key: str, ids: pa.Array) -> pa.Array:
    """The field's value for each id; null where the table has none."""
    at = pc.index_in(ids, value_set=table[key].combine_chunks())
    return table[name].combine_chunks().take(at).cast(pa.string())


def _by_number(table: pa.Table, name: str, items: pa.Table, size: int) -> list[str | None]:
    """The field's values for items 0..size."""
    values: list[str | None] = [None] * (size + 1)
    column = _aligned(table, name, c.ITEM_ID, items[c.ITEM_ID].combine_chunks()).to_pylist()
    for number, value in zip(items[c.ITEM_IDX].to_pylist(), column, strict=True):
        values[number] = value
    return values
