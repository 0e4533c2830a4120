"""The export stage: the set holds just the split's rows, is whole or absent, and says what is wrong
with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark.core import columns as c
from recsys_spark.core import shardset
from recsys_spark.core.contracts import MANIFEST, VERSION, ShardSet
from recsys_spark.core.errors import DataError, ShardError
from recsys_spark.etl.shards import side
from recsys_spark.stages import export_shards, prepare
from recsys_spark.stages.bridge.shard_set import FOLDER
from tests.spark.prepared import Steps, crowd


@pytest.fixture(scope="module")
def steps(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    made = Steps(spark, tmp_path_factory.mktemp("export"))
    made.ingest(crowd())
    made.run("prepare", prepare, source="ingest")
    made.run("pointwise", export_shards, source="prepare")
    made.run("profile", export_shards, source="prepare", layout="profile", positive_min=3.0)
    made.run("pairs", export_shards, source="prepare", layout="pairs", positive_min=3.0)
    return made


def folder(steps: Steps, step: str) -> Path:
    return steps.root / "runs" / step / FOLDER


def split_rows(steps: Steps, part: str) -> list[tuple[int, int, float]]:
    rows = steps.lake.read(c.SPLITS).where(f"part = '{part}'").collect()
    return sorted((row["query_idx"], row["item_idx"], row["value"]) for row in rows)


def read(place: Path, shards: ShardSet, part: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(place / file.path) for file in shards.parts[part].files])


def lists(place: Path, shards: ShardSet, name: str) -> dict[int, list[int]]:
    indptr, indices = (
        np.load(place / shards.side[name].indptr),
        np.load(place / shards.side[name].indices),
    )
    return {
        user: indices[start:end].tolist()
        for user, (start, end) in enumerate(zip(indptr, indptr[1:], strict=False))
        if end > start
    }


def grouped(rows: list[tuple[int, int, float]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for user, item, _ in rows:
        found.setdefault(user, []).append(item)
    return found


def test_pointwise_holds_every_event_of_the_split_once(steps: Steps) -> None:
    place = folder(steps, "pointwise")
    shards = shardset.load(place, digests=True)
    for part in ("train", "valid"):
        table = read(place, shards, part)
        rows = zip(
            *(table.column(name).to_pylist() for name in ("query_idx", "item_idx", "label")),
            strict=True,
        )
        assert sorted(rows) == split_rows(steps, part)
    assert lists(place, shards, "seen") == grouped(split_rows(steps, "train"))
    assert lists(place, shards, "targets") == grouped(split_rows(steps, "valid"))
    values = [value for *_, value in split_rows(steps, "train")]
    assert shards.statistics == {
        "label_count": len(values),
        "label_mean": pytest.approx(np.mean(values), rel=1e-12),
        "label_min": min(values),
        "label_max": max(values),
    }
    assert (shards.num_users, shards.num_items) == (30, steps.done["prepare"].summary["num_items"])
    assert shards.table_versions == {c.SPLITS: steps.done["prepare"].output_versions[c.SPLITS]}
    assert shards.fingerprint == steps.done["pointwise"].shard_fingerprint


def test_profile_holds_one_row_a_user_of_positive_events(steps: Steps) -> None:
    place = folder(steps, "profile")
    shards = shardset.load(place, digests=True)
    rows = {
        row["query_idx"]: list(zip(row["item_idx"], row["value"], strict=True))
        for row in read(place, shards, "train").to_pylist()
    }
    expected: dict[int, list[tuple[int, float]]] = {}
    for user, item, value in split_rows(steps, "train"):
        if value >= 3:
            expected.setdefault(user, []).append((item, value))
    assert rows == expected
    # Seen are all training events; targets the liked ones.
    assert lists(place, shards, "seen") == grouped(split_rows(steps, "train"))
    assert lists(place, shards, "targets") == grouped(
        [row for row in split_rows(steps, "valid") if row[2] >= 3]
    )


@pytest.mark.parametrize("by", ["user", "item"])
def test_rating_profiles_hold_what_is_known_beside_what_is_held(steps: Steps, by: str) -> None:
    """In train every training rating, in valid every held one beside the training profile of the
    same user or item.
    """
    steps.run(by, export_shards, source="prepare", layout="profile", by=by)
    place = folder(steps, by)
    shards = shardset.load(place, digests=True)
    mine, other = ("query_idx", "item_idx") if by == "user" else ("item_idx", "query_idx")
    turned = {
        part: sorted(
            (user, item, value) if by == "user" else (item, user, value)
            for user, item, value in split_rows(steps, part)
        )
        for part in ("train", "valid")
    }

    def entries(rows: list[dict[str, Any]], index: str, value: str) -> list[tuple[int, int, float]]:
        return [
            (row[mine], i, v)
            for row in sorted(rows, key=lambda row: row[mine])
            for i, v in zip(row[index], row[value], strict=True)
        ]

    train, valid = (read(place, shards, part).to_pylist() for part in ("train", "valid"))
    assert (
        shards.by == by
        and list(shards.parts) == ["train", "valid"]
        and shards.statistics["label_count"] == len(turned["train"])
    )
    assert entries(train, other, "value") == turned["train"] and all(
        not row["held_idx"] for row in train
    )
    assert entries(valid, "held_idx", "held_value") == turned["valid"]
    asked = {row[mine] for row in valid}
    assert entries(valid, other, "value") == [row for row in turned["train"] if row[0] in asked]
    assert export_shards.plan(
        steps.context(by), export_shards.Job(source="prepare", layout="profile", by=by)
    )["rows"] >= len(train)


@pytest.mark.parametrize("layout", ["pointwise", "profile"])
def test_validation_events_may_be_trained_on(steps: Steps, layout: str) -> None:
    step = f"{layout} of all"
    steps.run(step, export_shards, source="prepare", layout=layout, fit="train+valid")
    shards = shardset.load(folder(steps, step), digests=True)
    both = sorted(split_rows(steps, "train") + split_rows(steps, "valid"))
    table = read(folder(steps, step), shards, "train")
    assert list(shards.parts) == ["train"] and list(shards.side) == ["seen"]
    assert lists(folder(steps, step), shards, "seen") == grouped(both) and shards.statistics[
        "label_count"
    ] == len(both)
    planned = export_shards.plan(
        steps.context(step), export_shards.Job(source="prepare", layout=layout, fit="train+valid")
    )["rows"]
    if layout == "pointwise":
        assert (
            sorted(
                zip(
                    *(
                        table.column(name).to_pylist()
                        for name in ("query_idx", "item_idx", "label")
                    ),
                    strict=True,
                )
            )
            == both
        )
        assert planned == len(both)
    else:
        assert (
            sorted(
                (row["query_idx"], item, value)
                for row in table.to_pylist()
                for item, value in zip(row["item_idx"], row["value"], strict=True)
            )
            == both
        )
        assert planned >= len(table) and not any(table.column("held_idx").to_pylist())


def test_pairs_hold_each_positive_once_and_no_label(steps: Steps) -> None:
    place = folder(steps, "pairs")
    shards = shardset.load(place, digests=True)
    table = read(place, shards, "train")
    assert (
        table.column_names == ["query_idx", "item_idx"]
        and list(shards.parts) == ["train"]
        and shards.statistics == {}
    )
    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    assert sorted(rows) == [
        (user, item) for user, item, value in split_rows(steps, "train") if value >= 3
    ]
    assert lists(place, shards, "seen") == grouped(split_rows(steps, "train"))
    assert lists(place, shards, "targets") == grouped(
        [row for row in split_rows(steps, "valid") if row[2] >= 3]
    )


def test_a_rerun_gives_the_same_set_and_clears_what_a_kill_left(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(steps, "killed")
    with monkeypatch.context() as killed:
        killed.setattr(side, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        # A killed process cleans nothing up
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            steps.run("killed", export_shards, source="prepare")
    assert not place.exists() and list(place.parent.glob(".tmp-*"))
    assert (
        steps.run("killed", export_shards, source="prepare").shard_fingerprint
        == steps.done["pointwise"].shard_fingerprint
    )
    assert [path.name for path in place.parent.iterdir()] == [FOLDER]
    assert {path.relative_to(place) for path in place.rglob("*")} == {
        path.relative_to(folder(steps, "pointwise"))
        for path in folder(steps, "pointwise").rglob("*")
    }


def test_what_cannot_be_exported_leaves_the_older_set(steps: Steps) -> None:
    before = {
        path: path.read_bytes() for path in folder(steps, "pointwise").rglob("*") if path.is_file()
    }
    with pytest.raises(
        DataError,
        match=r"training part of .*: found no row; expected at least one. To mend: loosen "
        r".*positive_min",
    ):
        steps.run("pointwise", export_shards, source="prepare", positive_min=6.0)
    few = Steps(steps.spark, steps.root / "few")
    few.ingest([("a", f"i{n}", n, 1.0) for n in range(5)])
    few.run("prepare", prepare, source="ingest")
    with pytest.raises(
        ShardError,
        match=r"found 3 training rows; expected one for each of 4 workers. To mend: lower "
        r"num_workers",
    ):
        few.run("pointwise", export_shards, source="prepare", num_workers=4)
    assert not folder(few, "pointwise").exists()
    assert {
        path: path.read_bytes() for path in folder(steps, "pointwise").rglob("*") if path.is_file()
    } == before


def test_workers_that_do_not_divide_the_shards_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_workers 3 must divide virtual_shards 64"):
        export_shards.Job(source="prepare", num_workers=3)


def test_profiles_of_items_need_values() -> None:
    for job in ({"layout": "profile", "label": "one"}, {"layout": "pointwise"}):
        with pytest.raises(
            ValidationError, match="by: item is for layout profile with label value"
        ):
            export_shards.Job(source="prepare", by="item", **job)  # type: ignore[arg-type]


def test_the_plan_tells_the_rows_and_starts_nothing(steps: Steps) -> None:
    for step, job in (
        ("pointwise", {}),
        ("profile", {"layout": "profile"}),
        ("pairs", {"layout": "pairs"}),
    ):
        plan = export_shards.plan(steps.context(step), export_shards.Job(source="prepare", **job))
        made = shardset.load(folder(steps, step))
        assert plan["row_group_rows"] == max(made.parts["train"].files[0].row_groups)
        assert plan["rows"] == sum(part.rows for part in made.parts.values()) or step != "pointwise"
    assert not (steps.root / "runs" / "planned").exists()


def cut(place: Path) -> None:
    file = place / "train/v01.parquet"
    file.write_bytes(file.read_bytes()[:-7])


def swap(place: Path) -> None:
    file = place / "seen.indices.npy"
    file.write_bytes(file.read_bytes()[:-4] + b"\x01\x02\x03\x04")


def edit(place: Path, **values: Any) -> None:
    manifest = place / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | values))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda place: (place / MANIFEST).unlink(),
            r"manifest.json: found no such file; expected the manifest of a finished shard set",
        ),
        (
            lambda place: (place / MANIFEST).write_text("{"),
            r"manifest.json, the whole file: found .*Invalid JSON",
        ),
        (
            lambda place: edit(place, num_users=31),
            r"manifest.json, fingerprint: found \w{12}; expected \w{12}, that of its contents",
        ),
        (
            lambda place: edit(place, layout="cube"),
            r"manifest.json, fingerprint: found \w{12}; expected \w{12}, that of its contents",
        ),
        (
            lambda place: edit(place, version=99),
            rf"manifest.json, version: found 99; expected {VERSION}\b",
        ),
        (
            lambda place: (place / "train/v02.parquet").unlink(),
            r"train/v02.parquet: found no such file; expected \d+ bytes",
        ),
        (cut, r"train/v01.parquet: found \d+ bytes; expected \d+ bytes"),
        (swap, r"seen.indices.npy: found SHA-256 \w{12}; expected \w{12}"),
    ],
)
def test_a_spoilt_set_is_named(steps: Steps, tmp_path: Path, spoil: Any, message: str) -> None:
    place = tmp_path / "shards"
    shutil.copytree(folder(steps, "pointwise"), place)
    shardset.load(place, digests=True)
    spoil(place)
    with pytest.raises(ShardError, match=message + r".* To mend: run export_shards again"):
        shardset.load(place, digests=True)


def test_a_set_that_the_job_was_not_made_for_is_refused(steps: Steps) -> None:
    with pytest.raises(
        ShardError,
        match=r"found fingerprint \w{12}; expected abc. To mend: give the shards that this job "
        r"was made for",
    ):
        shardset.load(folder(steps, "pointwise"), expect="abc")
