"""`source:` of an ingest step: where a team's events, users, items and impressions lie, and which
of their columns, or SQL expressions over these, the lake's tables take.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator

from recsys_spark.core import columns as c
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import nearest
from recsys_spark.datasets.files.spec import Dataset, File, Unit

# Forms of files, and the endings by which each is known; `opened` has what reads them
FORMS: dict[str, tuple[str, ...]] = {
    "delimited": (".csv", ".tsv", ".txt", ".dat"),
    "json": (".json", ".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
    "orc": (".orc",),
    "avro": (".avro",),
}
EVENT_COLUMNS = (
    *(c.USER_ID, c.ITEM_ID, c.TS, c.VALUE),
    *(c.SESSION_ID, c.ACTION, c.POSITION, c.STEP, c.IMPRESSION_ID),
)


def _tab(value: str) -> str:
    """In single quotes YAML leaves \\t as it is; no file is split by these two letters."""
    return "\t" if value == "\\t" else value


def _is_zone(value: str) -> str:
    if value not in available_timezones():
        close = nearest(value, available_timezones())
        raise ValueError(f"a time zone such as Europe/Berlin or UTC{close}")
    return value


Separator = Annotated[str, Field(min_length=1), AfterValidator(_tab)]
Zone = Annotated[str, AfterValidator(_is_zone)]


class Entry(Settings):
    """One of `files`, `table` and `query`, and the mapping of its columns."""

    fills: ClassVar[str]  # the table of the lake
    known: ClassVar[tuple[str, ...]]  # its columns
    needed: ClassVar[tuple[str, ...]]  # those that `columns` must name

    # A file, a folder or a pattern; a path of this machine or a URL such as s3://
    files: str | None = Field(None, min_length=1)
    format: str | None = None  # one of FORMS; null: by the files' endings
    # Path or URL of a Delta table, or the name of any table or view that the session knows
    table: str | None = Field(None, min_length=1)
    version: int | None = Field(None, ge=0)  # of a Delta table; null: the latest
    query: str | None = Field(None, min_length=1)  # SQL
    # Of delimited files: with a header, their columns have its names, else those of `names`
    separator: Separator = ","
    header: bool = True
    names: tuple[str, ...] = ()
    quoted: bool = True
    multiline: bool = False  # quoted text may go over several lines
    encoding: Literal["UTF-8", "ISO-8859-1"] = "UTF-8"
    # {column of the lake's table: column of the source, or SQL expression over its columns}
    columns: dict[str, str] = Field(default_factory=dict)
    # Further columns, into `context` of an event or `fields` of a user or item: names, or {name:
    # SQL expression}
    keep: dict[str, str] = Field(default_factory=dict)

    @field_validator("format")
    @classmethod
    def _is_a_form(cls, value: str | None) -> str | None:
        if value is not None and value not in FORMS:
            raise ValueError(f"one of {', '.join(FORMS)}{nearest(value, FORMS)}")
        return value

    @field_validator("keep", mode="before")
    @classmethod
    def _names_are_expressions(cls, value: Any) -> Any:
        return {name: f"`{name}`" for name in value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _is_whole(self) -> Entry:
        places = [name for name in ("files", "table", "query") if getattr(self, name)]
        if len(places) != 1:
            raise ValueError(f"one of files, table and query, not {' and '.join(places) or 'none'}")
        if self.version is not None and not self.table:
            raise ValueError("version is of a table")
        if self.format and not self.files:
            raise ValueError("format is of files")
        for name in self.columns:
            if name not in self.known:
                raise ValueError(
                    f"columns of {self.fills} are {', '.join(self.known)}, not {name}"
                    f"{nearest(name, self.known)}; others go into keep"
                )
        missing = [name for name in self.needed if name not in self.columns]
        if missing:
            raise ValueError(f"columns must name {', '.join(missing)}")
        if self.multiline and not self.quoted:
            raise ValueError("multiline needs quoted: true")
        return self

    def file(self, pattern: str, names: tuple[str, ...], *, typed: bool) -> File:
        """The description of its rows. names: the columns that the source has."""
        return File(
            pattern,
            self.fills,  # type: ignore[arg-type]
            names,
            self.separator,
            header=self.header,
            quoted=self.quoted,
            multiline=self.multiline,
            encoding=self.encoding,
            mapped={name: _expression(sql, names) for name, sql in self.columns.items()},
            fields={name: _expression(sql, names) for name, sql in self.keep.items()},
            unit=None,
            own=True,
            typed=typed,
        )


class Timed(Entry):
    unit: Unit | None = None  # of numeric times since 1970
    zone: Zone | None = None  # of times without one, such as Europe/Berlin

    def file(self, pattern: str, names: tuple[str, ...], *, typed: bool) -> File:
        described = super().file(pattern, names, typed=typed)
        return replace(described, unit=self.unit, zone=self.zone)


class Interactions(Timed):
    fills = c.INTERACTIONS
    known = EVENT_COLUMNS
    needed = (c.USER_ID, c.ITEM_ID)

    # What a value is: `count` must be whole; `none`: there is none, every event weighs 1
    values: Literal["rating", "count", "weight", "none"] = "rating"
    value_min: float = 0.0
    value_max: float = float("inf")
    # An event whose user or item is not in `users` or `items` is rejected, or kept
    unknown_ids: Literal["reject", "keep"] = "reject"
    # Of a Delta table only what was added since the version that the last run took
    incremental: bool = False

    @model_validator(mode="after")
    def _values_fit(self) -> Interactions:
        if (self.values == "none") == (c.VALUE in self.columns):
            raise ValueError(
                "values: none goes without a column for value"
                if self.values == "none"
                else "columns must name value, or set values: none where every event weighs 1"
            )
        if (self.table or self.query) and c.TS not in self.columns:
            raise ValueError(
                "columns must name ts: rows of a table have no order (where there are no times: "
                'ts: "0" and unit: s)'
            )
        if self.incremental and (not self.table or self.version is not None):
            raise ValueError("incremental reads the latest version of a table")
        return self


class Impressions(Timed):
    """Lists that were shown: an item a row. To a user, where `columns` names user_id alone; in a
    session, of user_id and session_id; for a playlist, of session_id alone.
    """

    fills = c.IMPRESSIONS
    known = (
        *(c.USER_ID, c.SESSION_ID, c.IMPRESSION_ID, c.ITEM_ID),
        *(c.POSITION, c.TS, c.VALUE),
    )
    needed = (c.ITEM_ID, c.TS)

    @model_validator(mode="after")
    def _has_queries(self) -> Impressions:
        if not {c.USER_ID, c.SESSION_ID} & set(self.columns):
            raise ValueError("columns must name user_id, session_id or both")
        return self


class Users(Entry):
    fills = c.USERS
    known = (c.USER_ID,)
    needed = (c.USER_ID,)


class Items(Entry):
    fills = c.ITEMS
    known = (c.ITEM_ID, "title")
    needed = (c.ITEM_ID,)


class Source(Settings):
    interactions: Interactions
    users: Users | None = None
    items: Items | None = None
    impressions: Impressions | None = None

    def entries(self) -> list[Entry]:
        """Those that there are; users and items first, so that events find them."""
        entries = (self.users, self.items, self.impressions, self.interactions)
        return [entry for entry in entries if entry is not None]

    def dataset(self, name: str) -> Dataset:
        events = self.interactions
        return Dataset(
            name,
            (),
            integer_ids=False,
            value_min=events.value_min,
            value_max=events.value_max,
            value_step=1.0 if events.values == "count" else 0.0,
            one_per_pair=False,
            unknown_ids=events.unknown_ids,
            follows=True,
            stepped=c.STEP in events.columns,
        )


def _expression(sql: str, names: tuple[str, ...]) -> str:
    """A name of the source's is this column, whatever characters it has."""
    return f"`{sql.replace('`', '``')}`" if sql in names else sql
