"""Sessions in the format of trivago's data (RecSys Challenge 2019) with a planted cause of each
click, of any size, written a session at a time: memory does not grow with the rows.

A session searches a city, has a few actions on items of its next list, then a click-out: of the
item last interacted with (`last`, if there is one), else by the places and prices of the list: an
item's odds are place ** -`place` * exp(-`price` * its rank by price, from 0 to 1). So no rule is
right always, and with `last = place = price = 0` none beats chance. The test part is the last
fifth of the time; its last click-outs have no reference, and `groundtruth.csv` has them.

It shares nothing with what the models do.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, Iterator, TextIO

from recsys_spark.core import log
from recsys_spark.core.artifacts import new_folder, write_text
from recsys_spark.core.errors import ConfigError
from recsys_spark.core.seeds import derive
from recsys_spark.datasets.files.folder import GENERATED
from recsys_spark.datasets.files.spec import seconds
from recsys_spark.datasets.trivago import CLICKOUT, COLUMNS

logger = log.get(__name__)
LIST = 25
_FIRST, _DAYS = seconds("2018-11-01"), 8
_TEST_SHARE = 0.2
_ITEMS_A_CITY = 100
_SIGHTS = ("image", "info", "rating", "deals")
_TAGS = ("Hotel", "Motel", "Hostel", "WiFi (Public Areas)", "Car Park", "4 Star", "3 Star", "Pool")
_DEVICES, _PLATFORMS = ("mobile", "desktop", "tablet"), ("US", "DE", "BR", "MX", "IN")
Row = list[str | int]


@dataclass(frozen=True)
class Cause:
    """How strongly each cause acts; 0: not at all."""

    last: float = 0.5  # share of click-outs of the item last interacted with
    place: float = 0.5
    price: float = 4.0


def generate(
    folder: Path,
    *,
    sessions: int = 1000,
    items: int = 2000,
    seed: int = 1,
    cause: Cause | None = None,
) -> dict[str, int]:
    """Writes train.csv, test.csv, groundtruth.csv and item_metadata.csv into the new folder
    `folder`, completely or not at all; returns the rows of each. Some 6 rows a session.

    Raises ConfigError for a folder with files in it, and for fewer sessions or items than make a
    test part and a list.
    """
    _require_possible(folder, sessions, items)
    cause = cause or Cause()
    counts = {"train*.csv": 0, "test*.csv": 0, "item_metadata.csv": items}
    until = sessions - max(1, round(sessions * _TEST_SHARE))
    with new_folder(folder) as staging:
        with (
            open(staging / "train.csv", "w", encoding="utf-8", newline="") as train,
            open(staging / "test.csv", "w", encoding="utf-8", newline="") as test,
            open(staging / "groundtruth.csv", "w", encoding="utf-8", newline="") as truth,
        ):
            writers = [_writer(file) for file in (train, test, truth)]
            for number in range(sessions):
                rows = list(_session(number, sessions, items, seed, cause))
                if number < until:
                    writers[0].writerows(rows)
                    counts["train*.csv"] += len(rows)
                    continue
                writers[2].writerow(rows[-1])
                rows[-1][COLUMNS.index("reference")] = ""
                writers[1].writerows(rows)
                counts["test*.csv"] += len(rows)
        _metadata(staging / "item_metadata.csv", items, seed)
        note = {"what": "made up by recsys_spark", "sessions": sessions, "seed": seed}
        write_text(staging / GENERATED, json.dumps(note | {"rows": counts}, indent=1) + "\n")
    logger.info(log.fields(event="generated", folder=folder, **counts, seed=seed))
    return counts


def _require_possible(folder: Path, sessions: int, items: int) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {folder}",
            found="files in it",
            expected="a new or empty folder",
            remedy="name another, or remove it",
        )
    for name, number, least in (("sessions", sessions, 10), ("items", items, _ITEMS_A_CITY)):
        if number < least:
            raise ConfigError(
                f"generated set, {name}",
                found=number,
                expected=f"at least {least}",
                remedy="ask for more",
            )


def _writer(file: TextIO) -> Any:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    return writer


def _session(number: int, sessions: int, items: int, seed: int, cause: Cause) -> Iterator[Row]:
    """The rows of a session, in the order of their steps; the last is the click-out. Sessions begin
    one after the other.
    """
    random = Random(derive(seed, "session", number))
    user = f"U{derive(seed, 'user', random.randrange(max(1, sessions * 4 // 5))) % 36**8:011X}"
    city = random.randrange(items // _ITEMS_A_CITY)
    place_name = f"City {city}, Country {city % 7}"
    platform = random.choice(_PLATFORMS)
    begin = f"{user},{number:013x}".split(",")
    rest: Row = [platform, place_name, random.choice(_DEVICES)]
    ts = _FIRST + 60 + round(number / sessions * (_DAYS * 86_400 - 7_200))
    shown = [city * _ITEMS_A_CITY + item + 1 for item in random.sample(range(_ITEMS_A_CITY), LIST)]
    shown = shown[: random.choice((LIST, LIST, LIST, random.randint(2, LIST)))]
    prices = [random.randint(20, 300) for _ in shown]

    def row(step: int, action: str, reference: str | int, *lists: str) -> Row:
        filters = reference if action == "filter selection" else ""
        return [*begin, ts, step, action, reference, *rest, filters, *(lists or ("", ""))]

    step = 1
    yield row(step, "search for destination", place_name)
    if random.random() < 0.3:
        ts, step = ts + random.randint(0, 30), step + 1
        yield row(step, "filter selection", random.choice(_TAGS))
    last = 0
    for _ in range(random.choice((0, 0, 1, 2, 4, 8))):
        # Also of the same second: only the step tells what came first
        ts, step = ts + random.choice((0, 0, 5, 20)), step + 1
        last = last if last and random.random() < 0.5 else random.choice(shown)
        yield row(step, f"interaction item {random.choice(_SIGHTS)}", last)
    clicked = _clicked(random, shown, prices, last, cause)
    ts, step = ts + random.randint(1, 60), step + 1
    yield row(step, CLICKOUT, clicked, "|".join(map(str, shown)), "|".join(map(str, prices)))


def _clicked(random: Random, shown: list[int], prices: list[int], last: int, cause: Cause) -> int:
    if last and random.random() < cause.last:
        return last
    cheaper = sorted(prices)
    span = max(1, len(shown) - 1)
    odds = (
        place**-cause.place * 2.718281828 ** (-cause.price * bisect(cheaper, price - 1) / span)
        for place, price in enumerate(prices, 1)
    )
    return random.choices(shown, cum_weights=list(accumulate(odds)))[0]


def _metadata(path: Path, items: int, seed: int) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item_id", "properties"))
        for item in range(1, items + 1):
            drawn = Random(derive(seed, "item", item))
            writer.writerow((item, "|".join(drawn.sample(_TAGS, drawn.randint(1, 5)))))
