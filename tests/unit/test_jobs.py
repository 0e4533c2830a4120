"""jobs/, notebooks/ and deploy/ hold no logic, and name only stages that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recsys_spark.core import plugins
from recsys_spark.pipeline import context

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
STAGES = [
    "ingest",
    "prepare",
    "candidates",
    "train_als",
    "train_baseline",
    "export_shards",
    "link_shards",
    "train_deep",
    "score",
    "evaluate",
    "publish",
    "similar_items",
    "export_lists",
    "report",
]


def test_every_stage_has_a_job() -> None:
    assert {job.stem for job in JOBS} == set(STAGES)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_job_is_one_call_of_its_stage(job: Path) -> None:
    text = job.read_text(encoding="utf-8")
    stage = ROOT / "recsys_spark" / "stages" / job.name
    assert stage.is_file()
    module = plugins.load("recsys_spark.stages", job.stem)
    assert issubclass(module.Job, context.Job) and callable(module.run)
    assert len(text.splitlines()) <= 12
    assert text.rstrip().endswith(f'job("{job.stem}")')


def test_job_explains_itself_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "jobs" / "train_als.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train_als" in done.stdout
    assert "--dry-run" in done.stdout


def test_job_names_a_wrong_key_in_the_first_second(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest.py"), "sede=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown key sede" in done.stderr
    assert "'seed'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said_before_spark_starts(tmp_path: Path) -> None:
    """With a Java that would not start."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest.py"), "steps.ingest.data=/nowhere"],
        env={"JAVA_HOME": "/no/java"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert (
        "/nowhere" in done.stderr
        and "no such folder" in done.stderr
        and "JAVA_HOME" not in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_is_widgets_one_call_and_display(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert text.startswith("# Databricks notebook source\n")
    tree = ast.parse(text)
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))
    ]
    assert "dbutils.widgets.text(" in text
    assert text.count("runner.run(") == 1
    assert "display(" in text.split("# COMMAND ----------")[-1]
    stages = set(re.findall(r"job\.stage in (\(.+?\))", text))
    assert stages or "runner.run(plan, list(known.values())" in text, (
        "it runs the steps of some stages, or all"
    )
    assert all(stage in STAGES for group in stages for stage in ast.literal_eval(group))


def test_bundle_runs_every_stage_after_what_it_needs() -> None:
    bundle = yaml.safe_load((ROOT / "deploy/databricks/databricks.yml").read_text(encoding="utf-8"))
    tasks = bundle["resources"]["jobs"]["recsys_spark"]["tasks"]
    # The default pipeline has no such steps
    assert {task["task_key"] for task in tasks} == set(STAGES) - {
        "candidates",
        "link_shards",
        "publish",
        "similar_items",
        "export_lists",
    }
    seen: set[str] = set()
    for task in tasks:
        assert {after["task_key"] for after in task.get("depends_on", [])} <= seen
        seen.add(task["task_key"])
        assert (
            ROOT / "deploy/databricks" / task["spark_python_task"]["python_file"]
        ).resolve() in JOBS
