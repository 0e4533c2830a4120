"""Which column of a source is the user, the item, the time, the value: guesses, each with its
reason, which a person confirms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, nearest
from recsys_spark.datasets.drafts.columns import Column

# Words of a column's name that speak for a role, the clearest first
WORDS: dict[str, tuple[str, ...]] = {
    c.USER_ID: (
        *("user", "userid", "customer", "customerid", "member", "visitor", "client", "account"),
        *("reviewer", "reviewerid", "shopper", "buyer", "reader", "listener", "viewer", "person"),
        *("profile", "uid", "u"),
    ),
    c.ITEM_ID: (
        *("item", "itemid", "product", "productid", "sku", "asin", "isbn", "article", "movie"),
        *("film", "track", "song", "artist", "book", "video", "news", "offer", "listing", "hotel"),
        *("restaurant", "business", "venue", "place", "game", "paper", "document", "recipe"),
        *("course", "content", "page", "url", "iid", "i"),
    ),
    c.TS: (
        *("ts", "timestamp", "time", "datetime", "unixreviewtime", "date", "at", "created"),
        *("when", "day", "t"),
    ),
    c.VALUE: (
        *("rating", "ratings", "stars", "value", "score", "overall", "weight", "count", "plays"),
        *("playcount", "quantity", "qty", "clicks", "amount"),
    ),
    c.SESSION_ID: ("session", "sessionid", "visit", "visitid", "basket"),
    c.ACTION: ("action", "event", "eventtype", "behavior", "behaviour", "kind"),
}
REQUIRED = (c.USER_ID, c.ITEM_ID)
# Words of names whose numbers repeat and yet identify nobody
_NO_ID = (
    *("step", "position", "pos", "rank", "index", "row", "line", "number", "no", "age", "price"),
    *("year", "month", "day", "hour", "minute", "size", "length", "duration"),
)
_NAME, _SHAPE, _GIVEN = "by its name", "by its values", "as given"


@dataclass(frozen=True)
class Role:
    column: Column
    why: str


def roles(columns: Sequence[Column], given: Mapping[str, str]) -> dict[str, Role]:
    """{role: column and reason}. given: {role: column named by the caller}.

    Raises ConfigError for a given column that is not there, and where no column can be the user or
    the item.
    """
    by_name = {column.name: column for column in columns}
    chosen: dict[str, Role] = {}
    for role, name in given.items():
        if name not in by_name:
            raise ConfigError(
                f"--{role.removesuffix('_id')}",
                found=repr(name),
                expected=f"one of {', '.join(by_name)}{nearest(name, by_name)}",
            )
        chosen[role] = Role(by_name[name], _GIVEN)
    # What fits a role by name is settled first, so that values decide among the rest alone
    for pick in (_by_name, _by_shape):
        for role in WORDS:
            if role in chosen:
                continue
            free = [column for column in columns if not _taken(column, chosen)]
            fitting = [column for column in free if _FITS[role](column)]
            if (guess := pick(role, fitting)) is not None:
                chosen[role] = guess
    for role in REQUIRED:
        if role not in chosen:
            option = f"--{role.removesuffix('_id')}"
            lists = ", ".join(column.name for column in columns if column.many)
            raise ConfigError(
                f"columns {', '.join(by_name)}",
                found=f"none that looks like the {role.removesuffix('_id')} (values that repeat)"
                + (f"; of several parts: {lists}" if lists else ""),
                expected="a column of users and one of items, a row for each event",
                remedy=f"name it with {option} COLUMN"
                + (
                    '; of a list make rows by `recsys-spark init "SELECT user, explode(split('
                    "items, ' ')) AS item FROM ...\"` (docs/own-data.md)"
                    if lists
                    else ""
                ),
            )
    return chosen


def words(name: str) -> list[str]:
    """The words of a column's name, and each two neighbours as one.

    >>> words("reviewerID"), words("purchased_at")
    (['reviewer', 'id', 'reviewerid'], ['purchased', 'at', 'purchasedat'])
    """
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    parts = [part for part in re.split(r"[^a-z0-9]+", parted.lower()) if part]
    return [*parts, *(first + second for first, second in zip(parts, parts[1:], strict=False))]


def _by_name(role: str, fitting: Sequence[Column]) -> Role | None:
    ranked = []
    for place, column in enumerate(fitting):
        hits = [WORDS[role].index(word) for word in words(column.name) if word in WORDS[role]]
        if hits:
            # A name that ends in "name" or "title" describes what another column identifies
            describes = words(column.name)[-1] in ("name", "title", "text")
            ranked.append((describes, min(hits), place, column))
    return Role(min(ranked)[-1], _NAME) if ranked else None


def _by_shape(role: str, fitting: Sequence[Column]) -> Role | None:
    """A time has a type or numbers that nothing else has. Ids are what repeats and has the most
    different values; of two, the user comes first in a row. Values and all others are never guessed
    from their numbers.
    """
    if not fitting or role not in (c.TS, *REQUIRED):
        return None
    if role == c.TS:
        return Role(fitting[0], _SHAPE)
    fitting = [
        column
        for column in fitting
        if not column.many and not set(words(column.name)) & {*_NO_ID, *WORDS[c.VALUE]}
    ]
    if not fitting:
        return None
    most = sorted(fitting, key=lambda column: -column.distinct)[: 2 if role == c.USER_ID else 1]
    return Role(min(most, key=fitting.index), _SHAPE)


def _taken(column: Column, chosen: Mapping[str, Role]) -> bool:
    return any(role.column.name == column.name for role in chosen.values())


def _is_id(column: Column) -> bool:
    fraction = column.numeric and not column.whole
    return column.repeats and not column.time and not fraction


_FITS: dict[str, Callable[[Column], bool]] = {
    c.USER_ID: _is_id,
    c.ITEM_ID: _is_id,
    c.TS: lambda column: bool(column.time),
    c.VALUE: lambda column: column.numeric and not column.time,
    c.SESSION_ID: lambda column: column.repeats,
    c.ACTION: lambda column: 0 < column.distinct <= 50 and not column.numeric,
}
