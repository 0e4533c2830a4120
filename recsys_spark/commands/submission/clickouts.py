"""Answers of the RecSys Challenge 2019 (trivago): a CSV with a line for each click-out of test that
has no reference, `user_id,session_id,timestamp,step,item_recommendations`, the items of its list
best first with blanks between.

The organisers' check (recsyschallenge/2019, src/verify_submission) asks for these columns, for no
session twice, and for the sessions of test that are asked. Ours also refuses another user, time or
step, items that were not shown, that come twice or are missing, and more than 25.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.commands.submission import _answers
from recsys_spark.core import columns as c
from recsys_spark.core.artifacts import new_file
from recsys_spark.core.errors import ConfigError, DataError
from recsys_spark.datasets.trivago import CLICKOUT, COLUMNS
from recsys_spark.etl import queries
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.challenge import clickouts

HEADER = ("user_id", "session_id", "timestamp", "step", "item_recommendations")
MOST = 25
Key = tuple[str, ...]  # user, session, timestamp, step


class Asked(NamedTuple):
    key: Key
    shown: str  # joined by |


def write(lake: Lake, step: str, answer: Path) -> dict[str, int]:
    """The last completed run of `step` as an answer file; {what: count}. A session of which nothing
    is known but its list gets the order in which that was shown.

    Raises ConfigError where the run made no lists for part now.
    """
    run = _answers.last_scored(lake, step)
    if run is None or run.config.get("part") != c.NOW or not run.config.get("candidates"):
        raise ConfigError(
            f"step {step}",
            found="no completed run of stage score"
            if run is None
            else f"part {run.config['part']}",
            expected="lists for click-outs that are to be answered",
            remedy="add a candidates step {part: now, among: shown} and score it with part: now",
        )
    version = run.output_versions[c.RECOMMENDATIONS]
    rows = lake.read(c.RECOMMENDATIONS, version).where(F.col(c.RUN_ID) == run.run_id)
    counts = {"rows": 0, "as_shown": 0}
    with new_file(answer) as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for row in _answered(lake, rows).toLocalIterator():
            writer.writerow((row.user_id, row.session_id, row.ts, row.step, row.items))
            counts["rows"] += 1
            counts["as_shown"] += row.as_shown
    return counts


def _answered(lake: Lake, rows: DataFrame) -> DataFrame:
    """(user_id, session_id, ts, step, items, as_shown) of the last unanswered list of a session."""
    events = lake.read(c.INTERACTIONS).where(
        (F.col(c.ACTION) == CLICKOUT) & (F.col(c.ITEM_ID) == c.NO_ITEM)
    )
    session = (c.QUERY_ID,)
    last = Window.partitionBy(*session).orderBy(F.desc(c.TS), F.desc(c.STEP))
    asked = (
        events.withColumn(c.QUERY_ID, queries.id_of("session"))
        .withColumn("_last", F.row_number().over(last))
        .where("_last = 1")
    )
    shown = lake.read(c.IMPRESSIONS).where(F.col(c.VALUE).isNull())
    key = (c.QUERY_ID, c.IMPRESSION_ID)
    in_order = _joined(shown, c.POSITION, key).withColumnRenamed("items", "_shown")
    ranked = _joined(rows, c.RANK, session)
    return (
        asked.join(in_order, list(key), "left")
        .join(ranked, list(session), "left")
        .select(
            *(c.USER_ID, c.SESSION_ID, c.TS, c.STEP),
            F.coalesce("items", "_shown").alias("items"),
            F.col("items").isNull().cast("int").alias("as_shown"),
        )
        .orderBy(c.USER_ID, c.SESSION_ID)
    )


def _joined(rows: DataFrame, order: str, key: tuple[str, ...]) -> DataFrame:
    entries = F.sort_array(F.collect_list(F.struct(order, c.ITEM_ID)))
    return rows.groupBy(*key).agg(F.concat_ws(" ", entries[c.ITEM_ID]).alias("items"))


def check(answer: Path, data: Path) -> dict[str, int]:
    """Raises DataError, with the lines of the answer and what is wrong with them. data: the folder
    with test.csv, or such a file.
    """
    asked = {each.key[1]: each for each in _asked(_test_files(data), answered=False)}
    problems = _answers.Problems(answer)
    met: dict[str, int] = {}
    for line, row in _rows(answer, problems):
        session = row[1]
        if session not in asked:
            problems.add(line, f"session {session!r}, of which nothing is asked")
        elif session in met:
            problems.add(line, f"session {session!r} again, after line {met[session]}")
        elif problem := _problem(asked[session], row):
            problems.add(line, problem)
        met.setdefault(session, line)
    for session in asked.keys() - met.keys():
        problems.add(None, f"no row for session {session!r}")
    problems.require_none("the file as `recsys-spark submission write clickouts` writes it")
    return {"rows": len(met)}


def _problem(asked: Asked, row: list[str]) -> str:
    if tuple(row[:4]) != asked.key:
        return f"{','.join(row[:4])}, where {','.join(asked.key)} is asked"
    items, shown = row[4].split(), asked.shown.split("|")
    if len(items) > MOST:
        return f"{len(items)} items, more than {MOST}"
    if again := sorted({item for item in items if items.count(item) > 1}):
        return f"item {again[0]} more than once"
    if strange := [item for item in items if item not in shown]:
        return f"item {strange[0]}, which was not shown"
    missing = set(shown) - set(items)
    return f"{len(missing)} items of the list are missing" if missing else ""


def score(answer: Path, truth: Path) -> dict[str, float]:
    """The organisers' figures of an answer. truth: the click-outs of test with their references, in
    the format of test.csv. Raises DataError for a file that is none.
    """
    problems = _answers.Problems(answer)
    answers = {tuple(row[:4]): row[4].split() for _, row in _rows(answer, problems)}
    problems.require_none(f"lines of {','.join(HEADER)}")
    clicked = {each.key: each.shown for each in _asked([truth], answered=True)}
    place, times = clickouts.places(
        list(clicked.values()), (answers.get(key, []) for key in clicked)
    )
    means = {name: float(value.mean()) for name, value in clickouts.values(place, times).items()}
    return means | {"rows": len(clicked), "missing": len(clicked.keys() - answers.keys())}


def _rows(answer: Path, problems: _answers.Problems) -> Iterator[tuple[int, list[str]]]:
    """(line, its fields in the order of HEADER) of lines that have them."""
    lines = _answers.lines(answer, problems)
    reader = csv.reader(text for _, text in lines)
    header = next(reader, [])
    if set(header) != set(HEADER) or len(header) != len(HEADER):
        found = ",".join(header)[:120]
        problems.add(1, f"{found!r} in place of the header {','.join(HEADER)}")
        return
    order = [header.index(name) for name in HEADER]
    for row in reader:
        if len(row) != len(HEADER):
            problems.add(reader.line_num, f"{len(row)} fields, not {len(HEADER)}")
            continue
        yield reader.line_num, [row[place] for place in order]


def _asked(files: list[Path], *, answered: bool) -> Iterator[Asked]:
    """The click-outs without a reference and their lists; `answered`: those with one, and that in
    place of the list.
    """
    for path in files:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := set(COLUMNS[:6]) - set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}, line 1",
                    found=f"no column {', '.join(sorted(lacking))}",
                    expected=f"the header {','.join(COLUMNS)}",
                    remedy="name the file of the challenge",
                )
            for row in reader:
                if row["action_type"] == CLICKOUT and bool(row["reference"]) == answered:
                    key = tuple(row[name] for name in HEADER[:4])
                    yield Asked(key, row["reference"] if answered else row["impressions"])


def _test_files(data: Path) -> list[Path]:
    files = [data] if data.is_file() else sorted(data.glob("test*.csv"))
    if not files:
        raise DataError(
            f"folder {data}",
            found="no test.csv",
            expected="the click-outs that are to be answered",
            remedy="name the folder with the challenge's files",
        )
    return files
