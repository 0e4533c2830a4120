"""Sessions, playlists and shown lists as queries, from `source:` to lists: small planted data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console

from recsys_spark.commands import show
from recsys_spark.core import columns as c
from recsys_spark.core.contracts import Feature
from recsys_spark.core.errors import ConfigError, DataError, RecsysError
from recsys_spark.etl import queries
from recsys_spark.etl.split import RULES
from recsys_spark.lake.direct import Direct
from recsys_spark.lake.gathered import Gathered
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.report import terminal
from recsys_spark.stages import candidates, evaluate, ingest, prepare, score, train_baseline
from recsys_spark.stages.bridge.scored import Scoring
from tests.models import worlds
from tests.spark.chained import Chain
from tests.spark.typed import ROOT

BLOCKS = re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8"), flags=re.S
)
T = 1_700_000_000
SHAPE = (
    "user_id string, item_id string, ts long, value double, session_id string, action string, "
    "position int, step int"
)


def visits() -> Iterator[dict[str, Any]]:
    """12 visits of four events, a minute apart, all of one second: `step` alone says what came when
    and that home was met twice. The last event takes one of the items that were shown.
    """
    for n in range(12):
        for step, item in enumerate(("home", "home", f"item{n % 3}", "item3"), 1):
            event = {"user": f"u{n % 4}", "visit": f"v{n}", "sku": item, "at": T + 60 * n}
            yield event | {"kind": "view" if step < 4 else "buy", "step": step}


def shown() -> Iterator[dict[str, Any]]:
    """The list of each visit, and one of a visit without events. Nobody took item4; visit 9 has no
    list, that of visit 10 lacks the item that was taken.
    """
    for n in range(13):
        for place, item in enumerate(("item4", "item3", "item2", "item1"), 1):
            at = T + 60 * n
            if n == 9 or (n, item) == (10, "item3"):
                continue
            row = {"user": f"u{n % 4}", "visit": f"v{n}", "sku": item, "at": at}
            yield row | {"place": place, "price": place / 2}


def lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def visited(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("queries")
    made = Chain(spark, folder)
    lines(folder / "visits.jsonl", visits())
    lines(folder / "shown.jsonl", shown())
    steps = yaml.safe_load(BLOCKS[4].replace("/data/shop", str(folder)))
    context = made.context("ingest")
    outcome = ingest.run(context, ingest.Job(**steps["ingest"]))
    made._record("ingest", "ingest", outcome, context.read_versions)
    named = {name: value for name, value in steps["next_event"].items() if name != "stage"}
    made.run("next_event", prepare, **named, fractions=(0.5, 0.25, 0.25))
    made.run("popularity", train_baseline, source="next_event", model="popularity")
    named = {name: value for name, value in steps["shown"].items() if name != "stage"}
    made.run("shown", candidates, **named)
    return made


def test_a_split_of_sessions_keeps_user_session_action_and_step(visited: Chain) -> None:
    rows = {
        (row.query_id, row.step): (row.user_id, row.session_id, row.action, row.item_id, row.part)
        for row in visited.rows(c.SPLITS, "next_event")
    }
    assert len(rows) == 48 and visited.done["next_event"].summary["query_kind"] == "session"
    assert rows["u3#v11", 4] == ("u3", "v11", "buy", "item3", "test")  # last by step alone
    assert rows["u3#v11", 1] == ("u3", "v11", "view", "home", "test_fold_in")
    assert rows["u2#v6", 4][-1] == "valid" and rows["u0#v0", 4][-1] == "train"
    stored = visited.lake.read(c.IMPRESSIONS).where("query_id = 'u3#v11'").orderBy(c.POSITION)
    assert [
        (row.query_kind, row.item_id, row.position, row.ts, row.value, row.context)
        for row in stored.collect()
    ][:2] == [
        ("session", "item4", 1, T + 660, None, {"price": "0.5"}),
        ("session", "item3", 2, T + 660, None, {"price": "1.0"}),
    ]


def test_shown_lists_are_the_candidates_in_their_order(visited: Chain) -> None:
    run = visited.done["shown"]
    rows = [row for row in visited.rows(c.CANDIDATES, "shown") if row.query_id == "u3#v11"]
    rows.sort(key=lambda row: row.position)
    assert [(row.item_id, row.position, row.source) for row in rows] == [
        ("item4", 1, "shown"),
        ("item3", 2, "target"),
        ("item2", 3, "shown"),
        ("item1", 4, "shown"),
    ]
    assert {(row.query_kind, row.ts, row.context["price"]) for row in rows[1:2]} == {
        ("session", T + 660, "1.0")
    }
    facts = {name: run.summary[name] for name in ("queries", "rows", "source", "fewest", "most")}
    assert facts == {"queries": 2, "rows": 7, "source": "shown", "fewest": 3, "most": 4}
    odd = ("targets_not_shown", "queries_without_list", "impressions_of_no_query")
    assert [run.summary[name] for name in odd] == [2, 1, 4]


def test_a_ranker_reads_the_places_of_a_shown_list(visited: Chain) -> None:
    """A model for which a later place is worth more turns the list round; queries that it has never
    met are no obstacle.
    """
    place = Feature(name="shown", side="event", kind="number")
    model = registry.build("logistic", {}, Sizes(12, 6, worlds.SIZES.statistics, (place,)), seed=3)
    with torch.no_grad():
        model.table.table.weight.zero_()
        model.table.table.weight[model.fields.start["shown"] + 1] = 1.0
    folder = visited.root / "runs" / "clicks"
    store.save(folder / "checkpoints" / "best", model, "logistic")
    trained = {
        "run_id": "clicks-1",
        "step": "clicks",
        "stage": "train_deep",
        "upstream": {"next_event": "next_event-1"},
        "config": {},
        "run_dir": str(folder),
        "summary": {"model": "logistic", "checkpoint": "checkpoints/best"},
    }
    visited.done["clicks"] = visited.done["next_event"].model_copy(update=trained)
    visited.lake.add_run(visited.done["clicks"])
    job = {"source": "next_event", "candidates": "shown", "task": "ranking"}
    visited.run("rerank", score, model="clicks", **job)
    lists: dict[str, dict[int, str]] = {}
    for row in visited.rows(c.RECOMMENDATIONS, "rerank"):
        lists.setdefault(row.query_id, {})[row.rank] = row.item_id
    assert lists == {
        "u2#v10": {1: "item1", 2: "item2", 3: "item4"},
        "u3#v11": {1: "item1", 2: "item2", 3: "item3", 4: "item4"},
    }
    visited.run("by_counts", score, model="popularity", source="next_event", candidates="shown")
    of = ["rerank", "by_counts"]
    measured = visited.run("order", evaluate, source="next_event", of=of, ks=[3], replicas=100)
    values = {
        (row["task"], row["model"]): row["value"]
        for row in measured.summary["results"]
        if row["metric"] == "mrr"
    }
    assert values["shown_ranking", "logistic"] == pytest.approx(1 / 9)  # third on one list of three
    assert values["shown_ranking", "popularity"] == pytest.approx(1 / 3)


def test_lists_metrics_and_show_speak_of_sessions(
    visited: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    visited.run("listed", score, model="popularity", source="next_event", k=3)
    measured = visited.run(
        "ranking", evaluate, source="next_event", of=["listed"], ks=[1], replicas=100
    )
    rows = visited.rows(c.METRICS, "ranking")
    assert {row.query_kind for row in rows} == {"session"}
    assert measured.summary["users"] == 3  # the sessions of the test part
    lake = Direct(visited.lake.root)
    for named in ("u3#v11", "v11"):
        shown = show.shown(lake, named)
        assert shown == show.shown(Gathered(visited.lake), named)  # as Spark reads the tables
        terminal.query(Console(width=100), shown)
        said = " ".join(capsys.readouterr().out.split())
        assert "session u3#v11: the last 4 events" in said and "popularity" in said
        assert said.index("item3") < said.index("item2") < said.index("home")  # newest first
    for named, found in (("u3", "several: u3#v11, u3#v3, u3#v7"), ("nobody", "no event in the")):
        with pytest.raises(DataError, match=found):
            show.shown(lake, named)


@pytest.mark.parametrize(
    ("repeats", "names"), [(True, ["home", "home", "item2"]), (False, ["home", "item2"])]
)
def test_a_history_is_in_order_with_repeats_where_the_model_reads_them(
    visited: Chain, repeats: bool, names: list[str]
) -> None:
    scoring = Scoring(visited.context("histories"), "next_event", "test", Path(), 1)
    [row] = scoring._histories(repeats).where("query_id = 'u3#v11'").collect()
    index = visited.lake.read(c.ITEM_INDEX).collect()
    items = {number: item_id for item_id, number in index}
    assert [items[number] for number in row.history] == names and row._scored


def test_what_was_met_may_be_in_lists(visited: Chain) -> None:
    """Every visit begins at home: what all met is in lists that keep it alone."""
    for seen in ("leave_out", "keep"):
        visited.run(seen, score, model="popularity", source="next_event", k=2, seen=seen)
    best = {
        seen: {row.item_id for row in visited.rows(c.RECOMMENDATIONS, seen)}
        for seen in ("leave_out", "keep")
    }
    assert best["keep"] == {"home", "item3"} and "home" not in best["leave_out"]


def playlists(spark: SparkSession, owner: str | None = "u") -> Any:
    """Ten playlists of ten tracks each, all of one time, in the order of their places."""
    rows = [
        (owner or f"p{n}", f"t{(7 * n + place) % 40}", T, 1.0, f"p{n}", None, place, None)
        for n in range(10)
        for place in range(10)
    ]
    return spark.createDataFrame(rows, SHAPE).repartition(3)


@pytest.mark.parametrize(
    ("known", "to_find"), [(0.8, range(8, 10)), (3, range(3, 10)), (10, range(0))]
)
def test_the_tail_of_a_held_out_playlist_is_to_be_found(
    spark: SparkSession, known: float, to_find: range
) -> None:
    rule = RULES["playlist_continuation"](known=known, valid_playlists=2, test_playlists=3)
    rows = rule.assign(playlists(spark), 1).collect()
    parts: dict[str, dict[int, str]] = {}
    for row in rows:
        assert row.user_id == "u" and row.session_id == row.query_id
        parts.setdefault(row.query_id, {})[row.position] = row.part
    of_playlist = []
    for places in parts.values():
        part = min(places.values(), key=lambda part: len(part)) if to_find else places[0]
        part = part.removesuffix("_fold_in")
        of_playlist.append(part)
        wanted = dict.fromkeys(to_find, part) if part != "train" else {}
        fold_in = "train" if part == "train" else f"{part}_fold_in"
        assert places == {place: wanted.get(place, fold_in) for place in range(10)}
    assert sorted(of_playlist) == ["test"] * 3 + ["train"] * 5 + ["valid"] * 2


def test_one_order_for_rules_and_histories(spark: SparkSession) -> None:
    """Time, then step, then position, then a hash of query and item."""
    rows = [
        ("a", 2, None, None),
        ("b", 1, 1, None),
        ("c", 1, 2, 1),
        ("d", 1, 2, 2),
        *((item, 3, None, None) for item in "xyz"),
    ]
    shape = "item_id string, ts long, step int, position int"
    events = spark.createDataFrame(rows, shape).withColumns(
        {c.QUERY_ID: F.lit("q"), c.VALUE: F.lit(1.0)}
    )
    by_hash = events.select(c.ITEM_ID, F.xxhash64(c.QUERY_ID, c.ITEM_ID).alias("hash")).collect()
    tied = sorted("xyz", key=lambda item: -{row[0]: row[1] for row in by_hash}[item])
    expected = [*"bcda", *tied]
    oldest = events.orderBy(queries.oldest_first()).collect()
    assert [row.item_id for row in oldest] == expected
    place = F.row_number().over(queries.newest_first(c.QUERY_ID))
    newest = events.withColumn("place", place).orderBy("place").collect()
    assert [row.item_id for row in newest] == expected[::-1]


def test_ids_of_sessions_do_not_collide(spark: SparkSession) -> None:
    rows = [("a", "b#c"), ("a#b", "c"), ("a\\", "#b"), ("a", None)]
    events = spark.createDataFrame(rows, "user_id string, session_id string")
    ids = [row[0] for row in events.select(queries.id_of("session")).collect()]
    assert ids == ["a#b#c", "a\\#b#c", "a\\\\##b", None]


@pytest.mark.parametrize(
    ("stage", "job", "message"),
    [
        (
            prepare,
            {"source": "bare", "rule": "playlist_continuation"},
            r"found 2 without session_id; expected one in every event\. To mend: name that column",
        ),
        (
            candidates,
            {"source": "users", "among": "shown"},
            r"among: found shown, and no impression of a user; .*: user_id for a user, user_id and",
        ),
    ],
)
def test_what_is_missing_is_named(
    visited: Chain, stage: Any, job: dict[str, Any], message: str
) -> None:
    if job["source"] == "bare":
        bare = Chain(visited.spark, visited.root / "bare")
        bare.ingest([("a", "x", 1, 1.0), ("b", "y", 2, 1.0)])
        visited_or_bare, job = bare, job | {"source": "ingest"}
    else:
        visited.run("users", prepare, source="ingest", rule="leave_last_out")
        visited_or_bare = visited
    with pytest.raises(RecsysError, match=message) as refused:
        stage.run(visited_or_bare.context("refused"), stage.Job(**job))
    assert isinstance(refused.value, (DataError, ConfigError))


def test_impressions_say_whose_they_are() -> None:
    events = {"files": "x", "columns": {"user_id": "u", "item_id": "i"}, "values": "none"}
    nobody = {"files": "x", "columns": {"item_id": "i", "ts": "t"}}
    source = {"interactions": events, "impressions": nobody}
    with pytest.raises(ValueError, match="columns must name user_id, session_id or both"):
        ingest.Job(stage="ingest", dataset="x", source=source)
