"""README, command by command, as a newcomer types them (typed.py): the whole path on a small generated set.

Ranks, Petastorm, Horovod, Spark and Delta are all real. Left out: `make test` (this) and the download (tests/unit/test_download.py).
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.spark.typed import ROOT, Shell, commands


@pytest.fixture(scope="module")
def shell(spark, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(spark, tmp_path_factory.mktemp("readme"))


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
