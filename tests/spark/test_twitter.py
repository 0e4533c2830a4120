"""Tweets in the format of the RecSys Challenge 2020: reader, quarantine, and the pipeline of
conf/pipelines/twitter.yaml on generated tweets, with the official figures and the answer file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.commands.submission import engagements as answers
from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError, DataError, QualityError
from recsys_spark.datasets.generators import twitter
from recsys_spark.datasets.twitter import COLUMNS, FIRST, SEPARATOR, TARGETS, UNLABELLED
from recsys_spark.lake.tables import Lake
from recsys_spark.metrics.challenge import engagements
from recsys_spark.pipeline import runner, steps
from recsys_spark.stages import ingest, prepare
from tests.spark.chained import Chain
from tests.spark.typed import ROOT

T = FIRST + 100


def line(tweet: str, reader: str, columns: tuple[str, ...] = COLUMNS, **other: object) -> bytes:
    fields = dict.fromkeys(COLUMNS, "") | {
        "text_tokens": "101\t7\t102",
        "hashtags": "a\tb",
        "tweet_id": tweet,
        "tweet_type": "Quote",
        "language": "en",
        "tweet_timestamp": T,
        "engaged_with_user_id": "author",
        "enaging_user_id": reader,
        "enaging_user_follower_count": 5,
    }
    fields |= other
    return SEPARATOR.join(str(fields[name]) for name in columns).encode() + b"\n"


def read(spark: SparkSession, folder: Path, root: Path, **job: object) -> Chain:
    chain = Chain(spark, root)
    chain.run("ingest", ingest, dataset="twitter", data=str(folder), expected="ignore", **job)
    return chain


def test_a_line_is_an_event_and_what_it_says_is_stored_once(
    spark: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [
        line("t1", "u1", like_timestamp=T + 9, reply_timestamp=T),
        line("t1", "u2"),
        line("t2", "u1", tweet_timestamp=T + 5),
        line("t3", "gone", retweet_timestamp=T + 1),
        line("t4", "u3", like_timestamp=T - 1),
        line("t4", "u4", tweet_timestamp=T + 10**8, like_timestamp=T + 10**8),
        line("t4", "u5", like_timestamp="soon"),
        line("t4", "u6").replace(SEPARATOR.encode(), b"", 3),
        line("t4", "u\xff").replace("\xff".encode(), b"\xff"),
        line("t5", "u7", tweet_timestamp=T + 9, retweet_with_comment_timestamp=T + 11),
    ]
    (folder / "train.tsv").write_bytes(b"".join(lines))
    # The same reader, with another count by now
    later = line("t9", "u1", UNLABELLED, enaging_user_follower_count=6, tweet_timestamp=T + 99)
    (folder / "test.tsv").write_bytes(later)
    (folder / "deleted.txt").write_text("t3\n")
    with pytest.raises(QualityError, match=r"5 of 10 rejected .*train.tsv line 5 label_before"):
        read(spark, folder, tmp_path)
    chain = read(spark, folder, tmp_path, max_quarantine_share=0.6)
    events = chain.lake.read(c.INTERACTIONS).orderBy(c.TS, c.USER_ID).collect()
    assert [(row.user_id, row.item_id, row.context) for row in events] == [
        ("u1", "t1", {"like": str(T + 9), "reply": str(T)}),
        ("u2", "t1", {}),
        ("u1", "t2", {}),
        ("u7", "t5", {"comment": str(T + 11)}),
        ("u1", "t9", {"unlabelled": "true"}),
    ]
    odd = chain.lake.read(c.QUARANTINE).where("table = 'interactions'").orderBy("line").collect()
    assert [(row.source_file, row.line, row.reason) for row in odd] == [
        ("train.tsv", 5, "label_before_tweet"),
        ("train.tsv", 6, "time_out_of_range"),
        ("train.tsv", 7, "label_not_a_time"),
        ("train.tsv", 8, "wrong_number_of_fields"),
        ("train.tsv", 9, "wrong_encoding"),
    ]
    items = {row.item_id: row.fields for row in chain.lake.read(c.ITEMS).collect()}
    assert set(items) == {"t1", "t2", "t4", "t5", "t9"}, "nothing of the deleted one"
    assert items["t1"]["tokens"] == "101 7 102" and items["t1"]["hashtags"] == "a|b"
    assert not chain.lake.read(c.QUARANTINE).where("raw LIKE '%gone%'").count()
    users = {row.user_id: row.fields for row in chain.lake.read(c.USERS).collect()}
    assert users["u2"] == {"followers": "5"} and "gone" not in users

    shares = (0.5, 0.25, 0.25)
    chain.run(
        "by_time", prepare, source="ingest", rule="click_time", label="like", fractions=shares
    )
    parts = {
        (row.item_id, row.query_id): (row.part, row.value)
        for row in chain.rows(c.SPLITS, "by_time")
    }
    assert parts == {
        ("t1", "u1"): ("train", 1.0),
        ("t1", "u2"): ("train", 0.0),
        ("t2", "u1"): ("valid", 0.0),
        ("t5", "u7"): ("test", 0.0),
    }


class Ran:
    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.data = root / "data"
        twitter.generate(self.data, tweets=2000, users=60, seed=2)
        settings = (f"steps.ingest.data={self.data}", "steps.engagements.replicas=100")
        settings += (f"env.lake={root}/lake", f"env.runs={root}/runs")
        pipeline, known = steps.load(ROOT / "conf" / "pipelines" / "twitter.yaml", settings)
        self.lake = Lake(spark, str(root / "lake"), root / "runs")
        self.done = runner.run(
            pipeline, steps.closure(known, list(known)), lake=self.lake, listener=lambda event: None
        )


@pytest.fixture(scope="module")
def ran(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(spark, tmp_path_factory.mktemp("twitter"))


def test_the_model_learns_what_is_planted(ran: Ran) -> None:
    results = ran.done["engagements"].summary["results"]
    figures = {
        (row["model"], row["metric"]): row["value"]
        for row in results
        if row["task"] == "engagements"
    }
    assert -3.0 < figures["base_rate", "official_rce"] <= 0.0, "a constant is never better"
    assert figures["logistic", "official_rce"] > 4.0
    assert figures["logistic", "average_precision"] > figures["base_rate", "average_precision"]
    rows = ran.lake.read(c.PREDICTIONS).where(f"run_id = '{ran.done['score_logistic'].run_id}'")
    table = rows.select(c.LABEL, c.VALUE).toArrow()
    by_hand = engagements.values(*(table[name].to_numpy() for name in (c.LABEL, c.VALUE)))
    for name, value in by_hand.items():
        assert figures["logistic", name] == pytest.approx(value)
    page = (Path(ran.done["report"].run_dir) / "report.html").read_text()
    assert "RecSys Challenge 2020: engagements" in page and "PR-AUC (official)" in page


def test_no_tweet_is_in_two_parts(ran: Ran) -> None:
    run_id = ran.done["likes"].run_id
    split = ran.lake.read(c.SPLITS).where(f"run_id = '{run_id}'")
    parts = split.groupBy(c.ITEM_ID).agg({"part": "collect_set"}).collect()
    assert len(parts) > 100 and all(len(row[1]) == 1 for row in parts)


@pytest.fixture(scope="module")
def answer(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answer") / "like.csv"
    answers.write(ran.lake, "answer", path)
    return path


def test_the_answer_is_right_and_scored(ran: Ran, answer: Path) -> None:
    rows = len((ran.data / "test.tsv").read_bytes().splitlines())
    assert answers.check(answer, ran.data) == {"rows": rows}
    facts = answers.score(answer, Path(f"like:{ran.data}/groundtruth.tsv"))
    labels = [
        bool(row.split(SEPARATOR)[COLUMNS.index(TARGETS["like"])])
        for row in (ran.data / "groundtruth.tsv").read_text().splitlines()
    ]
    assert facts["official_pr_auc"] == pytest.approx((1 + np.mean(labels)) / 2)
    assert facts["average_precision"] == pytest.approx(np.mean(labels))
    with pytest.raises(ConfigError, match="TARGET:FILE"):
        answers.score(answer, ran.data / "groundtruth.tsv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: ["tweet_id,user_id,prediction", *rows], "line 1: 'prediction' in place of a"),
        (lambda rows: rows[1:], r"no row for tweet \w+ and user \w+"),
        (lambda rows: [*rows, rows[0]], r"tweet \w+ and user \w+ again, after line 1"),
        (lambda rows: ["x,y,0.5", *rows], "line 1: tweet x and user y, of which nothing is asked"),
        (lambda rows: [rows[0] + "1e9", *rows[1:]], r"line 1: prediction \S+, not from 0 to 1"),
        (lambda rows: [rows[0].rsplit(",", 1)[0] + ",nan", *rows[1:]], "line 1: prediction nan"),
        (
            lambda rows: ["user_id,session_id,timestamp,step,item_recommendations"],
            "line 1: 5 fields",
        ),
    ],
)
def test_a_wrong_answer_is_refused_with_line_and_reason(
    ran: Ran, answer: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    changed = change(answer.read_text().splitlines())
    (tmp_path / "a.csv").write_text("\n".join(changed) + "\n")
    with pytest.raises(DataError, match=message):
        answers.check(tmp_path / "a.csv", ran.data)
