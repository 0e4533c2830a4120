"""Commands that need no Spark, and what every command has in common."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from rich.console import Console
from typer.testing import CliRunner

import recsys_spark
from recsys_spark.baselines.fitting import registry as baselines
from recsys_spark.cli import progress, running
from recsys_spark.cli.commands import app
from recsys_spark.commands import catalogue, doctor
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, TableError
from recsys_spark.lake.direct import Direct
from recsys_spark.lake.tables import Lake
from recsys_spark.models import registry as models
from recsys_spark.pipeline import steps

ROOT = Path(__file__).parents[2]


def said(*arguments: str) -> str:
    outcome = CliRunner(env={"COLUMNS": "100"}).invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def run(step: str, **facts: object) -> Run:
    plain = {
        "run_id": f"{step}-0123456789",
        "pipeline": "t",
        "step": step,
        "stage": "toy",
        "key": step,
        "config": {"a": [1, 2]},
        "upstream": {"raw": "raw-1"},
        "input_versions": {"splits": 3},
        "output_versions": {},
        "run_dir": "runs/x",
        "code_version": "1",
        "seed": 1,
        "started_at": 1.0,
        "ended_at": 2.0,
    }
    return Run.model_validate(plain | facts)


def lake_of(folder: Path, *runs: Run) -> Path:
    import pyarrow as pa

    text, long = pa.string(), pa.int64()
    maps = {"upstream": text, "input_versions": long, "output_versions": long}
    rows = [record.row() for record in runs]
    columns = {
        name: pa.array(
            [list(row[name].items()) if name in maps else row[name] for row in rows],
            pa.map_(text, maps[name]) if name in maps else None,
        )
        for name in rows[0]
    }
    write_deltalake(str(folder / "runs"), pa.table(columns), partition_by=["run_id"])
    return folder


def test_version_and_help_are_there_for_every_command() -> None:
    assert said("--version") == f"recsys-spark {recsys_spark.__version__}\n"
    for command in app.registered_commands:
        name = (command.name or command.callback.__name__).replace("_", "-")
        assert "Usage:" in said(name, "-h")


def test_names_are_whole_and_every_model_has_its_settings() -> None:
    listed = said("models")
    for name in (*baselines.names(), *models.names()):
        assert name in listed
        settings = [asdict(setting) for setting in catalogue.settings(name)]
        config = (baselines.find(name) if name in baselines.names() else models.find(name)).Config
        assert [setting["name"] for setting in settings] == list(config.model_fields)
        assert all(setting["kind"] for setting in settings)
        silent = [setting["name"] for setting in settings if not setting["meaning"]]
        assert not silent, f"{name}: no comment says what {', '.join(silent)} mean"
    card = json.loads(said("models", "ease", "--json"))
    assert [setting["name"] for setting in card["settings"]][:2] == ["l2", "dropout"]
    assert "items^2" in card["memory"] and card["needs"] and card["unfit"]
    assert card["figures"][0]["value"] == ".0535"
    text = " ".join(said("models", "multi_dae").split())
    assert "1,604 bytes an item, and 2,404 more" in text and "not for" in text
    assert "must be given" not in said("models", "ease")
    outcome = CliRunner().invoke(app, ["models", "eese"])
    assert isinstance(outcome.exception, ConfigError) and "'ease'" in str(outcome.exception)


def test_runs_are_read_without_spark(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", run("als"), run("ease", state="failed", problem="no memory"))
    (tmp_path / "p.yaml").write_text(
        f"name: t\nenv: {{lake: {lake}, runs: r}}\nsteps: {{raw: {{stage: ingest}}}}\n"
    )
    code = (
        "import pyspark.java_gateway as g\n"
        "def no(*a, **k): raise AssertionError('a JVM was started')\n"
        "g.launch_gateway = no\n"
        "from recsys_spark.cli import main\n"
        f"import sys; sys.argv = ['recsys-spark', 'runs', {str(tmp_path / 'p.yaml')!r}, '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(done.stdout)
    assert [record["state"] for record in recorded] == ["done", "failed"]
    here = run("als", run_dir=str(ROOT / "r" / "runs" / "x"))  # named from the folder of runs
    assert recorded[0] == here.model_dump() and recorded[1]["problem"] == "no memory"


def test_a_process_that_has_read_a_table_ends_well(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", *(run(f"step{number}") for number in range(20)))
    code = (
        f"from recsys_spark.lake.direct import Direct; print(len(Direct({str(lake)!r}).attempts()))"
    )
    for _ in range(6):  # half of them were aborted
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "20\n", "")


def test_a_lake_without_runs_has_none_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert Direct(str(tmp_path)).attempts() == []
    lake = lake_of(tmp_path, run("als"))
    for file in DeltaTable(str(lake / "runs")).file_uris():
        Path(file).write_bytes(b"PAR1")
    with pytest.raises(TableError, match="runs: found .*; expected a Delta table"):
        Direct(str(lake)).attempts()


def test_a_pipeline_is_found_by_its_bare_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "conf" / "pipelines" / "ml-1m.yaml"
    assert running.arguments("ml-1m", None) == (shipped, [])
    assert running.arguments(None, ["seed=2"]) == (shipped, ["seed=2"])
    (tmp_path / "conf" / "pipelines").mkdir(parents=True)
    own = tmp_path / "conf" / "pipelines" / "ml-1m.yaml"
    own.write_text("name: own\n")
    assert running.arguments("ml-1m", None)[0].resolve() == own
    # `extends` too: an own file builds on the shipped environment
    (tmp_path / "my.yaml").write_text("extends: conf/env/local.yaml\nname: my\n")
    from recsys_spark.core import config

    assert "lake" in config.load(tmp_path / "my.yaml")["env"]


def test_a_further_file_is_merged_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_LAKE", "s3a://bucket/lakes")
    monkeypatch.setenv("RECSYS_RUNS", "/shared/runs")
    (tmp_path / "my.yaml").write_text(
        "extends: conf/env/local.yaml\nname: my\nsteps: {a: {stage: ingest}}\n"
    )
    arguments = ["env.lake=first", "conf/env/cluster.yaml", "env.spark.master=spark://host:7077"]
    env = steps.read(tmp_path / "my.yaml", arguments).env
    assert (env.lake, env.runs) == ("s3a://bucket/lakes/my", "/shared/runs/my")
    assert env.spark.master == "spark://host:7077" and env.spark.shuffle_partitions is None
    monkeypatch.delenv("RECSYS_LAKE")
    with pytest.raises(ConfigError, match="RECSYS_LAKE"):
        steps.read(tmp_path / "my.yaml", arguments)
    with pytest.raises(ConfigError, match=r"argument 'als': expected key=value, or a YAML file"):
        steps.read(tmp_path / "my.yaml", ["als"])


@pytest.mark.parametrize("name", ["cluster", "databricks", "kubernetes"])
def test_a_cluster_shuffles_by_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("RECSYS_LAKE", "RECSYS_RUNS"):
        monkeypatch.setenv(variable, "/shared" if name == "cluster" else "main.recsys")
    (tmp_path / "my.yaml").write_text(
        "extends: conf/env/local.yaml\nname: my\nsteps: {a: {stage: ingest}}\n"
        "env: {spark: {shuffle_partitions: 4}}\n"
    )
    given = [f"conf/env/{name}.yaml", "env.spark.conf.spark.a.b.c=x"]
    spark = steps.read(tmp_path / "my.yaml", given).env.spark
    assert spark.shuffle_partitions is None and spark.conf["spark.a.b.c"] == "x"
    if name == "databricks":
        assert spark.conf["spark.sql.shuffle.partitions"] == "auto"
    else:
        assert spark.conf["spark.sql.adaptive.enabled"] == "true"
        assert not spark.master.startswith("local")


def test_a_lake_is_a_schema_and_no_table(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: my\nenv: {lake: l, runs: r}\nsteps: {a: {}}\n")

    def lake(root: str) -> str:
        return steps.read(tmp_path / "my.yaml", [f"env.lake={root}"]).env.lake

    for root in (
        "main.recsys",
        "main-x.recsys",
        "./main.recsys.prod",
        "s3a://a.b.c/d",
        "out/a.b.c",
    ):
        assert lake(root) == root
    with pytest.raises(
        ConfigError,
        match=r"env\.lake: found 'main\.recsys\.runs'; expected catalog\.schema.* not one table: "
        r"main\.recsys; a folder of this name: \./main\.recsys\.runs",
    ):
        lake("main.recsys.runs")
    spark: Any = None
    assert Lake(spark, "main-x.recsys").where("runs") == "`main-x`.recsys.runs"


def test_the_doctor_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {finding.name: finding.state for finding in doctor.examine(str(tmp_path), None)}
    assert states["java"] == states["torch"] == states["Delta's JARs"] == states["lake"] == "ok"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(doctor.PACKAGES, "no_such_package", ("nothing", "pip install it"))
    findings = {
        finding.name: finding for finding in doctor.examine(str(tmp_path / "file"), "s3://b")
    }
    assert findings["java"].state == "missing" and "JAVA_HOME" in findings["java"].remedy
    assert findings["lake"].state == "missing" and "env.lake" in findings["lake"].remedy
    assert findings["no_such_package"].state == findings["runs"].state == "optional"
    outcome = CliRunner().invoke(app, ["doctor"])
    assert outcome.exit_code == 2 and "missing" in outcome.output


def test_a_wheel_has_the_configurations(tmp_path: Path) -> None:
    code = (
        "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1], "
        "{'--build-option': ['--quiet']})"
    )
    copy = tmp_path / "tree"
    shutil.copytree(ROOT / "recsys_spark", copy / "recsys_spark")
    shutil.copytree(ROOT / "conf", copy / "conf")
    shutil.copytree(ROOT / "docs", copy / "docs")
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=copy, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf and {f"recsys_spark/{name}" for name in conf} <= names
    assert {"recsys_spark/py.typed", "recsys_spark/report/page.css"} <= names
    assert {"recsys_spark/docs/parity.md", "recsys_spark/docs/results.md"} <= names


def test_a_running_step_has_a_line_that_gives_the_cursor_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(progress.atexit, "register", at_exit.append)
    monkeypatch.setattr(progress, "REFRESH_S", 0.01)
    monkeypatch.setattr(progress, "tasks", lambda: (3, 8))
    shown = io.StringIO()
    running_step = progress.Running(Console(file=shown, force_terminal=True, width=100))
    running_step.start("als", "train_als", earlier_s=40.0)
    for _ in range(1000):
        if "3 of 8 tasks" not in shown.getvalue():
            time.sleep(0.01)
    assert "3 of 8 tasks of this Spark job, about" in shown.getvalue()
    at_exit[0]()
    assert shown.getvalue().rindex("\x1b[?25h") > shown.getvalue().rindex("\x1b[?25l")
    running_step.start("neumf", "train_deep", earlier_s=None)  # which shows its own
    assert running_step.thread is None
