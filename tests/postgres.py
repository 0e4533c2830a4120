"""A real PostgreSQL server for the length of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.find_spark_home import _find_spark_home

USER = "shop"


def require_driver() -> None:
    """Skips the test where Spark has no driver for PostgreSQL."""
    if not any((Path(_find_spark_home()) / "jars").glob("postgresql-*.jar")):
        pytest.skip("no JDBC driver of PostgreSQL beside Spark's JARs (make setup)")


def programs() -> Path:
    """The folder with `initdb` and `postgres`; the test is skipped where there is none."""
    require_driver()
    named = shutil.which("initdb")
    folders = [Path(named).parent] if named else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("no PostgreSQL on this machine (apt install postgresql)")


class Server:
    def __init__(self, folder: Path, binaries: Path, port: int) -> None:
        self.folder, self.binaries, self.port = folder, binaries, port
        self.url = f"jdbc:postgresql://127.0.0.1:{port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(self.binaries / "postgres"), "-D", str(self.folder), "-p", str(self.port)]
        command += ["-k", "", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
        self.process = subprocess.Popen(
            command, user=_user(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL did not start in a minute")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    binaries = programs()
    data = folder / "postgres"
    data.mkdir()
    if (user := _user()) is not None:  # root may not run it
        shutil.chown(data, user)
        for above in (folder, *folder.parents):
            if above.stat().st_uid == 0 and above != Path("/") and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    command = [str(binaries / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "--no-sync"]
    subprocess.run(command, user=user, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Server(data, binaries, port)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def _user() -> str | None:
    return "nobody" if os.geteuid() == 0 else None
