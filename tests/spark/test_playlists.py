"""The RecSys Challenge 2018 from its files to the organisers' figures: small generated slices."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.baselines import title_lookup
from recsys_spark.baselines.fitting.training import Training
from recsys_spark.commands.submission import playlists as submission
from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError, QualityError
from recsys_spark.datasets.generators import playlists as generator
from recsys_spark.etl.split import RULES, rule_of
from recsys_spark.etl.split.scenarios import SCENARIO, SCENARIOS, UNTITLED
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import runner, steps
from recsys_spark.scoring import scorer
from tests.rawsets import job, judge, quarantined, run
from tests.spark.typed import ROOT
from tests.unit.test_playlist_files import a_slice, playlist

SHAPE = (
    "user_id string, item_id string, ts long, value double, session_id string, action string, "
    "position int, step int"
)


def told(folder: Path, **values: object) -> Any:
    return job(folder, dataset="spotify-mpd", **values)


def test_slices_become_tables(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    more = {"modified_at": 1493424000, "name": " Chill!!  (2017)", "num_followers": 3}
    a_slice(folder / "mpd.slice.0-1.json", playlist(0, 7, 8, 7, **more), playlist(1, 9))
    first = run(lake, told(folder))
    assert first.summary["rows"] == {"users": 2, "items": 3, "interactions": 4}
    events = lake.read(c.INTERACTIONS).where("user_id = '0'").orderBy(c.POSITION).collect()
    assert [(row.session_id, row.item_id[-1], row.ts, row.step) for row in events] == [
        ("0", item, 1493424000, place) for place, item in enumerate("787")
    ]
    [user] = lake.read(c.USERS).where("user_id = '0'").collect()
    assert user.fields["title"] == "chill 2017" and user.fields["name"] == "Chill!!  (2017)"
    assert user.fields["num_followers"] == "3"
    [item] = lake.read(c.ITEMS).where("item_id LIKE '%7'").collect()
    assert item.title == "Song 7"
    # Once more: nothing is added. A slice more: its rows alone
    again = run(lake, told(folder), "ingest-2")
    assert again.tables == first.tables
    a_slice(folder / "mpd.slice.2-2.json", playlist(2, 7, 5))
    run(lake, told(folder), "ingest-3")
    assert lake.read(c.INTERACTIONS).count() == 6 and lake.read(c.USERS).count() == 3
    assert quarantined(lake) == []


def test_what_cannot_be_used_is_quarantined_with_its_place(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    odd = playlist(3, 1, 2)
    odd["tracks"][1]["tempo"] = 120
    del odd["tracks"][0]["track_uri"]
    several = (playlist(0, 1), playlist(1, 1, mood="calm"), playlist(0, 2), odd)
    path = a_slice(folder / "mpd.slice.0-5.json", *several, playlist(4, 1), playlist(5, 1))
    path.write_text(path.read_text()[:-60])
    tables, rejected = judge(lake, told(folder))
    assert [(row[0], row[1], row[2]) for row in rejected] == [
        ("mpd.slice.0-5.json", 2, "missing_key"),  # events: the second and third entry
        ("mpd.slice.0-5.json", 2, "unknown_key"),  # playlists, as all others
        ("mpd.slice.0-5.json", 3, "id_twice"),
        ("mpd.slice.0-5.json", 3, "unknown_key"),
        # Of 0 to 5, those that did not come whole
        ("mpd.slice.0-5.json", 6, "cut_short"),
        ("mpd.slice.0-5.json", 7, "cut_short"),
    ]
    assert sorted(row.user_id for row in tables[c.USERS]) == ["0", "3", "4"]
    assert len(tables[c.INTERACTIONS]) == 2
    with pytest.raises(QualityError, match=r"unusable|of 7|quarantine"):
        run(lake, told(folder))
    assert not lake.exists(c.INTERACTIONS)


def test_the_real_head_of_the_set_passes_unchanged(lake: Lake, tmp_path: Path) -> None:
    real = Path(os.environ.get("RECSYS_DATA", "")) / "recsys-challenge" / "2018"
    if not (real / "mpd.slice.0-36.json.gz").is_file():
        pytest.skip("no real playlists")
    shutil.copy(real / "mpd.slice.0-36.json.gz", tmp_path)
    tables, rejected = judge(lake, told(tmp_path))
    assert {table: len(rows) for table, rows in tables.items()} == {
        c.USERS: 37,
        c.ITEMS: 1907,
        c.INTERACTIONS: 2023,
    }
    assert rejected == []


def lists(spark: SparkSession) -> DataFrame:
    """For each number of known tracks eight playlists that are just long enough, and eight more of
    the shortest: no scenario can take the place of another.
    """
    lengths = [length for length in (110, 30, 12, 7, 3) for _ in range(8)] + [2] * 8
    rows = [
        (f"p{n}", f"t{(7 * n + place) % 300}", 5, 1.0, f"p{n}", None, place, place)
        for n, length in enumerate(lengths)
        for place in range(length)
    ]
    return spark.createDataFrame(rows, SHAPE).repartition(3)


def test_the_ten_scenarios(spark: SparkSession) -> None:
    events = lists(spark)
    rule = RULES["challenge_scenarios"](valid_playlists=10, test_playlists=20)
    named = events.withColumn(c.QUERY_ID, F.col(c.SESSION_ID))
    chosen = {row.query_id: row for row in rule.scenarios(named, 4).collect()}
    for part, each in (("test", 2), ("valid", 1)):
        counts = Counter(row[SCENARIO] for row in chosen.values() if row.part == part)
        assert counts == {scenario.name: each for scenario in SCENARIOS}
    rows = rule.assign(events, 4).collect()
    assert len(rows) == events.count()
    parts: dict[str, dict[int, str]] = {}
    for row in rows:
        parts.setdefault(row.query_id, {})[row.position] = row.part
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    drawn = []
    for query_id, places in parts.items():
        if query_id not in chosen:
            assert set(places.values()) == {c.TRAIN}
            continue
        scenario, part = scenarios[chosen[query_id][SCENARIO]], chosen[query_id].part
        known = {place for place, of_place in places.items() if of_place == f"{part}_fold_in"}
        assert len(known) == scenario.known
        assert {of for place, of in places.items() if place not in known} == {part}
        if scenario.random:
            drawn.append(known)
        else:
            assert known == set(range(scenario.known))
    assert all(known != set(range(len(known))) for known in drawn) and drawn[0] != drawn[1]
    assert sorted(map(tuple, rule.assign(events.repartition(5), 4).collect())) == sorted(
        map(tuple, rows)
    )


def test_too_few_long_playlists_are_named(spark: SparkSession) -> None:
    events = lists(spark).withColumn(c.QUERY_ID, F.col(c.SESSION_ID))
    rule = RULES["challenge_scenarios"](valid_playlists=0, test_playlists=40)
    with pytest.raises(
        DataError, match="title_first_100: found 8 of more than 100 tracks.*expected 8, and more"
    ):
        rule.scenarios(events, 1)


def test_what_is_known_of_a_held_out_playlist(spark: SparkSession) -> None:
    """Its title only where the scenario gives it, and nothing of what came later."""
    events = lists(spark).withColumn(c.QUERY_ID, F.col(c.SESSION_ID))
    fields = {"title": "x", "name": "X", "num_tracks": "9", "num_edits": "4"}
    users = events.select(c.QUERY_ID).distinct()
    users = users.withColumn("fields", F.from_json(F.lit(json.dumps(fields)), "map<string,string>"))
    rule = RULES["challenge_scenarios"](valid_playlists=10, test_playlists=20)
    chosen = {row.query_id: row[SCENARIO] for row in rule.scenarios(events, 4).collect()}
    known = {row.query_id: set(row.fields) for row in rule.known_fields(users, events, 4).collect()}
    for query_id, names in known.items():
        scenario = chosen.get(query_id)
        titled = set() if scenario in ("first_5", "first_10") else {"title", "name"}
        expected = set(fields) if scenario is None else titled | {"num_tracks"}
        assert names == expected, scenario


def test_titles_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    """Shares of the playlists with the title, with its words (a half together), and of all (a
    tenth).
    """
    titles = [(1, "A b"), (2, "a b"), (3, "b"), (4, "b a"), (5, None)]
    users = spark.createDataFrame(titles, "query_idx int, title string")
    users = users.select(c.QUERY_IDX, F.create_map(F.lit("title"), "title").alias("fields"))
    events = [(1, 1), (1, 2), (2, 1), (2, 1), (3, 3)]  # of 4 and 5 nothing is known
    rows = spark.createDataFrame(events, "query_idx int, item_idx int")
    training = Training(rows, 5, 3, 1, users)
    config = title_lookup.Config(words=0.5, everybody=0.1, shrink=0)
    facts = title_lookup.write(training, config, tmp_path / "index")
    assert facts["keys"] == 5  # two titles, two words, all
    own = spark.read.parquet(str(tmp_path / "index" / "queries")).toArrow().sort_by(c.QUERY_IDX)
    none = pa.array([[]] * 5, pa.list_(pa.int32()))
    [batch] = own.append_column("history", none).combine_chunks().to_batches()
    ranked = scorer.load(tmp_path / "index", k=3, seed=0).rank(batch).to_pylist()
    lists = {
        row[c.QUERY_IDX]: dict(zip(row[c.ITEM_IDX], row[c.SCORE], strict=True)) for row in ranked
    }
    of_all = {1: 0.1 * 2 / 3, 2: 0.1 / 3, 3: 0.1 / 3}
    words = {1: 0.25 + 0.25 * 2 / 3, 2: 0.125 + 0.25 / 3, 3: 0.25 / 3}
    title = {1: 1.0, 2: 0.5, 3: 0.0}
    assert lists[5] == pytest.approx(of_all)
    assert lists[4] == pytest.approx({item: of_all[item] + words[item] for item in of_all})
    assert lists[2] == pytest.approx(
        {item: of_all[item] + words[item] + title[item] for item in of_all}
    )
    with pytest.raises(DataError, match="field 'name': found no query with it"):
        title_lookup.write(training, title_lookup.Config(field="name"), tmp_path / "none")


@pytest.fixture(scope="module")
def done(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, dict[str, Any], Path]:
    """conf/pipelines/mpd.yaml on generated slices, as one command."""
    folder = tmp_path_factory.mktemp("mpd")
    generator.generate(folder / "data", playlists=250, tracks=4000, challenge=10, seed=3)
    pipeline, known = steps.load(
        ROOT / "conf" / "pipelines" / "mpd.yaml",
        [
            f"env.lake={folder / 'lake'}",
            f"env.runs={folder / 'runs'}",
            f"steps.ingest.data={folder / 'data'}",
            "steps.scenarios.test_playlists=20",
            "steps.scenarios.valid_playlists=0",
            "steps.ials.config.dim=8",
            "steps.ials.config.iterations=1",
            "steps.challenge.replicas=100",
        ],
    )
    lake = Lake(spark, pipeline.env.lake, Path(pipeline.env.runs))
    runs = runner.run(pipeline, list(known.values()), lake=lake, listener=lambda event: None)
    return lake, runs, folder


def values(done: tuple[Lake, dict[str, Any], Path], slice_name: str) -> dict[tuple[str, str], Any]:
    lake, runs, _ = done
    rows = lake.read(c.METRICS).where(F.col(c.RUN_ID) == runs["challenge"].run_id)
    rows = rows.where(F.col(c.SLICE) == slice_name).collect()
    return {(row.model, row.metric): row for row in rows}


@pytest.mark.soak
def test_one_command_measures_the_scenarios(done: tuple[Lake, dict[str, Any], Path]) -> None:
    of_all = values(done, "all")
    assert {row.query_kind for row in of_all.values()} == {"playlist"}
    assert {row.n for row in of_all.values()} == {20}
    # Tastes are planted in titles and in what stands together
    for model in ("title_lookup", "item_knn"):
        better, worse = (of_all[name, "r_precision"].value for name in (model, "popularity"))
        assert better > 1.5 * worse, model
    titled = values(done, "user.scenario:title")
    assert {row.n for row in titled.values()} == {2}
    assert titled["title_lookup", "playlist_ndcg"].value > (
        titled["item_knn", "playlist_ndcg"].value
    )
    # Where the title is withheld, twice two times, its look-up has what all have
    lake, runs, _ = done
    prepared = runs["scenarios"].summary
    chosen = rule_of(prepared).scenarios(lake.read(c.SPLITS), prepared["seed"])
    untitled = chosen.where(F.col(SCENARIO).isin(*UNTITLED)).join(
        lake.read(c.QUERY_INDEX), on=c.QUERY_ID
    )
    queries = lake.spark.read.parquet(f"{runs['title_lookup'].run_dir}/index/queries")
    sizes = untitled.join(queries, on=c.QUERY_IDX).select(F.size("rows")).collect()
    assert [row[0] for row in sizes] == [1] * 4
    page = Path(done[1]["report"].run_dir) / "report.html"
    told_page = page.read_text(encoding="utf-8")
    assert "R-precision with artists" in told_page and "Borda count" in told_page


@pytest.mark.soak
def test_the_answer_file_has_the_figures_of_the_table(
    done: tuple[Lake, dict[str, Any], Path], tmp_path: Path
) -> None:
    """Written from the table, scored from the file against what the split withheld."""
    lake, runs, _ = done
    counts = submission.write(lake, "score_item_knn", tmp_path / "answer.csv")
    assert counts == {"playlists": 20, "popular": 0}
    withheld: dict[str, set[str]] = {}
    for row in lake.read(c.SPLITS).where(F.col(c.PART) == c.TEST).collect():
        withheld.setdefault(row.query_id, set()).add(row.item_id)
    truth = tmp_path / "truth.jsonl"
    rows = [
        {"pid": int(pid), "tracks": [{"track_uri": uri} for uri in sorted(uris)]}
        for pid, uris in withheld.items()
    ]
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = submission.score(tmp_path / "answer.csv", truth)
    of_all = values(done, "all")
    for metric in ("r_precision", "playlist_ndcg", "clicks"):
        assert scored[metric] == pytest.approx(of_all["item_knn", metric].value), metric
    credited = of_all["item_knn", "r_precision_artist"].value
    assert credited == pytest.approx(_with_artists(lake, tmp_path / "answer.csv", withheld))


def _with_artists(lake: Lake, answer: Path, withheld: dict[str, set[str]]) -> float:
    """R-precision with artists, one playlist at a time."""
    artist = {row.item_id: row.fields["artist_id"] for row in lake.read(c.ITEMS).collect()}
    shares = []
    for line in answer.read_text().splitlines()[1:]:
        pid, *tracks = line.split(", ")
        wanted = withheld[pid]
        front = tracks[: len(wanted)]
        others = {artist[uri] for uri in front if uri not in wanted}
        credit = others & {artist[uri] for uri in wanted}
        shares.append((len(wanted & set(front)) + 0.25 * len(credit)) / len(wanted))
    return float(np.mean(shares))


@pytest.mark.soak
def test_both_engines_measure_alike(done: tuple[Lake, dict[str, Any], Path]) -> None:
    lake, _, folder = done
    pipeline, known = steps.load(
        ROOT / "conf" / "pipelines" / "mpd.yaml",
        [
            f"env.lake={folder / 'lake'}",
            f"env.runs={folder / 'runs'}",
            f"steps.ingest.data={folder / 'data'}",
            "steps.scenarios.test_playlists=20",
            "steps.scenarios.valid_playlists=0",
            "steps.ials.config.dim=8",
            "steps.ials.config.iterations=1",
            "steps.challenge.replicas=100",
            "steps.challenge.engine=spark",
        ],
    )
    del known["report"]
    runs = runner.run(pipeline, list(known.values()), lake=lake, listener=lambda event: None)
    [columnar, spark] = (
        {(row["model"], row["metric"]): row["value"] for row in run.summary["results"]}
        for run in (done[1]["challenge"], runs["challenge"])
    )
    assert columnar == spark


@pytest.mark.soak
def test_the_challenge_set_is_answered(
    done: tuple[Lake, dict[str, Any], Path], tmp_path: Path
) -> None:
    """Nothing of it is held out: those of which tracks are given get lists, the one of which only
    the title is known what most playlists have.
    """
    lake, folder = Lake(done[0].spark, str(tmp_path / "lake")), done[2]
    given = ["env.lake=x", f"env.runs={tmp_path / 'runs'}", f"steps.ingest.data={folder / 'data'}"]
    pipeline, known = steps.load(ROOT / "conf" / "pipelines" / "mpd-answer.yaml", given)
    runner.run(pipeline, list(known.values()), lake=lake, listener=lambda event: None)
    counts = submission.write(lake, "score_item_knn", tmp_path / "answer.csv")
    assert counts == {"playlists": 9, "popular": 1}
    assert submission.check(tmp_path / "answer.csv", folder / "data")["playlists"] == 10
    withheld = folder / "data" / "withheld.jsonl"
    assert submission.score(tmp_path / "answer.csv", withheld)["r_precision"] > 0.05
