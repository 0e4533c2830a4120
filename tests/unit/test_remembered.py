"""Raw files are read once, and again when they change."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from recsys_spark.core.artifacts import file_digest
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import folder, remembered
from recsys_spark.datasets.files.folder import Raw
from recsys_spark.datasets.files.spec import File

KIND = File("*", "interactions", ("user_id", "item_id"), ",")


def written(path: Path, content: bytes, age_s: float = 60.0) -> Path:
    path.write_bytes(content)
    changed = time.time_ns() - int(age_s * 1e9)
    os.utime(path, ns=(changed, changed))
    return path


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    paths = [written(tmp_path / name, name.encode()) for name in ("a", "b")]
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    def digests() -> list[str]:
        return remembered.facts(paths, "sha256", digest, tmp_path / "runs")

    first = digests()
    assert first == [file_digest(path) for path in paths] and sorted(read) == ["a", "b"]
    assert digests() == first and len(read) == 2
    written(paths[1], b"c", age_s=30)  # as long as before
    assert digests() == [first[0], file_digest(paths[1])] and read[2:] == ["b"]
    os.replace(written(tmp_path / "new", b"d", age_s=30), paths[1])  # perhaps of the same time
    assert digests()[1] == file_digest(paths[1]) and read[3:] == ["b"]
    (tmp_path / "runs" / remembered.FILE).write_text("{")
    assert len(digests()) == 2 and len(read) == 6


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"one", age_s=0)
    before = remembered.facts([path], "sha256", file_digest, tmp_path)
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a clock of coarse ticks
    assert remembered.facts([path], "sha256", file_digest, tmp_path) != before


def test_a_compressed_file_is_unpacked_once_to_see_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(b"u1,i1\nu2,i2\n")
    raw = Raw(written(tmp_path / "a.gz", packed), "a.gz", KIND)
    folder.require_whole([raw], tmp_path / "runs")
    with monkeypatch.context() as unpacked:
        unpacked.setattr(gzip, "open", None)
        folder.require_whole([raw], tmp_path / "runs")
    written(raw.path, packed[:-9], age_s=30)
    with pytest.raises(DataError, match=r"a\.gz: found a damaged gzip file"):
        folder.require_whole([raw], tmp_path / "runs")
    # Its checksum says that it is whole, whatever its last line looks like
    written(raw.path, gzip.compress(b"u1,i1\nu2,i"), age_s=20)
    folder.require_whole([raw], tmp_path / "runs")
