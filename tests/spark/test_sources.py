"""Events, users and items from files and tables of a team's own: the right ids, times and values of
every form, read once and for all.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from pyspark.sql import SparkSession

from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline.context import Outcome
from tests import rawsets
from tests.logs import logged
from tests.rawsets import events, quarantined
from tests.sources import SOLD, TAKEN, T, job, rows, run, sold


@pytest.mark.parametrize("form", ["parquet", "orc"])
def test_files_with_columns(spark: SparkSession, lake: Lake, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "events [2026]"
    sold(spark).repartition(2).write.format(form).save(str(folder))
    outcome = run(lake, {"files": str(folder)})
    assert events(lake) == TAKEN
    assert {row.action for row in rows(lake)} == {"buy", "view"}
    assert {row.session_id for row in rows(lake)} == {"v1", "v2", None}
    assert run(lake, {"files": str(folder)}, "ingest-2").tables == outcome.tables
    assert quarantined(lake) == []


def test_a_delta_table_by_path_and_by_name_at_a_version_and_at_the_latest(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    path = str(tmp_path / "sold")
    sold(spark).write.format("delta").save(path)
    sold(spark, [(14, "1", T + 9, 1, None, "buy"), (None, "1", T, 1, None, "buy")]).write.format(
        "delta"
    ).mode("append").save(path)
    run(lake, {"table": path, "version": 0})
    assert events(lake) == TAKEN
    spark.sql(f"CREATE TABLE sold_by_name USING delta LOCATION '{path}'")
    try:
        outcome = run(lake, {"table": "sold_by_name"}, "ingest-2", max_quarantine_share=0.5)
        again = run(lake, {"table": "sold_by_name"}, "ingest-3", max_quarantine_share=0.5)
    finally:
        spark.sql("DROP TABLE sold_by_name")
    assert events(lake) == sorted([*TAKEN, ("14", "1", T + 9, 1.0)])
    assert outcome.summary["sources"]["interactions"]["version"] == 1
    assert again.tables == outcome.tables
    [(source, line, reason, raw)] = quarantined(lake)
    assert (source, line, reason) == ("sold_by_name@1", None, "missing_id")
    assert '"sku":"1"' in raw and '"stars":1' in raw


def test_users_and_items_with_fields_of_their_own(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    sold(spark).write.parquet(str(tmp_path / "events"))
    spark.createDataFrame(
        [(12, 41.0, "DE"), (13, None, "FR")], "id long, age double, country string"
    ).write.format("delta").save(str(tmp_path / "crm"))
    spark.createDataFrame(
        [("007", "Bond", ["a", "b"], 9.5), ("08", None, None, None)],
        "sku string, name string, tags array<string>, price double",
    ).write.parquet(str(tmp_path / "catalogue"))
    users = {
        "table": str(tmp_path / "crm"),
        "columns": {"user_id": "id"},
        "keep": {"age": "age", "land": "upper(country)"},
    }
    items = {
        "files": str(tmp_path / "catalogue"),
        "columns": {"item_id": "sku", "title": "name"},
        "keep": ["tags", "price"],
    }
    here = {"files": str(tmp_path / "events")}
    run(lake, here, users=users, items=items, max_quarantine_share=0.5)
    assert {row.user_id: row.fields for row in lake.read("users").collect()} == {
        "12": {"age": "41", "land": "DE"},
        "13": {"land": "FR"},
    }
    assert {row.item_id: (row.title, row.fields) for row in lake.read("items").collect()} == {
        "007": ("Bond", {"tags": "a|b", "price": "9.5"}),
        "08": (None, {}),
    }
    assert events(lake) == TAKEN[:2]
    assert {row[2] for row in quarantined(lake)} == {"unknown_item", "unknown_user"}
    loose = here | {"unknown_ids": "keep"}
    run(lake, loose, "ingest-2", users=users, items=items)
    assert events(lake) == TAKEN


def steps(lake: Lake, table: str, **values: object) -> Outcome:
    """One completed run of a pipeline that reads what is new of a table."""
    told = job({"table": table, "incremental": True, "unknown_ids": "keep"}, **values)
    number = len(lake.runs())
    outcome = rawsets.run(lake, told, f"ingest-{number}")
    record = rawsets.completed(f"ingest-{number}", "ingest", told.model_dump(mode="json"))
    ended = {"summary": outcome.summary, "ended_at": float(number)}
    lake.add_run(record.model_copy(update=ended))
    return outcome


@pytest.mark.parametrize("feed", ["true", pytest.param("false", marks=pytest.mark.soak)])
def test_what_a_delta_table_got_since_the_last_run(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture, feed: str
) -> None:
    path = str(tmp_path / "sold +%20")
    spark.conf.set("spark.databricks.delta.properties.defaults.enableChangeDataFeed", feed)
    try:
        sold(spark).write.format("delta").save(path)
    finally:
        spark.conf.unset("spark.databricks.delta.properties.defaults.enableChangeDataFeed")
    steps(lake, path)
    more = [("20", "1", T + 20, 1.0), ("21", "1", T + 21, 1.0)]
    sold(
        spark, [(20, "1", T + 20, 1, None, "buy"), (21, "1", T + 21, 1, None, "buy")]
    ).write.format("delta").mode("append").save(path)
    # A run that died before it was recorded is taken up
    told = job({"table": path, "incremental": True, "unknown_ids": "keep"})
    rawsets.run(lake, told, "died")
    outcome = steps(lake, path)
    assert (outcome.summary["rows"], events(lake)) == (
        {"interactions": 2},
        sorted([*TAKEN, *more]),
    )
    assert outcome.summary["sources"]["interactions"]["since"] == 0
    assert steps(lake, path).summary["rows"] == {"interactions": 0}
    assert events(lake) == sorted([*TAKEN, *more]) and "rows_taken_away" not in logged(caplog)

    spark.sql(f"DELETE FROM delta.`{path}` WHERE customer = 20")
    steps(lake, path)
    assert "DELETE at version 2" in logged(caplog) and events(lake) == sorted([*TAKEN, *more])
    if feed == "true":  # off for a while
        change = f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES (delta.enableChangeDataFeed = "
        spark.sql(f"{change} false)")
        sold(spark, [(22, "1", T + 22, 1, None, "buy")]).write.format("delta").mode("append").save(
            path
        )
        spark.sql(f"{change} true)")
        assert steps(lake, path).summary["rows"] == {"interactions": 1}
        assert "event=no_change_feed" in logged(caplog)
        assert events(lake) == sorted([*TAKEN, *more, ("22", "1", T + 22, 1.0)])


def test_a_table_rewritten_vacuumed_or_made_anew_since_the_last_run(
    spark: SparkSession, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sold"
    delta = {"delta.checkpointInterval": "1"}
    sold(spark).write.format("delta").options(**delta).save(str(path))
    steps(lake, str(path))
    more = [*SOLD, (14, "1", T + 9, 1, None, "buy")]
    sold(spark, more).write.format("delta").mode("overwrite").save(str(path))
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    spark.sql(f"VACUUM delta.`{path}` RETAIN 0 HOURS")
    spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    steps(lake, str(path))
    now = sorted([*TAKEN, ("14", "1", T + 9, 1.0)])
    assert events(lake) == now and "WRITE at version 1" in logged(caplog)

    sold(spark, [SOLD[0]]).write.format("delta").mode("append").save(str(path))
    for file in [*path.glob("_delta_log/*0[0-3].*json"), *path.glob("_delta_log/*0[0-3].check*")]:
        file.unlink()  # as the clean-up of an old log does
    for file in path.glob("_delta_log/*.crc"):
        file.unlink()
    spark.catalog.clearCache()
    assert steps(lake, str(path)).summary["rows"] == {"interactions": 6}
    assert "is not there any more" in logged(caplog) and events(lake) == now

    shutil.rmtree(path)
    sold(spark).write.format("delta").save(str(path))
    assert steps(lake, str(path)).summary["rows"] == {"interactions": 4}
    assert "it is another table than the one that the last run read" in logged(caplog)
    assert events(lake) == now


@pytest.mark.parametrize("zone", ["UTC", None])
def test_times_in_nanoseconds_as_pandas_writes_them(
    lake: Lake, tmp_path: Path, zone: str | None
) -> None:
    times = pd.to_datetime([T, T + 1, T + 2], unit="s", utc=zone is not None)
    frame = pd.DataFrame({"customer": [1, 2, 3], "sku": ["a", "b", "a"], "purchased_at": times})
    frame.to_parquet(tmp_path / "sold.parquet", version="2.6")
    kind = pq.read_schema(tmp_path / "sold.parquet").field("purchased_at").type
    assert kind == pa.timestamp("ns", tz=zone)
    columns = {"user_id": "customer", "item_id": "sku", "ts": "purchased_at"}
    entry = {"files": str(tmp_path), "columns": columns, "values": "none"}
    run(lake, entry | ({} if zone else {"zone": "Europe/Berlin"}))
    hour = 0 if zone else 3600
    assert [row.ts for row in rows(lake)] == [T - hour, T + 1 - hour, T + 2 - hour]


def test_stopped_between_any_two_commits_and_run_again_is_one_clean_run(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users were replaced before, so that a commit of each kind is among them."""
    sold(spark).coalesce(1).write.parquet(str(tmp_path / "sold"))
    crm = str(tmp_path / "crm")
    users = {"table": crm, "columns": {"user_id": "id"}, "keep": ["country"]}
    lakes = [Lake(spark, str(tmp_path / name)) for name in ("clean", "stopped")]
    told = job({"files": str(tmp_path / "sold")}, users=users, max_quarantine_share=0.5)
    for country in ("DE", "FR"):
        rows = [(12, country), (13, country)]
        frame = spark.createDataFrame(rows, "id long, country string").coalesce(1)
        frame.write.format("delta").mode("overwrite").save(crm)
        rawsets.run(lakes[0], told, f"ingest-{country}")
        stops = ("quarantine", "users") if country == "DE" else ("users",)
        for stop in stops:
            with monkeypatch.context() as patched:
                commit = Lake._commit

                def and_stop(
                    self: Lake,
                    name: str,
                    *rest: Any,
                    stop: str = stop,
                    commit: Callable = commit,
                    **named: Any,
                ) -> Any:
                    version = commit(self, name, *rest, **named)
                    if name == stop:
                        raise KeyboardInterrupt
                    return version

                patched.setattr(Lake, "_commit", and_stop)
                with pytest.raises(KeyboardInterrupt):
                    rawsets.run(lakes[1], told, f"ingest-{country}")
        rawsets.run(lakes[1], told, f"ingest-{country}")
    plain = [
        (
            events(lake),
            quarantined(lake),
            sorted((row.user_id, row.fields["country"]) for row in lake.read("users").collect()),
        )
        for lake in lakes
    ]
    assert plain[0] == plain[1] and plain[0][2] == [("12", "FR"), ("13", "FR")]
