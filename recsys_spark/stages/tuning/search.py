"""Search for settings on validation: trials are drawn at random or by Optuna's TPE and judged by
the scorer of stage `score`. A search can be resumed.

Each trial is a line of trials.jsonl in the run folder and, when the search is over, a row of `runs`
(stage `trial`). Trial t does not depend on the number of trials after it, so a stopped search
resumes, and a longer search, which is another run, reuses the trials of the shorter one. The test
part is never read.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from recsys_spark.core import artifacts, log, seeds
from recsys_spark.core.config import Settings
from recsys_spark.core.contracts import Run, Seen
from recsys_spark.core.errors import ConfigError
from recsys_spark.metrics.glossary import LOWER_IS_BETTER
from recsys_spark.pipeline.context import Context, Job

logger = log.get(__name__)
TRIALS = "trials.jsonl"  # in the run folder
EDGE = 0.05  # fraction of a range, at either end, that counts as its edge


class Between(Settings):
    """A range that includes both ends."""

    low: float
    high: float
    log: bool = True  # drawn uniformly on a logarithmic scale
    whole: bool = False  # integers only

    @model_validator(mode="after")
    def _in_order(self) -> Between:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                "low below high, and above 0 on a logarithmic scale (log: false for a plain one)"
            )
        return self


Choices = tuple[bool | int | float | str, ...]


class Search(Settings):
    """space: {setting: a range or a list of values}. A setting is one of the step's config, or for
    a deep model a dotted one such as train.optim.lr.
    """

    space: dict[str, Between | Choices] = Field(min_length=1)
    trials: int = Field(20, ge=1)
    sampler: Literal["random", "tpe"] = "random"
    budget_s: float = Field(0.0, ge=0)  # seconds after which no trial begins; 0: no limit
    metric: str = ""  # empty: ndcg@10 for rankings, rmse for ratings
    # The most users ranked to judge a trial, chosen by a hash of their number
    users: int = Field(20_000, ge=1)
    seen: Seen = "leave_out"  # of the lists by which trials are judged, as in the score step

    @field_validator("sampler")
    @classmethod
    def _is_installed(cls, sampler: str) -> str:
        if sampler == "tpe" and importlib.util.find_spec("optuna") is None:
            raise ValueError("random, or the package of tpe: pip install 'recsys_spark[tune]'")
        return sampler

    @field_validator("space")
    @classmethod
    def _not_empty(cls, space: dict[str, Between | Choices]) -> dict[str, Between | Choices]:
        for name, values in space.items():
            if isinstance(values, tuple) and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name}: different values, at least one")
        return space


def corners(search: Search) -> Iterator[dict[str, Any]]:
    """Settings that a configuration must accept: one setting at a time, at each end of its range or
    each value of its list.
    """
    for name, space in search.space.items():
        if isinstance(space, Between):
            yield from (
                {name: round(end) if space.whole else end} for end in (space.low, space.high)
            )
        else:
            yield from ({name: choice} for choice in space)


def choose(
    ctx: Context, job: Job, search: Search, metric: str, trial: Callable[[dict[str, Any]], float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the best settings, facts of the job's search). `trial` fits one draw on the training part
    and returns its validation metric.
    """
    path = ctx.run_dir / TRIALS
    sign = _sign(metric)
    if not path.exists():
        artifacts.write_text(
            path,
            "".join(json.dumps(record) + "\n" for record in _of_shorter(ctx, job, search, sign)),
        )
    done = read(path)
    began = time.monotonic()
    for number in range(search.trials):
        values = draw(search, ctx.seed, done[:number], sign)
        if number < len(done):
            if done[number]["values"] != values:
                raise ConfigError(
                    f"{path}, trial {number}",
                    found=done[number]["values"],
                    expected=f"{values} by this search",
                    remedy="remove that file, or go on with the search that wrote it",
                )
            continue
        if search.budget_s and done and time.monotonic() - began > search.budget_s:
            logger.warning(
                log.fields(
                    step=ctx.step,
                    trials=number,
                    of=search.trials,
                    budget_s=search.budget_s,
                    stopped="budget spent",
                )
            )
            break
        started = time.monotonic()
        value = trial(values)
        record = {
            "trial": number,
            "values": values,
            "metric": metric,
            "value": value,
            "seconds": round(time.monotonic() - started, 1),
        }
        with open(path, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        done.append(record)
        logger.info(
            log.fields(
                step=ctx.step,
                trial=f"{number + 1}/{search.trials}",
                **values,
                **{metric: value},
                seconds=record["seconds"],
            )
        )
    best = leader(done[: search.trials], metric)
    if best is None:
        raise ConfigError(
            f"step {ctx.step}, search",
            found=f"no finite {metric} in {len(done)} trials",
            expected="at least one",
            remedy="move the space: every model of it diverged",
        )
    at_edge = edges(best["values"], search)
    if at_edge:
        logger.warning(
            log.fields(
                step=ctx.step,
                best_at_the_edge_of=",".join(at_edge),
                remedy="widen the search there",
            )
        )
    ctx.lake.add_runs(_record(ctx, record) for record in done[: search.trials])
    facts = {
        "trials": len(done[: search.trials]),
        "sampler": search.sampler,
        "metric": metric,
        "valid": best["value"],
        "chosen": dict(best["values"]),
        "edges": ",".join(at_edge) or "none",
        "search_s": round(sum(record["seconds"] for record in done[: search.trials]), 1),
    }
    return dict(best["values"]), facts


def _of_shorter(ctx: Context, job: Job, search: Search, sign: float) -> list[dict[str, Any]]:
    """The trials of the completed run with the most trials among those that differ from this run
    only in the number of trials and the budget. They end before the first trial that the installed
    version of the sampler would draw differently.
    """

    def but_length(config: dict[str, Any]) -> dict[str, Any]:
        return config | {
            "search": {**(config.get("search") or {}), "trials": None, "budget_s": None}
        }

    identity = job.stage, ctx.seed, but_length(job.model_dump(mode="json"))
    alike = [
        run
        for run in ctx.lake.runs()
        if (run.stage, run.seed, but_length(run.config)) == identity
        and all(ctx.inputs[name].run_id == run_id for name, run_id in run.upstream.items())
    ]
    kept = max((read(Path(run.run_dir) / TRIALS) for run in alike), key=len, default=[])
    kept = kept[: search.trials]
    same = itertools.takewhile(
        lambda number: draw(search, ctx.seed, kept[:number], sign) == kept[number]["values"],
        range(len(kept)),
    )
    return [kept[number] for number in same]


def leader(trials: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The best trial, the first among equals; None where no value is finite."""
    finite = [record for record in trials if math.isfinite(record["value"])]
    return max(finite, key=lambda record: _sign(metric) * record["value"], default=None)


def draw(
    search: Search, seed: int, earlier: Sequence[dict[str, Any]], sign: float
) -> dict[str, Any]:
    """The settings of the trial after `earlier`. They depend on the seed and on the earlier trials
    (TPE) or only on their number (random).
    """
    own = seeds.derive(seed, "search", len(earlier)) % 2**32
    if search.sampler == "random":
        return _drawn(search, np.random.default_rng(own))
    from recsys_spark.stages.tuning import tpe

    return tpe.draw(search.space, own, earlier, sign)


def edges(values: dict[str, Any], search: Search) -> list[str]:
    """Settings whose value lies at an edge of the space: the smallest or largest of a list of
    numbers, or the outer 5 % (EDGE) of a range.
    """
    at_edge = []
    for name, space in search.space.items():
        value = values[name]
        if isinstance(space, Between):
            low, high, position = (
                math.log(x) if space.log else x for x in (space.low, space.high, value)
            )
            if not EDGE < (position - low) / (high - low) < 1 - EDGE:
                at_edge.append(name)
            continue
        numbers = [choice for choice in space if not isinstance(choice, (bool, str))]
        if len(numbers) == len(space) > 2 and value in (min(numbers), max(numbers)):
            at_edge.append(name)
    return at_edge


def read(path: Path) -> list[dict[str, Any]]:
    """The trials in complete lines: the last line may be cut off after a kill."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        artifacts.write_text(path, whole)
    return [json.loads(line) for line in whole.splitlines()]


def _sign(metric: str) -> float:
    return -1.0 if metric.partition("@")[0] in LOWER_IS_BETTER else 1.0


def _drawn(search: Search, rng: np.random.Generator) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, space in search.space.items():
        if isinstance(space, tuple):
            values[name] = space[int(rng.integers(len(space)))]
            continue
        low, high = (
            (math.log(space.low), math.log(space.high)) if space.log else (space.low, space.high)
        )
        value = float(rng.uniform(low, high))
        value = math.exp(value) if space.log else value
        values[name] = round(value) if space.whole else float(f"{value:.6g}")
    return values


def _record(ctx: Context, record: dict[str, Any]) -> Run:
    run_id = f"{ctx.run_id}-trial{record['trial']:03d}"
    return Run(
        run_id=run_id,
        pipeline=ctx.pipeline,
        step=ctx.step,
        stage="trial",
        config=record["values"],
        key=artifacts.fingerprint({"trial": run_id}),
        upstream={name: run.run_id for name, run in ctx.inputs.items()},
        input_versions=dict(ctx.read_versions),
        output_versions={},
        run_dir=str(ctx.run_dir),
        code_version="",
        seed=ctx.seed,
        started_at=ctx.now,
        ended_at=ctx.now,
        summary={record["metric"]: record["value"], "seconds": record["seconds"], "part": "valid"},
    )
