"""Whole pipelines from raw files, as a user starts them: seconds of each step, the memory of
driver, JVM and ranks together.

`demo` is conf/pipelines/ml-1m.yaml in a new output folder, set-up excluded; `ingest and prepare`
its first two steps, Spark's start included; `20 M` the same two steps on a generated set of 20
million ratings. Memory is the proportional set size (shared pages counted once) of the process
tree, looked at four times a second; `JVM heap` is bounded by env.spark.driver_memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

CLI = [sys.executable, "-m", "recsys_spark.cli"]
LARGE = {"users": 138_000, "items": 27_000, "ratings": 20_000_000}


def measure(
    name: str, arguments: list[str], out: Path, env: dict[str, str], program: list[str] = CLI
) -> dict[str, Any]:
    """Run the command line, or another program, with the output folder `out`."""
    peak: dict[str, float] = {"bytes": 0.0}
    cpu_s: dict[int, float] = {}  # by process
    started = time.perf_counter()
    process = subprocess.Popen(
        [*program, *arguments],
        env={**os.environ, **env, "RECSYS_OUT": str(out)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, cpu_s), daemon=True)
    watcher.start()
    assert process.stderr is not None
    log = process.stderr.read()
    code = process.wait()
    seconds = time.perf_counter() - started
    if code:
        raise SystemExit(f"{name}: exit code {code}\n{log[-3000:]}")
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/runs/*/run.json"))]
    steps = {
        run["step"]: round(run["ended_at"] - run["started_at"], 1)
        for run in sorted(runs, key=lambda run: run["started_at"])
    }
    return {
        "name": name,
        "seconds": round(seconds, 1),
        "cpu_s": round(sum(cpu_s.values()), 1),
        "peak_bytes": int(peak["bytes"]),
        "steps": steps,
    }


def _watch(pid: int, peak: dict[str, float], cpu_s: dict[int, float]) -> None:
    while psutil.pid_exists(pid):
        total = 0
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    cpu_s[process.pid] = times.user + times.system
                    total += process.memory_full_info().pss
                except (
                    psutil.NoSuchProcess,
                    psutil.AccessDenied,
                    FileNotFoundError,
                    ProcessLookupError,
                ):
                    continue
        except psutil.NoSuchProcess:
            return
        peak["bytes"] = max(peak["bytes"], total)
        time.sleep(0.25)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--only",
        choices=["prepare", "demo", "large"],
        nargs="*",
        default=["prepare", "demo", "large"],
    )
    given = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "prepare" in given.only:
            results.append(
                measure(
                    "ingest and prepare, ML-1M",
                    ["run", "--step", "last_out"],
                    folder / "prepare",
                    {},
                )
            )
        if "demo" in given.only:
            results.append(measure("demo, ML-1M", ["run"], folder / "demo", {}))
        if "large" in given.only:
            made = folder / "ml-1m"
            options = [f"--{name}={value}" for name, value in LARGE.items()]
            subprocess.run(
                [*CLI, "generate", str(made), *options], check=True, stdout=subprocess.DEVNULL
            )
            results.append(
                measure(
                    "ingest and prepare, 20 M",
                    ["run", "--step", "last_out"],
                    folder / "large",
                    {"RECSYS_DATA": str(folder)},
                )
            )
    for result in results:
        print(
            (
                f"{result['name']:<28} {result['seconds']:>7} s   CPU {result['cpu_s']} s   peak "
                f"{result['peak_bytes'] / 2**30:.2f} GB   "
            )
            + "  ".join(f"{step} {seconds}" for step, seconds in result["steps"].items())
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
