"""Tweets and who saw them in the format of Twitter's data (RecSys Challenge 2020), with a planted
cause of each engagement, of any size, written a tweet at a time: memory does not grow with the
rows.

A tweet has a language and an author of some appeal; who sees it speaks one language and engages
more or less readily. The log odds of each engagement are its own base rate plus `cause` times
(same language, the author's appeal, the reader's readiness). Training has the tweets of the first
seven days, test (20 columns, with groundtruth.tsv beside it) those of the seventh to eighth, so no
tweet stands in both.

It shares nothing with what the models do.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Iterator

from recsys_spark.core import log
from recsys_spark.core.artifacts import new_folder, write_text
from recsys_spark.core.errors import ConfigError
from recsys_spark.core.seeds import derive
from recsys_spark.datasets.files.folder import GENERATED
from recsys_spark.datasets.twitter import (
    COLUMNS,
    FIRST,
    LIST_SEPARATOR,
    SEPARATOR,
    TARGETS,
    UNLABELLED,
)

logger = log.get(__name__)
_DAYS, _TRAIN_SHARE = 8, 7 / 8
# Log odds of the engagements where nothing speaks for them or against
_BASE = {"reply": -3.6, "retweet": -2.1, "comment": -4.9, "like": -0.4}
_TYPES, _MEDIA = ("Retweet", "Quote", "Reply", "TopLevel"), ("Photo", "Video", "Gif")
_LANGUAGES = 8


def generate(
    folder: Path, *, tweets: int = 1000, users: int = 6040, seed: int = 1, cause: float = 1.0
) -> dict[str, int]:
    """Writes train.tsv, test.tsv and groundtruth.tsv into the new folder `folder`, completely or
    not at all; returns the rows of the first two. Some 3 rows a tweet.

    Raises ConfigError for a folder with files in it, and for fewer than 20 tweets or users.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {folder}",
            found="files in it",
            expected="a new or empty folder",
            remedy="name another, or remove it",
        )
    for name, number in (("tweets", tweets), ("users", users)):
        if number < 20:
            raise ConfigError(
                f"generated set, {name}",
                found=number,
                expected="at least 20",
                remedy="ask for more",
            )
    counts = {"train*.tsv": 0, "test*.tsv": 0}
    with new_folder(folder) as staging:
        with (
            open(staging / "train.tsv", "w", encoding="utf-8", newline="") as train,
            open(staging / "test.tsv", "w", encoding="utf-8", newline="") as test,
            open(staging / "groundtruth.tsv", "w", encoding="utf-8", newline="") as truth,
        ):
            for number in range(tweets):
                for row in _rows(number, tweets, users, seed, cause):
                    line = SEPARATOR.join(row) + "\n"
                    if number < tweets * _TRAIN_SHARE:
                        train.write(line)
                        counts["train*.tsv"] += 1
                        continue
                    truth.write(line)
                    test.write(SEPARATOR.join(row[: len(UNLABELLED)]) + "\n")
                    counts["test*.tsv"] += 1
        note = {"what": "made up by recsys_spark", "tweets": tweets, "seed": seed, "rows": counts}
        write_text(staging / GENERATED, json.dumps(note, indent=1) + "\n")
    logger.info(log.fields(event="generated", folder=folder, **counts, seed=seed))
    return counts


def _rows(number: int, tweets: int, users: int, seed: int, cause: float) -> Iterator[list[str]]:
    """Who saw a tweet, a line each, in the order of COLUMNS."""
    random = Random(derive(seed, "tweet", number))
    ts = FIRST + round(number / tweets * (_DAYS * 86_400 - 600))
    author = random.randrange(users)
    writer = Random(derive(seed, "user", author))
    language, appeal = writer.randrange(_LANGUAGES), writer.gauss(0, 1)
    tokens = [101, *(random.randrange(1000, 30_000) for _ in range(random.randint(3, 20))), 102]
    said = [
        LIST_SEPARATOR.join(map(str, tokens)),
        LIST_SEPARATOR.join(
            f"{random.randrange(500):032X}" for _ in range(random.choice((0, 0, 2)))
        ),
        f"{derive(seed, 'tweet id', number):032X}",
        LIST_SEPARATOR.join(random.sample(_MEDIA, random.choice((0, 0, 1, 2)))),
        "",
        "",
        random.choice(_TYPES),
        f"{language:032X}",
        str(ts),
        *_person(seed, author),
    ]
    for reader in {random.randrange(users) for _ in range(random.randint(1, 5))}:
        taste = Random(derive(seed, "user", reader))
        same, readiness = taste.randrange(_LANGUAGES) == language, taste.gauss(0, 1)
        strength = cause * (1.5 * same - 0.5 + appeal + readiness)
        times = [
            str(ts + random.randint(1, 3_000))
            if random.random() < 1 / (1 + math.exp(-_BASE[target] - strength))
            else ""
            for target in TARGETS
        ]
        follows = "true" if random.random() < 0.5 else "false"
        row = [*said, *_person(seed, reader), follows, *times]
        assert len(row) == len(COLUMNS), "a field for every column"
        yield row


def _person(seed: int, user: int) -> list[str]:
    """Id, followers, following, verified, account creation."""
    drawn = Random(derive(seed, "person", user))
    created = FIRST - drawn.randrange(86_400, 10 * 365 * 86_400)
    counts = (round(math.exp(drawn.uniform(0, 10))) for _ in range(2))
    verified = "true" if drawn.random() < 0.02 else "false"
    return [f"{derive(seed, 'user id', user):032X}", *map(str, counts), verified, str(created)]
