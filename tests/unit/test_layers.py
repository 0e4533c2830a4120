"""What may import what, beyond the layers that import-linter holds: single importers, and each side
without the other's libraries.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_spark.core import plugins

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "recsys_spark"

ONLY_IMPORTERS = {
    "horovod": {
        "train/ranks/workers.py",
        "train/launcher/launch.py",
        "stages/bridge/launch_spark.py",
    },
    "petastorm": {"train/data/petastorm_engine.py", "train/data/petastorm_shim.py"},
    "delta": {"lake/commits.py", "lake/outside.py", "lake/tables.py", "lake/retention.py"},
}

IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked in this test")

sys.meta_path.insert(0, Blocked())
for root in {modules}:
    module = importlib.import_module(root)
    if {walk} and hasattr(module, "__path__"):
        for found in pkgutil.walk_packages(module.__path__, root + "."):
            importlib.import_module(found.name)
"""


def imported(file: Path) -> set[str]:
    """Top-level names of every absolute import in a file, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def import_all(
    modules: list[str], blocked: set[str], walk: bool = True
) -> subprocess.CompletedProcess[str]:
    code = IMPORT_ALL.format(modules=modules, blocked=blocked, walk=walk)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTERS))
def test_only_the_seams_import(library: str) -> None:
    importers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if library in imported(file)
    }
    assert importers <= ONLY_IMPORTERS[library]
    assert importers, f"nothing imports {library}: does this test still look in the right place?"


@pytest.mark.parametrize("stage", plugins.names("recsys_spark.stages"))
def test_no_stage_imports_a_stage(stage: str) -> None:
    """It takes what stages share from the rooms below, and may be deleted alone."""
    tree = ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    modules = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    others = {f"recsys_spark.stages.{name}" for name in plugins.names("recsys_spark.stages")}
    assert not {
        module for module in modules if module in others or module.rpartition(".")[0] in others
    }


@pytest.mark.parametrize(
    ("modules", "blocked", "walk"),
    [
        (
            ["recsys_spark.core"],
            {"numpy", "pandas", "pyarrow", "scipy", "torch", "pyspark", "rich", "typer"},
            True,
        ),
        (
            ["recsys_spark.metrics", "recsys_spark.report"],
            {"torch", "pyspark", "horovod", "petastorm", "delta"},
            True,
        ),
        # Ranks must not start a JVM. (The whole of `train` cannot be asked this: petastorm itself
        # imports pyspark.)
        (["recsys_spark.train.entry"], {"pyspark", "py4j", "delta"}, False),
        (
            ["recsys_spark.models", "recsys_spark.nn", "recsys_spark.scoring"],
            {"pyspark", "py4j", "delta", "horovod", "petastorm"},
            True,
        ),
        (
            [
                "recsys_spark.lake",
                "recsys_spark.datasets",
                "recsys_spark.etl",
                "recsys_spark.baselines",
            ],
            {"torch", "horovod", "petastorm"},
            True,
        ),
    ],
    ids=["core", "metrics and report", "a rank's entry", "torch side", "Spark side"],
)
def test_imports_without(modules: list[str], blocked: set[str], walk: bool) -> None:
    done = import_all(modules, blocked, walk)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_blocked_import_is_noticed() -> None:
    done = import_all(["pyspark"], {"pyspark"}, walk=False)
    assert done.returncode == 1
    assert "pyspark is blocked in this test" in done.stderr
