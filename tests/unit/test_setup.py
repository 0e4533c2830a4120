"""Set-up: what it asks for, what it pins, and that nothing half-made is taken for whole. Only
copies in tmp_path are touched.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_layers import imported

ROOT = Path(__file__).parents[2]
BASE_PYTHON = os.path.realpath(sys.executable)
NEEDED = ("bash", "cat", "dirname", "sed", "grep", "rm", "mkdir", "mv", "touch", "cp")
TOOLS = {"java": "JDK 17 or newer", "g++": "a C++ compiler", "cmake": "cmake"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """What setup.py asks for, extras included."""
    code = """import json, runpy, setuptools
setuptools.setup = lambda **facts: print(json.dumps(facts, default=str))
runpy.run_path("setup.py")"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    return [
        Requirement(text)
        for text in [*facts["install_requires"], *sum(facts["extras_require"].values(), [])]
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what set-up reads, elsewhere."""
    made = tmp_path / "tree"
    shutil.copytree(ROOT / "deploy", made / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, made / name)
    return made


def path_with(folder: Path, tools: set[str]) -> str:
    """A PATH that holds the shell's own commands and these tools alone."""
    folder.mkdir()
    for name in {*NEEDED, *tools}:
        found = shutil.which(name)
        assert found or name in TOOLS, name
        if found:
            (folder / name).symlink_to(found)
    if "java" in tools:  # `java -version` alone is asked; any JDK that can be found answers for it
        (folder / "java").unlink()
        (folder / "java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\" 2021' >&2\n")
        (folder / "java").chmod(0o755)
    return str(folder)


def run_setup(tree: Path, command: str = "main", **env: str) -> subprocess.CompletedProcess[str]:
    """One function of set-up in the copied tree, with an environment of its own."""
    keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {
        **keep,
        "HOME": str(tree.parent),
        "PYTHON": BASE_PYTHON,
        "RECSYS_CACHE": str(tree.parent / "cache"),
        **env,
    }
    # Whatever happens, no test installs anything over the network.
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        ["bash", "-c", f"source deploy/setup.sh; {command}"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("lacking", sorted(TOOLS))
def test_a_missing_tool_is_named_before_anything_is_made(tree: Path, lacking: str) -> None:
    path = path_with(tree.parent / "bin", {"java", "g++", "cmake", "make"} - {lacking})
    done = run_setup(tree, PATH=path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"setup: missing: {TOOLS[lacking]}")
    assert "Install: apt install" in line
    assert not (tree / ".venv").exists()
    assert not (tree.parent / "cache").exists()


def test_all_missing_tools_are_named_at_once(tree: Path) -> None:
    done = run_setup(tree, PATH=path_with(tree.parent / "bin", {"make"}), PYTHON="/nowhere/python")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for line, what in zip(
        lines, ("Python 3.11", "JDK 17 or newer", "a C++ compiler", "cmake"), strict=True
    ):
        assert line.startswith(f"setup: missing: {what}")


def test_an_old_java_is_named_with_its_version(tree: Path) -> None:
    java = tree.parent / "old" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019' >&2\n")
    java.chmod(0o755)
    done = run_setup(tree, JAVA_HOME=str(java.parents[1]))
    assert done.returncode == 2
    assert f"JDK 17 or newer (found version 11 by {java})" in done.stderr


def test_packages_say_where_they_are_and_why_they_are_large(tree: Path) -> None:
    venv.create(tree / ".venv", with_pip=False, symlinks=True)
    lines = r"Collecting a\n  Downloading a.whl (780 MB)\nUsing cached b\nCollecting b\n"
    done = run_setup(tree, f"printf '{lines}' | progress .venv/log 0; tell_of_torch")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.partition(", ")[2].partition(" s: ")[2] for line in said[:3]] == [
        "Collecting a",
        "Downloading a.whl (780 MB)",
        "Collecting b",
    ]
    assert said[2].startswith("setup: 2 packages so far, ")
    assert (tree / ".venv" / "log").read_text().count("\n") == 4
    if sys.platform == "linux":
        assert "6 GB" in said[3] and "CUDA" in said[3] and "RECSYS_TORCH=cpu" in said[4]
        assert "GPU" not in run_setup(tree, "tell_of_torch", RECSYS_TORCH="cpu").stdout


def test_the_cpu_build_of_torch_is_asked_for_and_a_failure_shows_the_logs_end(tree: Path) -> None:
    python = tree / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    done = run_setup(tree, "logged pip torch", RECSYS_TORCH="cpu")
    assert done.returncode != 0
    assert "--extra-index-url https://download.pytorch.org/whl/cpu torch" in done.stderr
    assert "--extra-index-url" not in run_setup(tree, "logged pip torch").stderr


def stamped(tree: Path) -> None:
    """A whole set-up as the script sees it, in an environment that has no pip at all: calling pip
    would fail.
    """
    venv.create(tree / ".venv", with_pip=False, symlinks=True)
    done = run_setup(tree, "check_tools; fingerprint > .venv/.setup-stamp")
    assert done.returncode == 0, done.stderr


def test_a_second_call_says_so_and_calls_no_pip(tree: Path) -> None:
    stamped(tree)
    done = run_setup(tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, "setup: up to date (.venv)\n", "")


