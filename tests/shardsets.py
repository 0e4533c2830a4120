"""Valid shard sets without Spark: small planted worlds for the tests of the reader, the training
loop and the models.

`pointwise(folder)`, `profile(folder)` and `pairs(folder)` write a planted world, split
leave-last-out; `write(...)` writes any tables, one a virtual shard. All return the ShardSet whose
manifest they wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Mapping, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.core import artifacts, columns, shardset
from recsys_spark.core.contracts import (
    MANIFEST,
    Column,
    Csr,
    Feature,
    Numbers,
    Part,
    ShardFile,
    ShardSet,
)

POINTWISE = (
    Column(name=columns.QUERY_IDX, dtype="int32"),
    Column(name=columns.ITEM_IDX, dtype="int32"),
    Column(name=columns.LABEL, dtype="float32"),
)
PROFILE = (
    Column(name=columns.QUERY_IDX, dtype="int32"),
    Column(name=columns.ITEM_IDX, dtype="int32", shape=(-1,)),
    Column(name=columns.VALUE, dtype="float32", shape=(-1,)),
)
_HELD = (
    Column(name=columns.VALUE, dtype="float32", shape=(-1,)),
    Column(name=columns.HELD_IDX, dtype="int32", shape=(-1,)),
    Column(name=columns.HELD_VALUE, dtype="float32", shape=(-1,)),
)
PROFILES = {
    "user": (*PROFILE[:2], *_HELD),
    "item": (
        Column(name=columns.ITEM_IDX, dtype="int32"),
        Column(name=columns.QUERY_IDX, dtype="int32", shape=(-1,)),
        *_HELD,
    ),
}
PAIRS = POINTWISE[:2]


class Events(NamedTuple):
    """Rows (user, item, value), grouped by user in the order they happened; indices from 1."""

    user: np.ndarray  # int32 (E,)
    item: np.ndarray  # int32 (E,)
    value: np.ndarray  # float32 (E,), 1..5

    def where(self, mask: np.ndarray) -> Events:
        return Events(*(column[mask] for column in self))


def planted(num_users: int = 60, num_items: int = 40, per_user: int = 12, seed: int = 0) -> Events:
    """Users and items have a taste (2 numbers); users meet items they like more often, without
    repeats, and rate them by taste.
    """
    rng = np.random.default_rng(seed)
    per_user = min(per_user, num_items)
    taste = rng.normal(size=(num_users, 2)) @ rng.normal(size=(2, num_items))  # (U, I)
    # (U, per_user), no repeats
    met = np.argsort(-(1.5 * taste + rng.gumbel(size=taste.shape)), axis=1)[:, :per_user]
    met = rng.permuted(met, axis=1)
    value = np.clip(np.round(3.0 + np.take_along_axis(taste, met, axis=1)), 1, 5)
    return Events(
        np.repeat(np.arange(1, num_users + 1, dtype=np.int32), per_user),
        (met + 1).ravel().astype(np.int32),
        value.ravel().astype(np.float32),
    )


def leave_last_out(events: Events) -> tuple[Events, Events]:
    """(train, held): each user's last event is held."""
    last = np.append(events.user[1:] != events.user[:-1], True)
    return events.where(~last), events.where(last)


def pointwise(
    folder: str | Path,
    num_users: int = 60,
    num_items: int = 40,
    per_user: int = 12,
    seed: int = 0,
    *,
    virtual_shards: int = 64,
    row_group: int = 16,
    fields: bool = False,
    clicks: bool = False,
) -> ShardSet:
    """Parts train and valid of (query_idx, item_idx, label), side files seen and targets.

    fields: users, items and events have random ones (`features`). clicks: the label says whether
    the value is above 3.
    """
    train, held = leave_last_out(planted(num_users, num_items, per_user, seed))
    if clicks:
        train, held = (
            events._replace(value=(events.value > 3).astype(np.float32)) for events in (train, held)
        )
    made = features(Path(folder), num_users, num_items, seed) if fields else ()
    rng = np.random.default_rng(seed)
    parts = {}
    for name, events in ((columns.TRAIN, train), (columns.VALID, held)):
        rows = pa.table(
            {
                columns.QUERY_IDX: events.user,
                columns.ITEM_IDX: events.item,
                columns.LABEL: events.value,
                **(
                    {
                        "event_hour": rng.integers(0, 4, len(events.user), np.int32),
                        "ts": rng.integers(1000, 2000, len(events.user)),
                        "event_position": rng.normal(size=len(events.user)).astype(np.float32),
                    }
                    if fields
                    else {}
                ),
            }
        )
        parts[name] = deal(rows, virtual_shards, seed)
    return write(
        folder,
        "pointwise",
        (*POINTWISE, *(EVENT if fields else ())),
        parts,
        virtual_shards=virtual_shards,
        row_group=row_group,
        num_users=num_users,
        num_items=num_items,
        side={"seen": train, "targets": held},
        labels=train.value,
        fields=made,
    )


