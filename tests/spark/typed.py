"""Commands of a document, run as a newcomer types them: in a folder that looks like a clone, on a
small generated set. `recsys-spark` commands share a process (typist.py) unless a test says `alone`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.datasets.generators import synthetic
from tests.conftest import TINY

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("make test", "recsys-spark download", "source ")


class Shell:
    """A folder that looks like a clone, with its data and output beside it.

    tiny: Spark has the settings of the tests' session, else those that are shipped.
    """

    def __init__(self, spark: SparkSession, folder: Path, *, tiny: bool = True) -> None:
        self.clone, self.out, self.data = folder / "clone", folder / "out", folder / "data"
        self.clone.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in ("out", "data", ".git"):
                (self.clone / entry.name).symlink_to(entry)
        self.env = {
            **os.environ,
            "RECSYS_DATA": str(self.data),
            "RECSYS_OUT": str(self.out),
            "COLUMNS": "200",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        synthetic.generate(spark, self.data / "ml-1m", users=100, items=80, ratings=3_000, seed=1)
        self.says = folder / "says.txt"
        if tiny:
            self.env["SPARK_CONF_DIR"] = str(_settings(folder / "conf"))
        self.typist = subprocess.Popen(
            [sys.executable, "-m", "tests.spark.typist"],
            cwd=self.clone,
            env=self.env | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self.typist.communicate(timeout=60)

    def run(self, command: str, code: int = 0, *, alone: bool = False) -> str:
        """What the command said, on both streams. alone: in a process of its own, as all commands
        run that are not `recsys-spark`.
        """
        arguments = shlex.split(command)
        if arguments[0] == "recsys-spark" and not alone:
            exit_code, said = self._type(arguments)
        else:
            exit_code, said = self._start(command)
        assert exit_code == code, f"{command}\n{said[-6000:]}"
        return said

    def _type(self, arguments: list[str]) -> tuple[int, str]:
        assert self.typist.stdin and self.typist.stdout
        self.says.unlink(missing_ok=True)  # Spark goes on writing to that of the first command
        order = {"arguments": arguments, "says": str(self.says)}
        self.typist.stdin.write(json.dumps(order) + "\n")
        self.typist.stdin.flush()
        answer = self.typist.stdout.readline()
        return int(answer or -1), self.says.read_text()

    def _start(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.clone,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        return done.returncode, done.stdout + done.stderr

    def run_ids(self, step: str) -> list[str]:
        return sorted(
            path.name for path in (self.out / "ml-1m" / "runs").glob(f"{step}-??????????")
        )


def _settings(conf: Path) -> Path:
    """The folder of Spark's settings as shipped, those of the tests' session added."""
    shutil.copytree(ROOT / "deploy" / "spark", conf)
    with (conf / "spark-defaults.conf").open("a") as defaults:
        defaults.writelines(f"{key} {value}\n" for key, value in TINY.items())
    return conf


def commands(path: Path) -> list[str]:
    """Those of its bash blocks, without the comments and without what other tests run
    (`LEFT_OUT`).
    """
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(LEFT_OUT)]
