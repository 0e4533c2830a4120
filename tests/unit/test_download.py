"""Downloads against a local server: whole, broken and taken up again, wrong, and not to be had."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest

from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import download as downloads
from recsys_spark.datasets.files import obtain, spec


class Server:
    """Serves `content` with Range support; the first `breaks` replies end after `stop_at` bytes."""

    def __init__(self) -> None:
        self.content, self.breaks, self.stop_at, self.ranges_work, self.status = (
            b"",
            0,
            0,
            True,
            200,
        )
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                if outer.status != 200:
                    self.send_error(outer.status)
                    return
                start = (
                    int(wanted.removeprefix("bytes=").rstrip("-"))
                    if wanted and outer.ranges_work
                    else 0
                )
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if outer.breaks:
                    outer.breaks -= 1
                    body = body[: outer.stop_at]
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/ml-1m.zip"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def zipped(**members: bytes) -> bytes:
    """A zip; `ml-1m/` is put before every name that has no slash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name if "/" in name else f"ml-1m/{name}", content)
    return buffer.getvalue()


NOISE = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(250))  # does not compress
CONTENT = zipped(**{"ratings.dat": b"1::10::5::978300000\n" * 500, "README": NOISE})


@pytest.fixture(autouse=True)
def on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set's record says what CONTENT is."""
    real = spec.find("ml-1m")
    assert real.download is not None
    record = replace(
        real.download, size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
    )
    monkeypatch.setattr(spec, "known", lambda: {"ml-1m": replace(real, download=record)})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetched_checked_unpacked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    folder = downloads.download("ml-1m", tmp_path, url=server.url)
    assert (folder / "ratings.dat").read_bytes() == b"1::10::5::978300000\n" * 500
    assert leftovers(tmp_path) == ["ml-1m"]
    assert downloads.download("ml-1m", tmp_path, url=server.url) == folder
    assert server.asked == [None]


def test_a_broken_transfer_is_taken_up_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.content, server.breaks, server.stop_at = CONTENT, 3, 1000
    folder = downloads.download("ml-1m", tmp_path, url=server.url)
    assert server.asked == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert (folder / "README").read_bytes() == NOISE


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.content, server.breaks, server.stop_at, server.ranges_work = CONTENT, 1, 1000, False
    downloads.download("ml-1m", tmp_path, url=server.url)
    assert server.asked == [None, "bytes=1000-"]


def test_a_transfer_that_keeps_breaking_is_left_to_be_taken_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.content, server.breaks, server.stop_at = CONTENT, 99, 0
    (tmp_path / "ml-1m.zip.part").write_bytes(CONTENT[:500])
    with pytest.raises(
        DataError, match=r"found a connection that breaks.*the same command again: it goes on"
    ):
        downloads.download("ml-1m", tmp_path, url=server.url)
    assert (tmp_path / "ml-1m.zip.part").read_bytes() == CONTENT[:500]
    assert len(server.asked) == downloads.ATTEMPTS
    server.breaks = 0
    downloads.download("ml-1m", tmp_path, url=server.url)
    assert server.asked[-1] == "bytes=500-"


def test_a_part_that_is_whole_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    (tmp_path / "ml-1m.zip.part").write_bytes(CONTENT)
    assert (downloads.download("ml-1m", tmp_path, url=server.url) / "ratings.dat").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            CONTENT[:-7],
            rf"found a file of {len(CONTENT) - 7:,} bytes; expected {len(CONTENT):,} bytes",
        ),
        (CONTENT[:-9] + b"x" + CONTENT[-8:], r"found SHA-256 .*expected [0-9a-f]{64}.*delete it"),
    ],
)
def test_another_file_than_the_one_on_record_is_refused(
    server: Server, tmp_path: Path, content: bytes, message: str
) -> None:
    server.content = content
    with pytest.raises(DataError, match=message):
        downloads.download("ml-1m", tmp_path, url=server.url)
    assert leftovers(tmp_path) == []


def test_a_zip_that_lies_there_half_or_wrong_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "ml-1m.zip"
    archive.write_bytes(CONTENT[:1000])
    message = (
        r"ml-1m\.zip from an earlier download: "
        r"found "
        r"1,000 "
        r"bytes; "
        r"expected "
        rf"{len(CONTENT):,} "
        r"bytes.*delete "
        r"it"
    )
    with pytest.raises(DataError, match=message):
        downloads.download("ml-1m", tmp_path)
    assert leftovers(tmp_path) == ["ml-1m.zip"]


def unpacked(content: bytes, tmp_path: Path) -> None:
    """Unpack without a record of size and digest, as for `latest`."""
    (tmp_path / "ml-1m.zip").write_bytes(content)
    real = spec.find("ml-1m")
    assert real.download is not None
    free = replace(real, download=replace(real.download, size_bytes=None, sha256=""))
    downloads.unpack(tmp_path / "ml-1m.zip", free, tmp_path / "ml-1m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<html>not found</html>",
            r"found 22 bytes that begin with b'<html>.*expected a whole zip file",
        ),
        (zipped(**{"other/a.txt": b"x"}), r"found a zip of other; expected a zip of ml-1m/"),
        (zipped(**{"ml-1m/../../evil": b"x"}), r"found a member named 'ml-1m/\.\./\.\./evil'"),
        (zipped(**{"ml-1m/zeros": bytes(1 << 20)}), r"found a zip that unpacks to 1,048,576 bytes"),
        (CONTENT[:200] + bytes(8) + CONTENT[208:], r"found a damaged zip"),
    ],
)
def test_a_zip_that_is_none_of_ours_or_damaged_leaves_nothing(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(DataError, match=message):
        unpacked(content, tmp_path / "inside")
    assert leftovers(tmp_path / "inside") == ["ml-1m.zip"] and leftovers(tmp_path) == ["inside"]


def test_a_file_that_moved_and_a_server_that_is_gone(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"ml-1m\.zip: found HTTP 404 .*\./data"):
        downloads.download("ml-1m", tmp_path, url=server.url)
    with pytest.raises(downloads.NoNetwork, match=r"found no connection .*check the network"):
        downloads.download("ml-1m", tmp_path, url="http://127.0.0.1:9/ml-1m.zip")
    assert leftovers(tmp_path) == []


def test_without_data_and_network_a_set_is_generated_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    dataset = spec.find("ml-1m")

    def no_network(name: str, to: Path) -> Path:
        raise downloads.NoNetwork("the publisher", found="no connection")

    monkeypatch.setattr(downloads, "download", no_network)
    made: list[Path] = []

    def generate(_: object, folder: Path, *, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "generated.json").write_text("{}")
        made.append(folder)

    monkeypatch.setattr(obtain.synthetic, "generate", generate)
    with pytest.raises(DataError, match="no connection"):
        obtain.obtain(dataset, None, ["download"], lambda: None, root=tmp_path)
    with pytest.raises(
        DataError, match=r"data set ml-1m: found neither .*recsys-spark download ml-1m"
    ):
        obtain.obtain(dataset, None, [], lambda: None, root=tmp_path)
    for _ in range(2):  # the second time it is there
        assert (
            obtain.obtain(dataset, None, ["download", "generate"], lambda: None, root=tmp_path)
            == tmp_path / "ml-1m-generated"
        )
    assert made == [tmp_path / "ml-1m-generated"]