EVENT = (
    Column(name="event_hour", dtype="int32"),
    Column(name="ts", dtype="int64"),
    Column(name="event_position", dtype="float32"),
)


def features(root: Path, num_users: int, num_items: int, seed: int = 0) -> tuple[Feature, ...]:
    """A category and a number of users, tags of items, and what EVENT holds. User 1 has no
    category, user 2 no number, item 1 no tag.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)

    def codes(name: str, rows: int, most: int) -> Csr:
        lists = [
            np.sort(rng.permutation(3)[: rng.integers(1, most + 1)] + 1)
            if row > 1
            else np.zeros(0, int)
            for row in range(rows + 1)
        ]
        entity = np.repeat(np.arange(rows + 1), [len(one) for one in lists])
        return _csr(
            root, name, Events(entity, np.concatenate(lists).astype(np.int32), np.zeros(0)), rows
        )

    income = np.append([np.nan], rng.normal(50, 9, num_users)).astype(np.float32)
    income[2] = np.nan
    np.save(root / "user.income.npy", income)
    return (
        Feature(
            name="age",
            side="user",
            kind="category",
            vocabulary=("18", "25", "35"),
            codes=codes("user.age", num_users, 1),
        ),
        Feature(
            name="income",
            side="user",
            kind="number",
            mean=50.0,
            std=9.0,
            numbers=Numbers(
                path="user.income.npy",
                rows=num_users + 1,
                digest=artifacts.file_digest(root / "user.income.npy"),
            ),
        ),
        Feature(
            name="genres",
            side="item",
            kind="tags",
            vocabulary=("Comedy", "Drama", "War"),
            slots=3,
            codes=codes("item.genres", num_items, 3),
        ),
        Feature(name="hour", side="event", kind="category", vocabulary=("0", "1", "2")),
        Feature(name="ts", side="event", kind="time", low=1000.0, high=2000.0),
        Feature(name="position", side="event", kind="number"),
    )


def profile(
    folder: str | Path,
    num_users: int = 60,
    num_items: int = 40,
    per_user: int = 12,
    seed: int = 0,
    *,
    virtual_shards: int = 64,
    row_group: int = 16,
) -> ShardSet:
    """Part train of (query_idx, item_idx list, value list), items sorted; side files seen and
    targets.
    """
    train, held = leave_last_out(planted(num_users, num_items, per_user, seed))
    train = Events(*(column[np.lexsort((train.item, train.user))] for column in train))
    indptr = _indptr(train.user, num_users)[1:].astype(np.int32)
    rows = pa.table(
        {
            columns.QUERY_IDX: np.arange(1, num_users + 1, dtype=np.int32),
            columns.ITEM_IDX: pa.ListArray.from_arrays(indptr, train.item),
            columns.VALUE: pa.ListArray.from_arrays(indptr, train.value),
        }
    )
    return write(
        folder,
        "profile",
        PROFILE,
        {columns.TRAIN: deal(rows, virtual_shards, seed)},
        virtual_shards=virtual_shards,
        row_group=row_group,
        num_users=num_users,
        num_items=num_items,
        side={"seen": train, "targets": held},
        labels=train.value,
    )


def ratings(
    folder: str | Path,
    by: str = "user",
    num_users: int = 60,
    num_items: int = 40,
    per_user: int = 12,
    seed: int = 0,
    *,
    virtual_shards: int = 64,
    row_group: int = 16,
) -> ShardSet:
    """Profiles of users (or items) with values; part valid has the held-out entries of each beside
    its training profile, which is empty for user 1: all of that user's events are held.
    """
    train, held = leave_last_out(planted(num_users, num_items, per_user, seed))
    held = Events(
        *(np.concatenate(both) for both in zip(held, train.where(train.user == 1), strict=True))
    )
    train = train.where(train.user != 1)
    of, other = (0, 1) if by == "user" else (1, 0)
    entities = {
        name: np.unique(events[of])
        for name, events in ((columns.TRAIN, train), (columns.VALID, held))
    }
    parts = {}
    for name, mine in entities.items():
        (met, values), (held_met, held_values) = (
            _lists(events, of, other, mine)
            for events in (train, held if name == columns.VALID else held.where(held.user < 0))
        )
        rows = {
            (columns.QUERY_IDX, columns.ITEM_IDX)[of]: pa.array(mine),
            (columns.QUERY_IDX, columns.ITEM_IDX)[other]: met,
            columns.VALUE: values,
            columns.HELD_IDX: held_met,
            columns.HELD_VALUE: held_values,
        }
        parts[name] = deal(pa.table(rows), virtual_shards, seed)
    made = write(
        folder,
        "profile",
        PROFILES[by],
        parts,
        virtual_shards=virtual_shards,
        row_group=row_group,
        num_users=num_users,
        num_items=num_items,
        side={"seen": train, "targets": held},
        labels=train.value,
    )
    return seal(folder, made.model_copy(update={"by": by}))


def _lists(
    events: Events, of: int, other: int, entities: np.ndarray
) -> tuple[pa.ListArray, pa.ListArray]:
    """What each of the entities met, sorted, and the values beside."""
    order = np.lexsort((events[other], events[of]))
    ends = np.searchsorted(events[of][order], entities, side="right")
    starts = np.searchsorted(events[of][order], entities, side="left")
    picked = np.concatenate(
        [order[start:end] for start, end in zip(starts, ends, strict=True)]
    ).astype(int)
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, events[other][picked]), pa.ListArray.from_arrays(
        offsets, events.value[picked]
    )


def pairs(
    folder: str | Path,
    num_users: int = 60,
    num_items: int = 40,
    per_user: int = 12,
    seed: int = 0,
    *,
    virtual_shards: int = 64,
    row_group: int = 16,
) -> ShardSet:
    """Part train of (query_idx, item_idx), side files seen and targets."""
    train, held = leave_last_out(planted(num_users, num_items, per_user, seed))
    rows = pa.table({columns.QUERY_IDX: train.user, columns.ITEM_IDX: train.item})
    return write(
        folder,
        "pairs",
        PAIRS,
        {columns.TRAIN: deal(rows, virtual_shards, seed)},
        virtual_shards=virtual_shards,
        row_group=row_group,
        num_users=num_users,
        num_items=num_items,
        side={"seen": train, "targets": held},
    )


SEQUENCE = tuple(
    Column(name=name, dtype="int32") for name in (columns.QUERY_IDX, columns.FIRST, columns.LAST)
)


def sequence(
    folder: str | Path,
    num_users: int = 60,
    num_items: int = 40,
    per_user: int = 12,
    seed: int = 0,
    *,
    row_targets: int = 4,
    later: np.ndarray | None = None,
    ages: np.ndarray | None = None,
    virtual_shards: int = 64,
    row_group: int = 16,
) -> ShardSet:
    """Part train of (query_idx, first, last), side files seen, targets and history. later: of each
    training event, 0 where it has the time of the one before it; None: all are later. ages: of each
    too, a side file more.
    """
    train, held = leave_last_out(planted(num_users, num_items, per_user, seed))
    lasts = [
        (user, last)
        for user in range(1, num_users + 1)
        for last in range(per_user - 1, 1, -row_targets)
    ]
    users, last = np.array(lasts, np.int32).T
    first = np.maximum(last - row_targets, 1).astype(np.int32)
    rows = pa.table({columns.QUERY_IDX: users, columns.FIRST: first, columns.LAST: last})
    made = write(
        folder,
        "sequence",
        SEQUENCE,
        {columns.TRAIN: deal(rows, virtual_shards, seed)},
        virtual_shards=virtual_shards,
        row_group=row_group,
        num_users=num_users,
        num_items=num_items,
        side={"seen": train, "targets": held},
    )
    root = Path(folder)
    ordered = {columns.HISTORY: _ordered(root, columns.HISTORY, train, num_users, later)}
    if ages is not None:
        ordered[columns.AGES] = _ordered(root, columns.AGES, train, num_users, ages)
    return seal(
        root,
        made.model_copy(
            update={
                "side": made.side | ordered,
                "statistics": {columns.ROW_TARGETS: float(row_targets)},
            }
        ),
    )


def _ordered(
    root: Path, name: str, events: Events, num_users: int, later: np.ndarray | None
) -> Csr:
    """The events as they are, with whether each is later than the one before it."""
    flags = np.ones(len(events.item)) if later is None else later
    arrays = {
        "indptr": _indptr(events.user, num_users),
        "indices": events.item,
        "values": flags.astype(np.float32),
    }
    paths = {kind: f"{name}.{kind}.npy" for kind in arrays}
    for kind, array in arrays.items():
        np.save(root / paths[kind], array)
    digests = {f"{kind}_digest": artifacts.file_digest(root / path) for kind, path in paths.items()}
    return Csr(rows=num_users + 1, entries=len(events.item), ordered=True, **paths, **digests)


def deal(rows: pa.Table, virtual_shards: int, seed: int = 0) -> list[pa.Table]:
    """Shuffled and dealt so that counts differ by at most one."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows.take(order[v::virtual_shards]).combine_chunks() for v in range(virtual_shards)]