@pytest.mark.parametrize(
    "changed",
    [
        "setup.py",
        "constraints.txt",
        "deploy/setup.sh",
        "deploy/build_horovod.sh",
        "deploy/spark/spark-env.sh",
    ],
)
def test_a_change_asks_for_another_set_up(tree: Path, changed: str) -> None:
    stamped(tree)
    with open(tree / changed, "a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    done = run_setup(tree)
    assert done.returncode != 0  # there is no pip to work with
    assert "up to date" not in done.stdout
    assert not (tree / ".venv" / ".setup-stamp").exists()


def test_an_environment_of_someone_else_is_refused_and_kept(tree: Path) -> None:
    (tree / ".venv").mkdir()
    (tree / ".venv" / "work.txt").write_text("hours of it")
    done = run_setup(tree)
    assert done.returncode == 2
    assert f"{tree}/.venv: found an environment that was moved here" in done.stderr
    assert "To mend: move or delete it" in done.stderr
    assert (tree / ".venv" / "work.txt").read_text() == "hours of it"


def test_an_unfinished_environment_is_made_anew(tree: Path) -> None:
    (tree / ".venv").mkdir()
    (tree / ".venv" / ".setup-running").touch()
    (tree / ".venv" / "half").touch()
    done = run_setup(tree)
    assert ".venv was left unfinished: making it anew" in done.stdout
    assert done.returncode != 0  # no index to install from
    assert not (tree / ".venv" / "half").exists()
    assert (
        tree / ".venv" / ".setup-running"
    ).exists()  # still unfinished, so the next call starts over again
    assert not (tree / ".venv" / ".setup-stamp").exists()


def test_constraints_pin_every_requirement_within_its_range() -> None:
    pinned = pins()
    wanted = requirements()
    assert len(wanted) > 15
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} has no pin"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} is pinned to {version}"
        )


def test_everything_installed_is_pinned() -> None:
    pinned = pins()
    ours = [sysconfig.get_path("purelib")]  # setuptools puts a folder of its own copies on sys.path
    installed = {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions(path=ours)
    }
    other = {
        name: version
        for name, version in installed.items()
        if name not in ("pip", "recsys-spark") and pinned.get(name) != version.split("+")[0]
    }
    assert not other, f"installed, but not the pinned version: {other}"


def test_every_import_is_a_declared_requirement() -> None:
    by_import = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in requirements()} | {"horovod"}
    third_party = {
        name for file in (ROOT / "recsys_spark").rglob("*.py") for name in imported(file)
    }
    third_party -= {*sys.stdlib_module_names, "recsys_spark"}
    assert {"torch", "pyspark"} <= third_party
    missing = {
        name
        for name in third_party
        if not declared & {canonicalize_name(found) for found in by_import.get(name, [])}
    }
    # Spark brings py4j, and Databricks its `databricks` module.
    assert missing <= {"py4j", "databricks"}, f"imported, but not in setup.py: {missing}"


def test_make_alone_lists_the_targets() -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    targets = [
        "help",
        "setup",
        "demo",
        "test",
        "soak",
        "lint",
        "bench",
        "bench-train",
        "parity",
        "docs",
        "clean",
    ]
    assert [line.split()[0] for line in done.stdout.splitlines()] == targets


@pytest.fixture
def jars(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """deploy/place_jars.py with one small file in place of the real ones."""
    spec = importlib.util.spec_from_file_location("place_jars", ROOT / "deploy/place_jars.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "JARS", {"io/delta/one.jar": hashlib.sha256(b"whole").hexdigest()})
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """(the file that is served, the URL of the repository)."""
    served = tmp_path / "repository/io/delta/one.jar"
    served.parent.mkdir(parents=True)
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "repository"))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_jars_are_fetched_once_and_placed_whole(
    jars: ModuleType, repository: tuple[Path, str], tmp_path: Path
) -> None:
    served, url = repository
    served.write_bytes(b"whole")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    jars.place(tmp_path / "cache", first, url)
    served.unlink()  # from now on the cache must do
    (first / "one.jar").write_bytes(b"who")  # cut short by a killed copy of another tool
    jars.place(tmp_path / "cache", first, url)
    jars.place(tmp_path / "cache", second, url)
    assert [(folder / "one.jar").read_bytes() for folder in (first, second)] == [b"whole", b"whole"]


@pytest.mark.parametrize("content", [b"who", None], ids=["cut short", "not there"])
def test_a_wrong_jar_is_refused(
    jars: ModuleType, repository: tuple[Path, str], tmp_path: Path, content: bytes | None
) -> None:
    served, url = repository
    if content is not None:
        served.write_bytes(content)
    (tmp_path / "jars").mkdir()
    with pytest.raises(SystemExit) as stopped:
        jars.place(tmp_path / "cache", tmp_path / "jars", url)
    message = str(stopped.value)
    assert f"{url}/io/delta/one.jar" in message
    assert (hashlib.sha256(b"who").hexdigest() if content else "404") in message
    assert "MAVEN_REPOSITORY" in message
    assert [*(tmp_path / "jars").iterdir(), *(tmp_path / "cache").iterdir()] == []


def test_set_up_goes_on_without_an_optional_jar(
    jars: ModuleType,
    tmp_path: Path,
    repository: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served, url = repository
    served.write_bytes(b"whole")
    (tmp_path / "jars").mkdir()
    monkeypatch.setattr(jars, "JARS", {"org/driver.jar": "0" * 64} | jars.JARS)
    monkeypatch.setattr(jars, "OPTIONAL", {"org/driver.jar"})
    jars.place(tmp_path / "cache", tmp_path / "jars", url)
    assert [path.name for path in (tmp_path / "jars").iterdir()] == ["one.jar"]
    said = capsys.readouterr().err
    assert "driver.jar" in said and "no export of lists to PostgreSQL" in said


def test_horovod_has_its_native_library() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import horovod.torch as h, horovod.torch.mpi_lib_v2; assert h.gloo_built()",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
