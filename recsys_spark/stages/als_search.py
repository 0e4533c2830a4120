"""Settings for ALS, chosen on validation by a random search that goes on where it was stopped.

Settings are drawn at random from a stated space, by the seed; each trial is a line of trials.jsonl in the run folder.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch
from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.baselines import als, artifact
from recsys_spark.core import columns as c
from recsys_spark.core import log, seeds
from recsys_spark.core.config import Settings
from recsys_spark.core.errors import DataError
from recsys_spark.metrics import ranking
from recsys_spark.scoring import dot, topk

logger = log.get(__name__)
TRIALS = "trials.jsonl"  # in the run folder
CUT = 10


class Search(Settings):
    """The space, ends included. reg and alpha are drawn evenly on a logarithmic scale, rank from the list."""

    trials: int = Field(20, ge=1)
    rank: tuple[int, ...] = (32, 64, 128)
    reg: tuple[float, float] = (0.001, 0.3)
    alpha: tuple[float, float] = (0.05, 20.0)  # implicit only
    users: int = Field(20_000, ge=1)  # at most so many users are ranked to judge a trial, chosen by a hash of their number

    @model_validator(mode="after")
    def _in_order(self) -> Search:
        for name in ("reg", "alpha"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} from a number above 0 to a larger one")
        if not self.rank or min(self.rank) < 1:
            raise ValueError("rank a list of numbers of at least 1")
        return self


def choose(events: DataFrame, config: als.Config, search: Search, *, folder: Path, num_items: int, seed: int,
           blocks: int) -> tuple[als.Config, dict[str, Any]]:
    """The best settings and the facts of the search. events: (user_idx, item_idx, value, part), no test part.

    Raises DataError when there is no validation event.
    """
    path = folder / TRIALS
    trials = _read(path)
    train = events.where(F.col(c.PART) == c.TRAIN)
    judge = Judge(events, search, implicit=config.implicit, seed=seed)
    for number, drawn in enumerate(draws(config, search, seed)):
        if number < len(trials):
            assert trials[number]["config"] == drawn.model_dump(), f"{path} is of another search"
            continue
        began = time.monotonic()
        value = judge(als.fit(train, drawn, num_items=num_items, seed=seed, blocks=blocks))
        trial = {"trial": number, "config": drawn.model_dump(), "metric": judge.metric, "value": value,
                 "seconds": round(time.monotonic() - began, 1)}
        with open(path, "a", encoding="utf-8") as out:
            out.write(json.dumps(trial) + "\n")
        trials.append(trial)
        logger.info(log.fields(stage="train_als", trial=f"{number + 1}/{search.trials}", rank=drawn.rank, reg=drawn.reg,
                               alpha=drawn.alpha, **{judge.metric: value}, seconds=trial["seconds"]))
    best = max(trials, key=lambda trial: judge.sign * trial["value"])
    chosen = als.Config(**best["config"])
    at_edge = edges(chosen, search)
    if at_edge:
        logger.warning(log.fields(stage="train_als", best_at_the_edge_of=",".join(at_edge), remedy="widen the search there"))
    return chosen, {"trials": len(trials), "valid": best["value"], "metric": judge.metric, "edges": ",".join(at_edge) or "none"}


def draws(config: als.Config, search: Search, seed: int) -> Iterator[als.Config]:
    """The settings of each trial: trial t is the same however many follow it."""
    for trial in range(search.trials):
        rng = np.random.default_rng(seeds.derive(seed, "als search", trial))
        rank, reg, alpha = rng.choice(search.rank), _log_uniform(rng, *search.reg), _log_uniform(rng, *search.alpha)
        yield config.model_copy(update={"rank": int(rank), "reg": reg, "alpha": alpha if config.implicit else config.alpha})


class Judge:
    """NDCG@10 over the whole catalogue for implicit ALS (higher is better), RMSE for explicit (lower is better)."""

    def __init__(self, events: DataFrame, search: Search, *, implicit: bool, seed: int) -> None:
        self.implicit, self.seed = implicit, seed
        self.metric, self.sign = (f"ndcg@{CUT}", 1.0) if self.implicit else ("rmse", -1.0)
        valid = events.where(F.col(c.PART) == c.VALID)
        if valid.isEmpty():
            raise DataError("validation part", found="no event", expected="at least one, to choose settings on",
                            remedy="take a split with a validation part, or leave `search` out")
        if not self.implicit:
            self.valid = valid
            return
        users = valid.select(c.USER_IDX).distinct().orderBy(F.xxhash64(F.lit(seed), c.USER_IDX)).limit(search.users)
        self.users = np.sort(users.toArrow().column(c.USER_IDX).to_numpy())
        self.chosen = valid.sparkSession.createDataFrame([(int(user),) for user in self.users], f"{c.USER_IDX} int")
        train = events.where(F.col(c.PART) == c.TRAIN)
        self.seen = _csr(train.join(F.broadcast(self.chosen), on=c.USER_IDX, how="left_semi"), self.users)
        self.targets = _csr(valid.join(F.broadcast(self.chosen), on=c.USER_IDX, how="left_semi"), self.users)

    def __call__(self, factors: als.Factors) -> float:
        return self._ndcg(factors) if self.implicit else self._rmse(factors)

    def _ndcg(self, factors: als.Factors) -> float:
        """A user without training events has the zero vector: all scores tie, so they earn what chance earns."""
        found = factors.users.join(F.broadcast(self.chosen), on=c.USER_IDX, how="left_semi").toArrow()
        vectors = np.zeros((len(self.users), factors.items.shape[1]), dtype=np.float32)
        if len(found):
            rows = np.searchsorted(self.users, found.column(c.USER_IDX).to_numpy())
            vectors[rows] = np.stack(found.column(artifact.VECTOR).to_numpy())
        index = dot.DotIndex(torch.from_numpy(factors.items), model="als")
        query = torch.from_numpy(self.users.astype(np.int64))
        seen = topk.rows_of(*self.seen, np.arange(len(self.users)))
        best = index.top_k(torch.from_numpy(vectors), query, seen, CUT, self.seed)
        return float(ranking.from_lists(best.items.numpy(), *self.targets, ks=(CUT,))[f"ndcg@{CUT}"].mean())

    def _rmse(self, factors: als.Factors) -> float:
        """Cold users and items are predicted by the training mean."""
        items = self.valid.sparkSession.createDataFrame(
            [(i, vector.tolist()) for i, vector in enumerate(factors.items)], f"{c.ITEM_IDX} int, item_vector array<float>")
        rows = self.valid.join(factors.users, on=c.USER_IDX, how="left").join(items, on=c.ITEM_IDX, how="left")
        product = F.aggregate(F.zip_with("vector", "item_vector", lambda a, b: a * b), F.lit(0.0), lambda total, x: total + x)
        error = F.coalesce(product, F.lit(0.0)) + F.lit(factors.mean) - F.col(c.VALUE)
        return math.sqrt(rows.agg(F.avg(error * error)).collect()[0][0])


def _csr(events: DataFrame, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indptr, item indices) by position in the sorted `users`."""
    found = events.select(c.USER_IDX, c.ITEM_IDX).distinct().orderBy(c.USER_IDX, c.ITEM_IDX).toArrow()
    rows = np.searchsorted(users, found.column(c.USER_IDX).to_numpy())
    return np.searchsorted(rows, np.arange(len(users) + 1)), found.column(c.ITEM_IDX).to_numpy().astype(np.int32)


def edges(chosen: als.Config, search: Search) -> list[str]:
    """Settings whose best value lies at an end of the space: an end of the ranks, or the outer twentieths of a logarithmic range."""
    found = ["rank"] if len(search.rank) > 1 and chosen.rank in (min(search.rank), max(search.rank)) else []
    for name in ("reg", "alpha") if chosen.implicit else ("reg",):
        low, high = map(math.log, getattr(search, name))
        place = (math.log(getattr(chosen, name)) - low) / (high - low)
        found += [name] if not 0.05 < place < 0.95 else []
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may have been cut by a kill."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))
