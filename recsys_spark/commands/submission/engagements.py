"""Answers of the RecSys Challenge 2020 (Twitter): a CSV for each of the targets reply, retweet,
comment (retweet with comment) and like: `tweet_id,user_id,prediction`, without a header.

No checker of the organisers is known. Ours asks for a finite number from 0 to 1 for each pair of
tweet and reader of the test file, once, and for no other.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pyspark.sql import functions as F

from recsys_spark.commands.submission import _answers
from recsys_spark.core import columns as c
from recsys_spark.core.artifacts import new_file
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.twitter import COLUMNS, SEPARATOR, TARGETS, UNLABELLED
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.challenge import engagements

_TWEET, _READER = COLUMNS.index("tweet_id"), COLUMNS.index("enaging_user_id")
Pair = tuple[str, str]  # tweet, reader


def write(lake: Lake, step: str, answer: Path) -> dict[str, int]:
    """The predictions of the last completed run of `step`, of one target; {what: count}. Raises
    ConfigError where there are none.
    """
    run = _answers.last_scored(lake, step)
    if run is None or c.PREDICTIONS not in run.output_versions:
        raise ConfigError(
            f"step {step}",
            found="no completed run of stage score" if run is None else "lists",
            expected="predictions for tweets that are to be answered",
            remedy="score a model of clicks on a split with `unlabelled: test`",
        )
    rows = lake.read(c.PREDICTIONS, run.output_versions[c.PREDICTIONS])
    rows = rows.where(F.col(c.RUN_ID) == run.run_id).orderBy(c.ITEM_ID, c.QUERY_ID)
    count = 0
    with new_file(answer) as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows.select(c.ITEM_ID, c.QUERY_ID, c.VALUE).toLocalIterator():
            writer.writerow(row)
            count += 1
    return {"rows": count}


def check(answer: Path, data: Path) -> dict[str, int]:
    """Raises DataError, with the lines of the answer and what is wrong with them. data: the folder
    with test*.tsv, or such a file.
    """
    files = [data] if data.is_file() else sorted(data.glob("test*.tsv"))
    if not files:
        raise DataError(
            f"folder {data}",
            found="no test*.tsv",
            expected="the pairs of tweet and reader that are to be answered",
            remedy="name the folder with the challenge's files",
        )
    asked = {pair for file in files for pair, _ in _tweets(file, len(UNLABELLED))}
    problems = _answers.Problems(answer)
    met: dict[Pair, int] = {}
    for line, pair, _ in _rows(answer, problems):
        if pair not in asked:
            problems.add(line, f"tweet {pair[0]} and user {pair[1]}, of which nothing is asked")
        elif pair in met:
            problems.add(line, f"tweet {pair[0]} and user {pair[1]} again, after line {met[pair]}")
        met.setdefault(pair, line)
    for tweet, user in sorted(asked - met.keys()):
        problems.add(None, f"no row for tweet {tweet} and user {user}")
    problems.require_none(
        "lines of tweet_id,user_id,prediction, one for each pair of the test file"
    )
    return {"rows": len(met)}


def score(answer: Path, truth: Path) -> dict[str, float]:
    """The organisers' figures of an answer. truth: TARGET:FILE, such as
    like:groundtruth.tsv, a file of all columns. Raises DataError for a pair without an answer.
    """
    target, _, name = str(truth).partition(":")
    if target not in TARGETS or not name:
        raise ConfigError(
            "truth",
            found=str(truth),
            expected=f"TARGET:FILE, of {', '.join(TARGETS)}",
            remedy="say like:groundtruth.tsv, for example",
        )
    problems = _answers.Problems(answer)
    answers = {pair: prediction for _, pair, prediction in _rows(answer, problems)}
    column = COLUMNS.index(TARGETS[target])
    labels, predictions = [], []
    for pair, fields in _tweets(Path(name), len(COLUMNS)):
        if pair not in answers:
            problems.add(None, f"no row for tweet {pair[0]} and user {pair[1]}")
            continue
        labels.append(float(bool(fields[column])))
        predictions.append(answers[pair])
    problems.require_none("a prediction for each pair of the file")
    return engagements.values(np.array(labels), np.array(predictions)) | {"rows": len(labels)}


def _rows(answer: Path, problems: _answers.Problems) -> Iterator[tuple[int, Pair, float]]:
    """(line, pair, prediction) of the lines that have them."""
    for line, text in _answers.lines(answer, problems):
        fields = text.rstrip("\r\n").split(",")
        if len(fields) != 3:
            problems.add(line, f"{len(fields)} fields, not tweet_id,user_id,prediction")
            continue
        try:
            prediction = float(fields[2])
        except ValueError:
            problems.add(line, f"{fields[2]!r} in place of a number: the file has no header")
            continue
        if not math.isfinite(prediction) or not 0 <= prediction <= 1:
            problems.add(line, f"prediction {fields[2]}, not from 0 to 1")
            continue
        yield line, (fields[0], fields[1]), prediction


def _tweets(path: Path, width: int) -> Iterator[tuple[Pair, list[str]]]:
    """Each line's pair and fields. Raises DataError for a line of another width."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\n").split(SEPARATOR)
            if len(fields) != width:
                raise DataError(
                    f"{path}, line {number}",
                    found=f"{len(fields)} fields",
                    expected=f"{width}, with \\x01 between",
                    remedy="name the file of the challenge",
                )
            yield (fields[_TWEET], fields[_READER]), fields
