"""README and docs/own-data.md, command by command, as a newcomer types them: the whole path on a small generated set.

Ranks, Petastorm, Horovod, Spark and Delta are all real. Left out: `make test` (this) and the download (tests/unit/test_download.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsys_spark.datasets import synthetic

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("make test", "recsys-spark download", "source ")


class Shell:
    """A folder that looks like a clone, with its data and output beside it."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.out, self.data = folder / "clone", folder / "out", folder / "data"
        self.clone.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in ("out", "data", ".git"):
                (self.clone / entry.name).symlink_to(entry)
        self.env = {**os.environ, "RECSYS_DATA": str(self.data), "RECSYS_OUT": str(self.out), "COLUMNS": "200",
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=self.clone, env=self.env, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def run_ids(self, step: str) -> list[str]:
        return sorted(path.name for path in (self.out / "ml-1m" / "runs").glob(f"{step}-??????????"))


@pytest.fixture(scope="module")
def shell(spark, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    made = Shell(tmp_path_factory.mktemp("readme"))
    synthetic.generate(spark, made.data / "ml-1m", users=200, items=150, ratings=8_000, seed=1)
    return made


def commands(path: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(LEFT_OUT)]


def test_every_command_of_the_readme(shell: Shell) -> None:
    todo = commands(ROOT / "README.md")
    assert todo[0] == "make demo" and len(todo) >= 9
    demo = shell.run("make -o setup demo")  # set-up itself: tests/unit/test_setup.py
    for model in ("popularity", "als", "neumf", "multi_vae", "mf_bias", "global_bias"):
        assert re.search(rf"{model}\b", demo), f"{model} is not in the table of results"
    assert next((shell.out / "ml-1m" / "runs").glob("report-*/report.html")).stat().st_size > 10_000
    for command in todo[1:]:
        said = shell.run(command.replace("RUN_ID", shell.run_ids("multi_vae")[0]))
        if command.endswith("ml-1m.yaml"):
            assert said.count("status=skipped") == said.count("step=") and "status=start" not in said, "a second run keeps every step"
        if "rerun" in command:
            assert "to the last digit" in said
        if "spark-submit" in command:
            assert "train_als" in said


def test_als_runs_again_to_six_digits(shell: Shell) -> None:
    run_id = shell.run_ids("als")[0]
    shell.run(f"recsys-spark rerun {run_id}")
    before, after = (np.load(shell.out / "ml-1m" / "runs" / run / "index" / "items.npy") for run in (run_id, f"{run_id}-rerun1"))
    assert np.abs(before).max() > 0.01
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_the_example_of_own_data(shell: Shell) -> None:
    doc = ROOT / "docs" / "own-data.md"
    text = re.findall(r"```yaml\n(.*?)```", doc.read_text(encoding="utf-8"), flags=re.S)[0]
    shop = shell.data / "shop"
    shop.mkdir()
    rows = [line.split("::") for line in (shell.data / "ml-1m" / "ratings.dat").read_text().splitlines()]
    lines = ["user,item,time,stars,store", *(f"{user},{item},{time},{stars},x" for user, item, stars, time in rows)]
    (shop / "events-1.csv").write_text("\n".join(lines) + "\n")
    (shell.clone / "my.yaml").write_text(text.replace("/data/shop", str(shop)))
    for command in commands(doc):
        said = shell.run(command)
    assert "popularity" in said and "als" in said and "report.html" in said


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("steps.als.config.rnk=3", ["steps.als.config.rnk", "did you mean 'rank'"]),
        ("steps.als.config.rank=-1", ["steps.als.config.rank", "-1", "greater than or equal to 1"]),
        ("steps.neumf.model=neumff", ["neumff", "did you mean 'neumf'"]),
        ("steps.ingest.dataset=ml-2m", ["ml-2m", "ml-1m"]),
        ("conf/pipelines/ml-1n.yaml", ["ml-1n.yaml", "did you mean 'ml-1m.yaml'"]),
        ("--step neum", ["'neum'", "did you mean 'neumf'"]),
        ("steps.ingest.data=/nowhere", ["/nowhere", "no such folder", "RECSYS_DATA"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(shell: Shell, arguments: str, parts: list[str]) -> None:
    said = shell.run(f"recsys-spark run {arguments}", code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said
    for part in parts:
        assert part in errors[0]
