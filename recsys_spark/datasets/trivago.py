"""Sessions of trivago, as in the RecSys Challenge 2019: version 2 of the data (26 March 2019)
alone. The lists of version 1 have another order, which its files do not tell.

`train*.csv` and `test*.csv` have a line for each action of a session. The same lines fill two
tables: every action is an event, and the list of a click-out is one of `impressions`. An event's
item is the reference of an action on an item; what else was referred to (a filter, a place, a sort
order, or nothing) is in `context`. A click-out of test without a reference is to be answered: its
event has no item, and the impressions of its list no `value`.

Knees, Deldjoo, Bakhshandegan Moghaddam, Adamczak, Leyson, Monreal. RecSys Challenge 2019: Session-
based Hotel Recommendations. RecSys 2019, doi:10.1145/3298689.3346974.
"""

from __future__ import annotations

from recsys_spark.datasets.files.spec import Dataset, File, seconds

CLICKOUT = "clickout item"
ON_ITEMS = (
    CLICKOUT,
    "interaction item rating",
    "interaction item info",
    "interaction item image",
    "interaction item deals",
    "search for item",
)
ACTIONS = (
    *ON_ITEMS,
    "change of sort order",
    "filter selection",
    "search for destination",
    "search for poi",
)
COLUMNS = (
    *("user_id", "session_id", "timestamp", "step", "action_type", "reference"),
    *("platform", "city", "device", "current_filters", "impressions", "prices"),
)
_CLICK = f"action_type = '{CLICKOUT}'"
_ITEM = r"trim(reference) RLIKE '^[0-9]+$'"


def _names(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


_WRONG = {
    "unknown_action": f"coalesce(action_type, '') NOT IN ({_names(ACTIONS)})",
    "no_list": f"{_CLICK} AND coalesce(impressions, '') = ''",
    "unequal_lists": f"{_CLICK} AND size(split(impressions, '[|]')) != "
    "size(split(coalesce(prices, ''), '[|]'))",
    "not_shown": f"{_CLICK} AND coalesce(reference, '') != '' "
    "AND NOT array_contains(split(impressions, '[|]'), reference)",
}
# The step counts the actions of a session: it names the list, and orders lists of one second
_LIST = "lpad(step, 9, '0')"


def _events(pattern: str, *, rows: int | None = None, required: bool = True) -> File:
    return File(
        pattern,
        "interactions",
        COLUMNS,
        ",",
        header=True,
        quoted=True,
        mapped={
            "item_id": f"CASE WHEN action_type IN ({_names(ON_ITEMS)}) AND {_ITEM} "
            "THEN trim(reference) ELSE '' END",
            "ts": "timestamp",
            "action": "action_type",
            "step": "step",
            "position": "nullif(array_position(split(impressions, '[|]'), reference), 0)",
            "impression_id": f"CASE WHEN {_CLICK} THEN {_LIST} END",
        },
        fields={
            "reference": f"CASE WHEN action_type NOT IN ({_names(ON_ITEMS)}) OR NOT {_ITEM} "
            "THEN reference END",
            "platform": "platform",
            "city": "city",
            "device": "device",
            "filters": "current_filters",
        },
        wrong=_WRONG,
        rows=rows,
        required=required,
    )


def _lists(pattern: str, *, required: bool = True) -> File:
    return File(
        pattern,
        "impressions",
        COLUMNS,
        ",",
        header=True,
        quoted=True,
        mapped={
            "user_id": "user_id",
            "session_id": "session_id",
            "item_id": "impressions",
            "ts": "timestamp",
            "position": "place",
            "impression_id": _LIST,
            "value": "CASE WHEN coalesce(reference, '') != '' "
            "THEN CAST(impressions = reference AS INT) END",
        },
        fields={"price": "prices", "platform": "platform", "city": "city", "device": "device"},
        lists=("impressions", "prices"),
        where=_CLICK,
        wrong=_WRONG,
        required=required,
    )


DATASETS = {
    "trivago": Dataset(
        "trivago",
        (
            _events("train*.csv", rows=15_932_992),
            _events("test*.csv", required=False),
            _lists("train*.csv"),
            _lists("test*.csv", required=False),
            File(
                "item_metadata.csv",
                "items",
                ("item_id", "properties"),
                ",",
                header=True,
                quoted=True,
                fields={"properties": "properties"},
                rows=927_142,
                required=False,
            ),
        ),
        integer_ids=False,
        ts_min=seconds("2018-11-01"),
        ts_max=seconds("2018-11-10"),
        one_per_pair=False,
        unknown_ids="keep",  # not every item that was shown has metadata
        stepped=True,
        itemless=True,
        generator="trivago",
        register="https://recsys.trivago.cloud",
    )
}
