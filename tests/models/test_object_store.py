"""Shard sets in a bucket: the same batches as from a folder, side files copied once, and every
refusal by name.

The bucket is moto's, served over HTTP on this host; other stores come through fsspec, shown with
its in-memory one.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Iterator

import fsspec
import numpy as np
import pytest
from pyarrow import fs

from recsys_spark.core.contracts import Reader as Settings
from recsys_spark.core.errors import ShardError
from recsys_spark.train.data import places, sides
from recsys_spark.train.data.reader import Reader
from tests import shardsets, training
from tests.models.test_reader import same

ENGINES = ("petastorm", "arrow", "memory")
URL = "s3://shards/sets/one"


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ShardError, match=r"shard set nosuch://host/sets: .*Protocol") as refused:
        places.Place("nosuch://me:secret@host/sets/?key=secret")
    assert "secret" not in str(refused.value)
    assert (
        places.Place("memory://container@account/sets").shown == "memory://container@account/sets"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    shardsets.pointwise(folder, virtual_shards=8, row_group=16)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    yield "http://{}:{}".format(*served.get_host_and_port())
    served.stop()


@pytest.fixture
def bucket(
    server: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fs.FileSystem]:
    """`shards`, with the shard set at sets/one; the environment names server, credentials and an
    empty cache.
    """
    for name, value in (
        ("AWS_ENDPOINT_URL", server),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        (places.CACHE, str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(name, value)
    places._opened.cache_clear()
    store = fs.S3FileSystem(
        endpoint_override=server, allow_bucket_creation=True, allow_bucket_deletion=True
    )
    store.create_dir("shards")
    fs.copy_files(str(folder), "shards/sets/one", destination_filesystem=store)
    yield store
    store.delete_dir("shards")
    places._opened.cache_clear()


def opened(url: str | Path, engine: str = "arrow", rank: int = 0, num_ranks: int = 1) -> Reader:
    return Reader(
        url,
        "train",
        batch_size=50,
        seed=3,
        rank=rank,
        num_ranks=num_ranks,
        settings=Settings(engine=engine, prefetch=2),
    )


def refused(url: str = URL, engine: str = "arrow") -> str:
    with pytest.raises(ShardError) as caught:
        opened(url, engine)
    return str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bucket_gives_the_batches_of_a_folder(
    bucket: fs.FileSystem, folder: Path, engine: str
) -> None:
    for rank, start in ((0, 0), (1, 3)):
        expected = list(opened(folder, rank=rank, num_ranks=2).epoch(1, start))
        assert expected and same(list(opened(URL, engine, rank, 2).epoch(1, start)), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_so_does_any_place_that_fsspec_knows(folder: Path, engine: str) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{folder}/", "/sets/two/", recursive=True)
    assert same(list(opened("memory://sets/two", engine).epoch(0)), list(opened(folder).epoch(0)))


@pytest.mark.parametrize(
    ("model", "layout", "options"),
    [("deepfm", "pointwise", {"fields": True, "clicks": True}), ("bpr_mf", "pairs", {})],
)
def test_a_training_from_a_bucket_is_that_from_a_folder(
    bucket: fs.FileSystem, tmp_path: Path, model: str, layout: str, options: dict[str, bool]
) -> None:
    """With all it reads beside the rows: fields of users and items, seen items, validation
    targets.
    """
    made = getattr(shardsets, layout)(tmp_path / "local", virtual_shards=8, **options)
    fs.copy_files(str(tmp_path / "local"), "shards/sets/trained", destination_filesystem=bucket)
    for name, place in (("here", str(tmp_path / "local")), ("there", "s3://shards/sets/trained")):
        job = training.job(tmp_path / name, tmp_path / "local", made, model, epochs=2)
        training.train_here(job.model_copy(update={"shards": place}))
    assert (
        training.difference(
            training.weights(tmp_path / "here"), training.weights(tmp_path / "there")
        )
        == 0.0
    )
    assert [
        line["epoch"]
        for line in map(json.loads, (tmp_path / "there" / "metrics.jsonl").read_text().splitlines())
    ] == [0, 1]


def test_a_trailing_slash_and_options_in_the_url_change_nothing(
    bucket: fs.FileSystem, folder: Path
) -> None:
    reader = opened(f"{URL}/?scheme=http")
    assert reader.folder == URL and same(list(reader.epoch(0)), list(opened(folder).epoch(0)))


def test_side_files_are_copied_once_and_then_mapped(
    bucket: fs.FileSystem, folder: Path, tmp_path: Path
) -> None:
    seen = opened(URL).shards.side["seen"]
    first = sides.csr(URL, seen)
    assert all(
        np.array_equal(mine, theirs)
        for mine, theirs in zip(first, sides.csr(str(folder), seen), strict=True)
    )
    assert all(
        isinstance(part, np.memmap) and Path(part.filename).is_relative_to(tmp_path / "cache")
        for part in first
    )
    bucket.delete_file(f"shards/sets/one/{seen.indices}")  # not asked for again
    assert np.array_equal(sides.csr(URL, seen)[1], first[1])


def test_a_side_file_that_is_another_is_refused_and_not_kept(
    bucket: fs.FileSystem, folder: Path, tmp_path: Path
) -> None:
    seen = opened(URL).shards.side["seen"]
    data = bytearray((folder / seen.indices).read_bytes())
    data[-1] ^= 1
    with bucket.open_output_stream(f"shards/sets/one/{seen.indices}") as out:
        out.write(bytes(data))
    for _ in range(2):
        with pytest.raises(
            ShardError,
            match=rf"{URL}/{seen.indices}: found SHA-256 .* expected {seen.indices_digest[:12]}",
        ):
            sides.csr(URL, seen)


def test_what_a_killed_rank_left_of_a_copy_is_not_taken_for_it(
    bucket: fs.FileSystem, folder: Path, tmp_path: Path
) -> None:
    seen = opened(URL).shards.side["seen"]
    (tmp_path / "cache" / "side").mkdir(parents=True)
    (tmp_path / "cache" / "side" / f".tmp-{seen.indices_digest}.npy-0123abcd").write_bytes(b"cut")
    assert np.array_equal(sides.csr(URL, seen)[1], np.load(folder / seen.indices))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cut_or_missing_object_is_named_before_the_first_step(
    bucket: fs.FileSystem, folder: Path, engine: str
) -> None:
    whole = (folder / "train" / "v03.parquet").read_bytes()
    with bucket.open_output_stream("shards/sets/one/train/v03.parquet") as out:
        out.write(whole[:-9])
    assert (
        f"{URL}/train/v03.parquet: found {len(whole) - 9} bytes; expected {len(whole)} bytes"
        in refused(engine=engine)
    )
    bucket.delete_file("shards/sets/one/train/v03.parquet")
    assert f"{URL}/train/v03.parquet: found no such file" in refused(engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_object_of_the_same_size_that_is_no_parquet_file(
    bucket: fs.FileSystem, folder: Path, engine: str
) -> None:
    with bucket.open_output_stream("shards/sets/one/train/v03.parquet") as out:
        out.write(b"x" * (folder / "train" / "v03.parquet").stat().st_size)
    with pytest.raises(ShardError, match=r"v03\.parquet.*expected Parquet data"):
        list(opened(URL, engine).epoch(0))


def test_no_such_bucket_no_such_prefix_no_such_store(bucket: fs.FileSystem) -> None:
    message = refused("s3://nowhere/sets/one")
    assert (
        "s3://nowhere/sets/one: found no such bucket" in message and "AWS_ENDPOINT_URL" in message
    )
    assert "s3://shards/sets/none/manifest.json: found no such file" in refused(
        "s3://shards/sets/none"
    )
    message = refused("nosuch://shards/one")
    assert "nosuch://shards/one" in message and "check the URL" in message


def test_credentials_that_the_store_refuses(bucket: fs.FileSystem, server: str) -> None:
    import requests

    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        message = refused()
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=10)
    assert f"shard set {URL}: found " in message and "credentials" in message


def test_a_server_that_is_gone(bucket: fs.FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    places._opened.cache_clear()
    message = refused()
    assert f"shard set {URL}: found " in message and "endpoint" in message


def test_a_folder_is_asked_for_nothing_that_a_store_would_need(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.CACHE, str(tmp_path / "cache"))
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    seen = opened(f"file://{copied}").shards.side["seen"]
    assert (
        places.side(f"file://{copied}", seen.indices, "") == copied / seen.indices
        and not (tmp_path / "cache").exists()
    )
