"""`make bench`: every benchmark in turn, each in a process of its own; figures are printed and kept
as JSON under out/bench.

Run it on a quiet machine: figures are medians or single whole runs, and a busy neighbour shows in
all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE, OUT = Path(__file__).parent, Path("out/bench")


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    failed = 0
    for file in sorted(HERE.glob("bench_*.py")):
        print(f"\n== {file.stem}", flush=True)
        command = [
            sys.executable,
            "-m",
            f"tests.benchmarks.{file.stem}",
            "--json",
            str(OUT / f"{file.stem}.json"),
            *sys.argv[1:],
        ]
        failed += subprocess.run(command, check=False).returncode != 0
    print(f"\nfigures: {OUT.absolute()}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