def write(
    folder: str | Path,
    layout: str,
    shape: tuple[Column, ...],
    parts: Mapping[str, Iterable[pa.Table]],
    *,
    num_users: int,
    num_items: int,
    virtual_shards: int = 64,
    row_group: int = 16,
    side: dict[str, Events] | None = None,
    labels: np.ndarray | None = None,
    fields: tuple[Feature, ...] = (),
) -> ShardSet:
    """One table for each virtual shard in turn (empty ones get no file), row groups of `row_group`
    rows, the manifest last.
    """
    root = Path(folder)
    made = {
        name: Part(
            files=tuple(
                _file(root, f"{name}/v{v:02d}.parquet", v, table, row_group)
                for v, table in enumerate(tables)
                if len(table)
            )
        )
        for name, tables in parts.items()
    }
    sides = {name: _csr(root, name, events, num_users) for name, events in (side or {}).items()}
    statistics = (
        {}
        if labels is None
        else {
            "label_count": float(len(labels)),
            "label_mean": float(labels.mean()),
            "label_min": float(labels.min()),
            "label_max": float(labels.max()),
        }
    )
    shards = ShardSet(
        layout=layout,
        columns=shape,
        parts=made,
        virtual_shards=virtual_shards,
        num_users=num_users,  # type: ignore[arg-type]
        num_items=num_items,
        side=sides,
        statistics=statistics,
        features=fields,
        split="leave_last_out",
    )
    return seal(root, shards)


