"""Errors, seeds, logs and atomic files."""

import errno
import logging
import os
import pickle
from pathlib import Path

import pytest

from recsys_spark.core import artifacts, locks, log, seeds
from recsys_spark.core.contracts import Part, ShardFile, ShardSet
from recsys_spark.core.errors import ConfigError, RecsysError, ShardError, is_disk_full
from tests.logs import logged


def test_an_error_says_thing_found_expected_and_remedy_and_travels() -> None:
    problem = ConfigError("key rank", found=0, expected="at least 1", remedy="pass rank=8")
    assert str(problem) == "key rank: found 0; expected at least 1. To mend: pass rank=8"
    again = pickle.loads(pickle.dumps(problem))
    assert type(again) is ConfigError and str(again) == str(problem)


def test_disk_full_is_recognised_from_either_side() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert is_disk_full(RuntimeError("java.io.IOException: No space left on device"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_seeds_are_stable_and_differ_by_name() -> None:
    assert seeds.derive(1, "rows", 0) == 4437440340875571757  # moving it would change every result
    drawn = {
        seeds.derive(seed, name, epoch)
        for seed in range(5)
        for name in ("a", "b")
        for epoch in range(20)
    }
    assert len(drawn) == 200 and all(0 <= value < 2**63 for value in drawn)


def test_log_fields() -> None:
    assert (
        log.fields(rows=3, loss=0.123456789, path="a b", empty="")
        == 'rows=3 loss=0.123457 path="a b" empty=""'
    )


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    artifacts.write_text(path, "one")
    artifacts.write_text(path, "two")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with artifacts.new_folder(tmp_path / "made") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "made").exists()
    with pytest.raises(RuntimeError), artifacts.new_folder(tmp_path / "made") as folder:
        (folder / "x").write_text("2")
        raise RuntimeError
    assert (tmp_path / "made" / "x").read_text() == "1" and [
        p.name for p in tmp_path.iterdir()
    ] == ["made"]


def test_a_folder_is_replaced_without_a_moment_without_it(tmp_path: Path, monkeypatch) -> None:
    path, renames = tmp_path / "made", []
    for text in "12":
        with artifacts.new_folder(path) as folder:
            (folder / "x").write_text(text)
        monkeypatch.setattr(artifacts.os, "rename", lambda *names: renames.append(names))
    assert (path / "x").read_text() == "2" and [p.name for p in tmp_path.iterdir()] == ["made"]
    assert not renames  # exchanged in one step


def test_where_names_cannot_be_exchanged_a_killed_writer_is_mended(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(artifacts, "_exchanged", lambda new, path: False)
    path, rename = tmp_path / "made", os.rename
    for text in "12":
        with artifacts.new_folder(path) as folder:
            (folder / "x").write_text(text)
    assert (path / "x").read_text() == "2" and [p.name for p in tmp_path.iterdir()] == ["made"]

    def killed(old: Path, new: Path) -> None:
        if Path(new) == path:
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(artifacts.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt), artifacts.new_folder(path):
        pass
    monkeypatch.setattr(artifacts.os, "rename", rename)
    assert not path.exists()  # killed between its two renames
    with pytest.raises(RuntimeError), artifacts.new_folder(path):
        assert (path / "x").read_text() == "2"  # back again
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    old, young, other = (
        tmp_path / name for name in (".tmp-made-0123abcd", ".tmp-made-4567abcd", ".tmp-b-0123abcd")
    )
    for folder in (old, young, other):
        folder.mkdir()
    (old / "x").write_text("cut")
    for folder in (old, other):
        os.utime(folder, (0, 0))
    with artifacts.new_folder(tmp_path / "made"):
        pass
    assert not old.exists() and young.exists() and other.exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    busy = RecsysError("run folder", found="another process")
    with locks.alone(tmp_path / ".lock", busy=busy):
        with pytest.raises(RecsysError, match="another process"):
            with locks.alone(tmp_path / ".lock", busy=busy, wait_s=0.05):
                pass
    with locks.alone(tmp_path / ".lock", busy=busy):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch, caplog, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.alone(tmp_path / ".lock", busy=RecsysError("x", found="y")):
        assert "event=no_lock" in logged(caplog)


def test_another_error_of_a_lock_is_not_taken_for_one_without_locks(
    tmp_path: Path, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken disk"), locks.alone(tmp_path / ".lock"):
        pass


def test_fingerprint_ignores_the_order_of_keys() -> None:
    assert artifacts.fingerprint({"a": 1, "b": [1, 2]}) == artifacts.fingerprint(
        {"b": [1, 2], "a": 1}
    )
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


def test_a_broken_contract_file_names_file_and_field(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(
        '{"layout": "pointwise", "columns": [], "parts": '
        "{}, "
        '"num_users": '
        '"many", '
        '"num_items": '
        "1, "
        '"split": '
        '"x"}'
    )
    with pytest.raises(ShardError) as caught:
        artifacts.read_model(path, ShardSet, error=ShardError, remedy="export again")
    assert (
        "manifest.json, num_users" in str(caught.value)
        and "'many'" in str(caught.value)
        and "export again" in str(caught.value)
    )


def test_virtual_shards_are_increasing() -> None:
    files = [ShardFile(path=f"v{v}", virtual_shard=v, row_groups=(1,), bytes=1) for v in (1, 0)]
    with pytest.raises(ValueError, match="increasing"):
        ShardSet(
            layout="pointwise",
            columns=(),
            parts={"train": Part(files=tuple(files))},
            num_users=1,
            num_items=1,
            split="s",
        )


def test_a_command_configures_the_log() -> None:
    log.configure()
    assert not logging.getLogger("recsys_spark").propagate


def test_which_the_next_test_does_not_notice(caplog: pytest.LogCaptureFixture) -> None:
    log.get("anywhere").warning("once")
    assert caplog.messages == ["once"]
