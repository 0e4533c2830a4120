"""Commands of a document, run as a newcomer types them: in a folder that looks like a clone, on a small generated set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.datasets import synthetic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("make test", "recsys-spark download", "source ")


class Shell:
    """A folder that looks like a clone, with its data and output beside it."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.clone, self.out, self.data = folder / "clone", folder / "out", folder / "data"
        self.clone.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in ("out", "data", ".git"):
                (self.clone / entry.name).symlink_to(entry)
        self.env = {**os.environ, "RECSYS_DATA": str(self.data), "RECSYS_OUT": str(self.out), "COLUMNS": "200",
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        synthetic.generate(spark, self.data / "ml-1m", users=200, items=150, ratings=8_000, seed=1)

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=self.clone, env=self.env, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def run_ids(self, step: str) -> list[str]:
        return sorted(path.name for path in (self.out / "ml-1m" / "runs").glob(f"{step}-??????????"))


def commands(path: Path) -> list[str]:
    """Those of its bash blocks, without the comments and without what other tests run (`LEFT_OUT`)."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(LEFT_OUT)]