def seal(folder: str | Path, shards: ShardSet) -> ShardSet:
    """Writes the manifest, with its fingerprint."""
    shards = shardset.sealed(shards)
    artifacts.write_model(Path(folder) / MANIFEST, shards)
    return shards


def _file(root: Path, path: str, v: int, table: pa.Table, row_group: int) -> ShardFile:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        root / path,
        row_group_size=row_group,
        compression="none",
        use_dictionary=[columns.LABEL],
        write_statistics=False,
        write_page_checksum=True,
        store_schema=False,
    )
    meta = pq.read_metadata(root / path)
    groups = tuple(meta.row_group(g).num_rows for g in range(meta.num_row_groups))
    return ShardFile(
        path=path,
        virtual_shard=v,
        row_groups=groups,
        bytes=(root / path).stat().st_size,
        digest=artifacts.file_digest(root / path),
    )


def _csr(root: Path, name: str, events: Events, num_users: int) -> Csr:
    """Row u holds the sorted items of user u; row 0 is empty."""
    order = np.lexsort((events.item, events.user))
    np.save(root / f"{name}.indptr.npy", _indptr(events.user, num_users))
    np.save(root / f"{name}.indices.npy", events.item[order])
    digests = [artifacts.file_digest(root / f"{name}.{kind}.npy") for kind in ("indptr", "indices")]
    return Csr(
        indptr=f"{name}.indptr.npy",
        indices=f"{name}.indices.npy",
        rows=num_users + 1,
        entries=len(events.item),
        indptr_digest=digests[0],
        indices_digest=digests[1],
    )


def _indptr(user: np.ndarray, num_users: int) -> np.ndarray:
    """int64 (U + 2,): the start of every row of 0..U, and the end."""
    return np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users + 1))]).astype(
        np.int64
    )
