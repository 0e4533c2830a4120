"""Our figures beside the published ones: runs the pipelines named by a list of rows, and writes
one Markdown table for each protocol.

    - protocol: K-FULL, SASRec's ML-1M file      # heading of the table
      pipeline: pipelines/parity-sasrec.yaml     # a path from the list's own file
      evaluation: ranking                        # an evaluate step of it
      of: score_ease                             # the scored run in that evaluation
      metric: ndcg@10
      published: 0.0536
      source: who measured it, on what
      within: 0.001                              # or at_least, at_most; none: reported only
      seeds: [1]                                 # the mean over them is compared
      chosen: {by: 10 trials on seed 1, settings: [dim]}  # where the pipeline has as fixed what
      another one's search found

This command tunes nothing: the pipelines tune their settings, on validation.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from recsys_spark.core import artifacts, config
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Run
from recsys_spark.core.errors import ConfigError, DataError, nearest
from recsys_spark.lake.tables import Lake
from recsys_spark.pipeline import runner as pipelines
from recsys_spark.pipeline import steps
from recsys_spark.report import parity_page, results
from recsys_spark.report.parity_page import Line


class Chosen(Settings):
    """Origin of tuned settings for which the model's step has no search. settings: their names in
    its config, or dotted names in `train`.
    """

    by: str
    settings: tuple[str, ...] = Field(min_length=1)


class Wanted(Settings):
    """One row of the list."""

    protocol: str
    pipeline: str
    evaluation: str
    of: str
    metric: str
    published: str = ""  # as it was published, several figures included
    source: str = ""
    target: float | None = None  # the figure that `within` is measured from
    within: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    chosen: Chosen | None = None
    note: str = ""

    @model_validator(mode="after")
    def _one_rule(self) -> Wanted:
        rules = sum(rule is not None for rule in (self.within, self.at_least, self.at_most))
        if rules > 1 or (self.within is None) != (self.target is None):
            raise ValueError("one of within (with target), at_least, at_most, or none of them")
        return self

    def verdict(self, value: float) -> str:
        """PASS, FALLS SHORT, or reported where the row sets no bound."""
        if self.within is not None and self.target is not None:
            return _word(abs(value - self.target) <= self.within)
        if self.at_least is not None:
            return _word(value >= self.at_least)
        return _word(value <= self.at_most) if self.at_most is not None else "reported"

    @property
    def rule(self) -> str:
        if self.within is not None:
            return f"{self.target:g} ± {self.within:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else "report"


class Listed(Settings):
    title: str = "Parity"
    intro: str = ""
    rows: tuple[Wanted, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Found:
    """Result of one seed."""

    value: results.Value
    fitted: Run  # the run of the model
    prepared: Run  # the run of the split


def load(path: Path) -> Listed:
    """Reads and checks the list, its pipelines included, before anything runs. Raises ConfigError
    for a list or a name that cannot be used.
    """
    listed = config.validate(Listed, config.load(path), source=str(path))
    pipelines_of = {
        file: steps.load(path.parent / file)[1]
        for file in dict.fromkeys(row.pipeline for row in listed.rows)
    }
    for number, row in enumerate(listed.rows):
        known_steps = pipelines_of[row.pipeline]
        for field in ("evaluation", "of"):
            name = getattr(row, field)
            if name not in known_steps:
                raise ConfigError(
                    f"{path}, rows.{number}.{field}",
                    found=repr(name),
                    expected=f"a step of {row.pipeline}: {', '.join(known_steps)}"
                    f"{nearest(name, known_steps)}",
                )
        if row.of not in known_steps[row.evaluation].needs:
            raise ConfigError(
                f"{path}, rows.{number}.of",
                found=row.of,
                expected=f"one of {', '.join(known_steps[row.evaluation].needs)}, "
                f"which {row.evaluation} evaluates",
            )
    return listed


def run(
    path: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    arguments: Sequence[str] = (),
    listener: pipelines.Listener,
    written: Callable[[Path], None] = lambda page: None,
) -> Path:
    """Runs the pipelines that have not completed, and writes the page `out` after each of them, so
    that a long run shows its results so far.

    only: names of pipelines (file stems) to run; rows of other pipelines come from completed runs,
    or are shown as not measured. Raises ConfigError for a name that no row has.
    """
    listed = load(path)
    stems = {Path(row.pipeline).stem for row in listed.rows}
    for name in only:
        if name not in stems:
            raise ConfigError(
                f"pipeline {name!r}",
                found=f"not in {path}",
                expected=f"one of {', '.join(sorted(stems))}{nearest(name, stems)}",
            )
    findings: dict[tuple[int, int], Found] = {}
    todo = dict.fromkeys((row.pipeline, seed) for row in listed.rows for seed in row.seeds)

    def runs(file: str) -> bool:
        return not only or Path(file).stem in only

    # Pipelines that only read completed runs come first, so that every page has their rows
    for file, seed in sorted(todo, key=lambda pair: runs(pair[0])):
        pipeline_rows = [
            (number, row)
            for number, row in enumerate(listed.rows)
            if row.pipeline == file and seed in row.seeds
        ]
        pipeline, known_steps = steps.load(path.parent / file, [f"seed={seed}", *arguments])
        chosen = steps.closure(known_steps, [row.evaluation for _, row in pipeline_rows])
        lake = pipelines.open_lake(pipeline)
        done = (
            pipelines.run(pipeline, chosen, lake=lake, listener=listener)
            if runs(file)
            else _kept(pipeline, chosen, lake)
        )
        for number, row in pipeline_rows:
            if row.evaluation in done:
                findings[(number, seed)] = _find(row, done, source=f"{path}, rows.{number}")
        artifacts.write_text(
            out,
            parity_page.render(
                listed.title, listed.intro, list(_lines(listed, findings)), _machine()
            ),
        )
        written(out)
    return out


def _kept(pipeline: steps.Pipeline, chosen: list[steps.Step], lake: Lake) -> dict[str, Run]:
    """{step: completed run}; empty where the raw data are missing: rows are then shown as not
    measured.
    """
    try:
        return pipelines.kept(pipeline, chosen, lake=lake)
    except DataError:
        return {}


def _find(row: Wanted, done: dict[str, Run], *, source: str) -> Found:
    evaluated, scored = done[row.evaluation], done[row.of]
    metric, _, cut = row.metric.partition("@")
    values = results.from_summary(evaluated.summary)
    run_values = [value for value in values if value.run_id == scored.run_id]
    for value in run_values:
        if (value.metric, value.k) == (metric, int(cut or 0)):
            return Found(
                value, done[str(scored.config["model"])], done[str(evaluated.config["source"])]
            )
    names = sorted(
        {f"{value.metric}@{value.k}" if value.k else value.metric for value in run_values}
    )
    raise ConfigError(
        f"{source}.metric",
        found=row.metric,
        expected=f"one of {', '.join(names)}{nearest(row.metric, names)}",
    )


def _lines(listed: Listed, findings: dict[tuple[int, int], Found]) -> Iterator[Line]:
    for number, row in enumerate(listed.rows):
        available = [findings[(number, seed)] for seed in row.seeds if (number, seed) in findings]
        line = Line(
            row.protocol,
            row.of.removeprefix("score_"),
            row.metric,
            row.published,
            row.source,
            row.rule,
            row.note,
            row.pipeline,
        )
        if len(available) < len(row.seeds):
            yield line
            continue
        values = [finding.value.value for finding in available]
        assert all(value is not None for value in values), f"{row.of}: nothing was measured"
        numbers = [float(value) for value in values if value is not None]
        mean = sum(numbers) / len(numbers)
        yield line.measured(
            value=mean,
            interval=_interval([finding.value for finding in available]),
            verdict=row.verdict(mean),
            seconds=sum(float(finding.fitted.summary.get("seconds", 0)) for finding in available)
            / len(available),
            settings=_settings(row, [finding.fitted for finding in available]),
            fingerprints=tuple(
                str(finding.prepared.summary["fingerprint"]) for finding in available
            ),
        )


def _interval(values: Sequence[results.Value]) -> str:
    """The 95 % interval; for several seeds the mean of its ends, and the spread of the seeds."""
    if len(values) == 1:
        return results.interval(values[0])
    low, high = (
        sum(float(getattr(value, end) or math.nan) for value in values) / len(values)
        for end in ("low", "high")
    )
    figures = [float(value.value or math.nan) for value in values]
    return f"{low:.4f}–{high:.4f}; seeds {min(figures):.4f}–{max(figures):.4f}"


def _settings(row: Wanted, fitted: Sequence[Run]) -> str:
    """The settings that the model was fitted with: those chosen by its search for each seed, and
    those at the edge of the search space.

    Raises ConfigError where the list names a setting that the model's step does not have.
    """
    space = dict((fitted[0].config.get("search") or {}).get("space") or {})
    if not space and row.chosen:
        values = ", ".join(
            f"{name} {_short(_setting(row, name, fitted[0].config))}"
            for name in row.chosen.settings
        )
        return f"{values}; chosen by {row.chosen.by}"
    if not space:
        return "not tuned"
    # `chosen` has settings of training too
    run_facts = [run.summary | run.summary.get("chosen", {}) for run in fitted]
    chosen = [
        ", ".join(f"{name} {_short(facts[name])}" for name in space if name in facts)
        for facts in run_facts
    ]
    edges = (
        ", ".join(
            dict.fromkeys(
                str(run.summary["edges"]) for run in fitted if run.summary["edges"] != "none"
            )
        )
        or "none"
    )
    return (
        f"{' / '.join(dict.fromkeys(chosen))}; {fitted[0].summary['trials']} trials, edges: {edges}"
    )


def _setting(row: Wanted, name: str, step: dict[str, Any]) -> Any:
    at: Any = step if "." in name else step.get("config", {})
    for key in name.split("."):
        if not isinstance(at, dict) or key not in at:
            raise ConfigError(
                f"{row.protocol}, {row.of}, chosen.settings",
                found=name,
                expected=f"a setting that the model's step in "
                f"{row.pipeline} has: of its config ({', '.join(step.get('config', {}))}), "
                "or one such as train.optim.lr",
            )
        at = at[key]
    return at


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.machine()}, Python "
        f"{platform.python_version()}"
    )


def _word(passed: bool) -> str:
    return "PASS" if passed else "FALLS SHORT"
