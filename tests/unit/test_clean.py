"""What is old and stands for nothing can go; what a kept run builds on stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recsys_spark.commands import clean, forget, lineage
from recsys_spark.core import columns as c
from recsys_spark.core import locks
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, RecsysError
from recsys_spark.lake import erasure
from recsys_spark.lake.schemas import SCHEMAS

DAY = 86_400.0
NOW = 100 * DAY


class Recorded:
    """A lake in a catalog that has runs and no other table."""

    in_catalog = True

    def __init__(self, *runs: Run) -> None:
        self.recorded = list(runs)

    def attempts(self) -> list[Run]:
        return self.recorded

    def runs(self) -> list[Run]:
        return [run for run in self.recorded if run.state == "done"]

    def exists(self, name: str) -> bool:
        return False


def run(folder: Path, name: str, *, day: float, on: tuple[str, ...] = (), stage: str = "s") -> Run:
    (folder / name).mkdir(parents=True)
    (folder / name / "job.json").write_text("{}")
    (folder / name / "weights").write_text("x" * 100)
    return Run(
        run_id=name,
        pipeline="t",
        step=name,
        stage=stage,
        key=name,
        config={},
        upstream={other: other for other in on},
        input_versions={},
        output_versions={},
        run_dir=str(folder / name),
        code_version="",
        seed=1,
        started_at=day * DAY,
        ended_at=day * DAY,
    )


def test_old_runs_go_but_none_on_which_a_kept_one_builds(tmp_path: Path) -> None:
    lake = Recorded(
        run(tmp_path, "ingest", day=1),
        run(tmp_path, "prepare", day=2, on=("ingest",)),
        run(tmp_path, "old_als", day=3, on=("prepare",)),
        run(tmp_path, "old_score", day=4, on=("old_als",)),
        run(tmp_path, "young_als", day=99, on=("prepare",)),
        run(tmp_path, "named", day=5, on=("base",)),
        run(tmp_path, "base", day=4),
        run(tmp_path, "erased", day=6, stage=forget.STAGE),
        run(tmp_path, "lists", day=3),
        run(tmp_path, "published", day=4, on=("lists",), stage="publish").model_copy(
            update={"summary": {"name": "default", "generation": 2}}
        ),
        run(tmp_path, "before", day=3, stage="publish").model_copy(
            update={"summary": {"name": "default", "generation": 1}}
        ),
        run(tmp_path, "failure", day=7).model_copy(update={"state": "failed"}),
    )
    gone = clean.leftover(lake, runs_dir=tmp_path, kept={"named"}, older_than_s=30 * DAY, now=NOW)
    assert [run.run_id for run in gone.runs] == ["old_als", "old_score", "before", "failure"]
    assert (gone.folder_bytes, gone.unfinished, gone.rows) == (4 * 102, (), {})
    clean.clean(lake, gone, retention_s=DAY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base",
        "erased",
        "ingest",
        "lists",
        "named",
        "prepare",
        "published",
        "young_als",
    ]


def test_runs_that_never_completed_go_when_they_are_old_and_nobody_works_in_them(
    tmp_path: Path,
) -> None:
    for name in ("killed", "young", "elsewhere", "page"):
        run(tmp_path, name, day=1)
    (tmp_path / "elsewhere" / "run.json").write_text("{}")  # completed, for another lake
    (tmp_path / "page" / "job.json").unlink()  # no run's folder
    for path in [*tmp_path.glob("killed/*"), *tmp_path.glob("*")]:
        os.utime(path, (DAY, DAY))
    os.utime(tmp_path / "young" / "weights", (99 * DAY, 99 * DAY))
    for path in (tmp_path / "young").glob("job.json"):
        os.utime(path, (DAY, DAY))
    gone = clean.leftover(Recorded(), runs_dir=tmp_path, kept=(), older_than_s=DAY * 30, now=NOW)
    assert gone.unfinished == (tmp_path / "killed",)
    with locks.alone(tmp_path / "killed" / ".lock"):
        with pytest.raises(RecsysError, match="a process that works in it"):
            clean.clean(Recorded(), gone, retention_s=0)
    clean.clean(Recorded(), gone, retention_s=0)
    assert not (tmp_path / "killed").exists() and (tmp_path / "young").exists()


def test_what_builds_on_a_run_at_any_remove(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "c", day=3, on=("b",)),
        run(tmp_path, "b", day=2, on=("a",)),
        run(tmp_path, "a", day=1),
        run(tmp_path, "d", day=4),
    ]
    assert [run.run_id for run in lineage.above(runs, {"a"})] == ["b", "c"]
    assert lineage.below(runs, {"c"}) == {"a", "b", "c"}


def test_an_age_is_days_or_hours() -> None:
    assert clean.seconds_of("2d") == 2 * DAY and clean.seconds_of("12h") == DAY / 2
    with pytest.raises(ConfigError, match="option --older-than: found month; expected for example"):
        clean.seconds_of("month")


def test_every_table_that_names_a_user_is_erased_from() -> None:
    named = {
        name
        for name, schema in SCHEMAS.items()
        if {c.USER_ID, c.QUERY_ID} & set(schema.fieldNames())
    }
    assert named == set(erasure.COLUMNS)


def test_a_playlist_with_the_users_id_is_not_erased_with_it() -> None:
    by_query = {name for name, column in erasure.COLUMNS.items() if column == c.QUERY_ID}
    with_kind = {name for name in by_query if c.QUERY_KIND in SCHEMAS[name].fieldNames()}
    assert {c.CURRENT, c.QUERY_INDEX, c.RECOMMENDATIONS} <= with_kind
    for name in by_query:
        for sessions in (False, True):
            condition = erasure._condition(name, sessions)
            assert ("IN ('user', 'session')" in condition) == (name in with_kind)
