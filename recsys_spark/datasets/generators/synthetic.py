"""Generates data of any size in the MovieLens-1M format with planted structure (planted.py),
identical for a seed on any partitioning.

Every number comes from a hash of (seed, user, draw), never from a generator with state.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.core import log
from recsys_spark.core.artifacts import new_folder, write_text
from recsys_spark.core.errors import ConfigError
from recsys_spark.core.seeds import derive
from recsys_spark.datasets.files.folder import GENERATED
from recsys_spark.datasets.generators import planted
from recsys_spark.datasets.generators.planted import GENRES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = log.get(__name__)

_ROWS_A_FILE = 20_000_000


def generate(
    spark: SparkSession,
    folder: Path,
    *,
    users: int = 6040,
    items: int = 3883,
    ratings: int = 1_000_209,
    seed: int = 1,
) -> None:
    """Writes ratings.dat, users.dat, movies.dat into the new folder `folder`, completely or not at
    all.

    Writes exactly `ratings` rows, unless a few users would have to rate more than 70 % of the
    items. Above 20 M rows there are further files ratings-0001.dat ... Raises ConfigError for
    impossible sizes.
    """
    _require_possible(users, items, ratings)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {folder}",
            found="files in it",
            expected="a new or empty folder",
            remedy="name another, or remove it",
        )
    people = planted.people(spark, users, items, ratings, seed)
    parts = max(1, math.ceil(ratings / _ROWS_A_FILE))
    with new_folder(folder) as staging:
        _movies(staging / "movies.dat", items, seed)
        _write(planted.user_lines(people), staging, "users", 1)
        rows = _write(planted.rating_lines(people, items, seed), staging, "ratings", parts)
        counts = {
            "ratings.dat": rows[0],
            "ratings-*.dat": sum(rows[1:]),
            "users.dat": users,
            "movies.dat": items,
        }
        note = {
            "what": "made up by recsys_spark",
            "users": users,
            "items": items,
            "ratings": sum(rows),
            "seed": seed,
            "rows": counts,
        }
        write_text(staging / GENERATED, json.dumps(note, indent=1) + "\n")
    logger.info(
        log.fields(
            event="generated", folder=folder, users=users, items=items, ratings=sum(rows), seed=seed
        )
    )


def _require_possible(users: int, items: int, ratings: int) -> None:
    for name, requested, least in (
        ("users", users, 1),
        ("items", items, 40),
        ("ratings", ratings, planted.MIN_RATINGS * users),
    ):
        if requested < least:
            raise ConfigError(
                f"generated set, {name}",
                found=requested,
                expected=f"at least {least} ({planted.MIN_RATINGS} ratings a user, 40 items)",
                remedy="ask for more, or for fewer users",
            )
    if ratings > users * items // 2:
        raise ConfigError(
            "generated set, ratings",
            found=ratings,
            expected=f"at most half of users x items, {users * items // 2}",
            remedy="ask for fewer ratings or more items",
        )


def _movies(path: Path, items: int, seed: int) -> None:
    """`MovieID::Title::Genres`, latin-1, by id."""
    step, lines = planted.coprime(items), {}
    for item in range(items):
        genre, era = item % len(GENRES), item // len(GENRES) % 2
        draw = derive(seed, "movie", item)
        year = 1976 + draw % 25 if era else 1930 + draw % 46
        second = GENRES[(genre + 1 + draw // 64 % 5) % len(GENRES)]
        genres = sorted({GENRES[genre], second} if draw // 4096 % 2 else {GENRES[genre]})
        title = (
            f"{('Café', 'Night', 'Señor', 'River', 'Garden')[draw // 512 % 5]} {GENRES[genre]} No. "
            f"{item + 1} ({year})"
        )
        lines[1 + item * step % items] = f"{1 + item * step % items}::{title}::{'|'.join(genres)}\n"
    with open(path, "w", encoding="latin-1", newline="") as out:
        out.writelines(lines[item_id] for item_id in sorted(lines))


def _write(lines: DataFrame, folder: Path, name: str, files: int) -> list[int]:
    """Writes lines to `name.dat`, `name-0001.dat`, ... in the order of the partitions. Returns the
    rows of each file.
    """
    scratch = folder / f".{name}"
    lines.write.text(str(scratch.absolute()))
    parts = sorted(scratch.glob("part-*"))
    rows = []
    for number in range(files):
        target = folder / (f"{name}-{number:04d}.dat" if number else f"{name}.dat")
        count = 0
        with open(target, "wb") as out:
            for part in parts[number * len(parts) // files : (number + 1) * len(parts) // files]:
                with open(part, "rb") as source:
                    while block := source.read(1 << 22):
                        count += block.count(b"\n")
                        out.write(block)
                part.unlink()  # removed at once, so that the disk holds the rows only once
        rows.append(count)
    shutil.rmtree(scratch)
    return rows
