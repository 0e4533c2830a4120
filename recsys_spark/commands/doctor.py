"""What this machine has of what a pipeline needs: `recsys-spark doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

import recsys_spark

OLDEST_JAVA = 17
GIB = 1 << 30
# {package: what lacks without it, how to get it}
PACKAGES = {
    "pyspark": ("everything but asking about runs", "pip install 'recsys_spark[local]'"),
    "torch": ("deep models", "pip install torch"),
    "petastorm": (
        "the default reader (arrow is another)",
        "pip install petastorm",
    ),
    "horovod": (
        "the default engine of several ranks (torch is another)",
        "make setup",
    ),
    "optuna": ("`sampler: tpe` of a search", "pip install 'recsys_spark[tune]'"),
}
NEEDED = ("pyspark", "torch")


@dataclass(frozen=True)
class Finding:
    name: str
    state: Literal["ok", "optional", "missing"]  # optional: something works only with it
    detail: str
    remedy: str = ""


def examine(lake: str | None, runs: str | None) -> list[Finding]:
    """What is there, and what is not with its remedy. lake, runs: of a pipeline, where one is
    given.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding("recsys_spark", "ok", f"{recsys_spark.__version__} on Python {version}"),
        _java(),
        *(_package(name) for name in PACKAGES),
        _jars(),
        _gpu(),
        _memory(),
    ]
    for name, place in {"lake": lake, "runs": runs}.items():
        if place is not None:
            findings.append(_folder(name, place))
    return findings


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = f"install a JDK {OLDEST_JAVA} or newer, or set JAVA_HOME"
    if program is None or not Path(program).exists():
        return Finding("java", "missing", f"no {program or 'java on PATH'}", remedy)
    said = subprocess.run([program, "-version"], capture_output=True, text=True).stderr
    version = said.partition('"')[2].partition('"')[0]
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_JAVA:
        return Finding("java", "missing", f"version {version or said[:60]!r}", remedy)
    return Finding("java", "ok", f"{version} ({program})")


def _package(name: str) -> Finding:
    without, remedy = PACKAGES[name]
    if importlib.util.find_spec(name) is None:
        state: Literal["optional", "missing"] = "missing" if name in NEEDED else "optional"
        return Finding(name, state, f"not installed: {without}", remedy)
    return Finding(name, "ok", importlib.metadata.version(name))


def _jars() -> Finding:
    spark = importlib.util.find_spec("pyspark")
    if spark is None or spark.origin is None:
        return Finding("Delta's JARs", "missing", "no pyspark", PACKAGES["pyspark"][1])
    folder = Path(os.environ.get("SPARK_HOME", Path(spark.origin).parent)) / "jars"
    jars = sorted(jar.name for jar in folder.glob("delta-s*.jar"))
    if len(jars) < 2:
        remedy = "make setup, or set spark.jars.packages under env.spark.conf"
        return Finding("Delta's JARs", "missing", f"not in {folder}", remedy)
    return Finding("Delta's JARs", "ok", ", ".join(jars))


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "optional", "no torch")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return Finding("GPU", "optional", "none: trainings run on the processor")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free, "
    detail += f"{os.cpu_count()} cores"
    if memory.available < 4 * GIB:
        return Finding("memory", "optional", detail, "the demo takes 4 GiB; end other programs")
    return Finding("memory", "ok", detail)


def _folder(name: str, place: str) -> Finding:
    """Whether a local folder, or the first that exists above it, takes a new file."""
    if "://" in place or not (place.startswith(("/", ".")) or "/" in place):
        return Finding(name, "optional", f"{place}: not a local folder, not tried")
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    free = f"{shutil.disk_usage(folder).free / GIB:.0f} GiB free"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        remedy = f"set env.{name} to a folder that you may write to"
        return Finding(name, "missing", f"{place}: {problem.strerror}", remedy)
    return Finding(name, "ok", f"{place}, {free}")
