"""What a step costs, on batches that are in memory: what the loop adds to it, optimisers that work
by rows, half precision, compilation.

    python -m tests.benchmarks.bench_step [overhead|tables|crossover|precision ...]
                                          [--threads N] [--json FILE]

    overhead   the loop's steps beside a bare loop of forward, loss, backward and Adam over the same
               batches (ML-1M or rows at random)
    tables     bpr_mf, 64 factors, a million users and 100,000 items, batches of 8,192 pairs at
               random: ms a step, bytes of the optimiser's state
    crossover  Adam on one table, as a whole and by rows: where `optim.name: auto` changes from one
               to the other
    precision  neumf and multi_vae as in bench_train: float32, medium, bf16, compiled

What is compared takes turns, so that a machine that slows down slows all; each figure is a median.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from recsys_spark.batches.layouts.pairs import Pairs
from recsys_spark.core.contracts import Optim
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Model, Sizes
from recsys_spark.nn.tables import Table, table, tables
from recsys_spark.train.launcher import processes
from recsys_spark.train.loop import Loop
from recsys_spark.train.ranks.workers import Workers
from recsys_spark.train.updates import choice, lookups, optim, step
from recsys_spark.train.updates.gradients import Gradients
from recsys_spark.train.updates.step import Stepper
from tests import training
from tests.benchmarks import bench_train

STEPS, ROUNDS = 120, 7
USERS, ITEMS = 1_000_000, 100_000
OPTIMISERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam"},
    "adam, sparse": {"name": "adam", "sparse": True},
    "sparse_adam": {"name": "sparse_adam"},
    "rowwise_adagrad": {"name": "rowwise_adagrad"},
    "adagrad": {"name": "adagrad"},
    "adagrad, sparse": {"name": "adagrad", "sparse": True},
    "sgd": {"name": "sgd"},
    "sgd, sparse": {"name": "sgd", "sparse": True},
}


def loops(
    scratch: Path, models: list[str], sizes: int = 2
) -> Iterator[tuple[str, int, Loop, list[Any]]]:
    """(model, batch, its loop, the first steps of an epoch), of so many sizes of the batch."""
    train, held = bench_train.interactions()
    for model in models:
        layout = bench_train.LAYOUTS[model]
        made = bench_train.export(scratch / layout, layout, train, held)
        for batch in bench_train.BATCHES[model][:sizes]:
            job = training.job(
                scratch / f"{model}-{batch}",
                scratch / layout,
                made,
                model,
                dtype="float32",
                batch_size=batch // 2 if model == "neumf" else batch,
            )
            loop = Loop(job.model_copy(update={"config": bench_train.OURS[model]}), Workers())
            batches = [one for one, _ in zip(loop._batches(), range(STEPS), strict=False)]
            yield model, batch, loop, batches


def bare(model: Model, optimiser: torch.optim.Optimizer, batches: list[Any], ctx: Context) -> None:
    for number, (_, batch) in enumerate(batches):
        ctx.step = number
        optimiser.zero_grad()
        terms = model.loss(batch, model(batch, ctx), ctx).values()
        torch.stack(
            [term.sum * (term.coefficient / float(term.count)) for term in terms]
        ).sum().backward()
        optimiser.step()


def overhead(scratch: Path) -> Iterator[dict[str, Any]]:
    for model, batch, loop, batches in loops(scratch, ["neumf", "bpr_mf", "multi_vae"]):
        loop._freeze()
        loop._batches = lambda batches=batches: iter(batches)  # type: ignore[method-assign]
        loop.reader.order.__dict__["steps"] = len(batches)
        plain = torch.optim.Adam(loop.model.parameters(), fused=True)

        def looped(loop: Loop = loop) -> None:
            loop.state.position = 0
            loop._rest_of_epoch()

        ours, theirs = _turns(
            [
                looped,
                lambda loop=loop, plain=plain, batches=batches: bare(  # type: ignore[misc]
                    loop.model, plain, batches, Context(training=True, total_steps=1000)
                ),
            ],
            len(batches),
        )
        yield {
            "what": "overhead",
            "model": model,
            "batch": batch,
            "loop_ms": round(statistics.median(ours), 3),
            "bare_ms": round(statistics.median(theirs), 3),
            "overhead": round(
                statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) - 1, 3
            ),
        }


def random_pairs(rows: int, seed: int) -> list[Pairs]:
    """Five batches."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Pairs(
            torch.randint(1, USERS + 1, (rows,), generator=draw, dtype=torch.int32),
            torch.randint(1, ITEMS + 1, (rows,), generator=draw, dtype=torch.int32),
            torch.randint(1, ITEMS + 1, (rows, 1), generator=draw),
            torch.arange(rows),
        )
        for _ in range(5)
    ]


def stepper_of(model: Model, chosen: Optim, by_rows: list[Table]) -> Stepper:
    optimiser = optim.build(chosen, model.parameter_groups(), [table.weight for table in by_rows])
    lookups.attach(model, by_rows, optimiser)
    return Stepper(model, optimiser, Workers(), 0.0)


def by_rows(scratch: Path) -> Iterator[dict[str, Any]]:
    batches = [(len(batch), batch) for batch in random_pairs(8192, seed=1)]
    for name, settings in OPTIMISERS.items():
        model = registry.build("bpr_mf", {"dim": 64, "l2": 0.0}, Sizes(USERS, ITEMS), seed=1)
        chosen = Optim(**settings)
        stepper = stepper_of(model, chosen, tables(model) if chosen.by_rows else [])
        (taken,) = _turns(
            [lambda stepper=stepper: _steps(stepper, batches)], len(batches), rounds=4
        )  # type: ignore[misc]
        state = sum(value.nbytes for value in optim.pack(stepper.optimiser)[0].values())
        yield {
            "what": "tables",
            "optimiser": name,
            "step_ms": round(statistics.median(taken), 2),
            "state_mb": round(state / 1e6, 1),
        }


def crossover(scratch: Path) -> Iterator[dict[str, Any]]:
    """Adam on one table, whole and by rows, for tables of more and more rows."""
    for width, looked_up in ((1, 8192), (16, 8192), (64, 2048), (64, 8192), (192, 2048)):
        for multiple in (2, 4, 8, 16, 32):
            rows = multiple * looked_up
            ways = [_moves(rows, width, looked_up, sparse) for sparse in (False, True)]
            whole, by_rows = (statistics.median(taken) for taken in _turns(ways, 1, rounds=15))
            yield {
                "what": "crossover",
                "width": width,
                "looked_up": looked_up,
                "rows": rows,
                "whole_ms": round(whole, 3),
                "by_rows_ms": round(by_rows, 3),
                "chosen": "by rows" if choice.pays(rows, width, looked_up) else "whole",
            }


def _moves(rows: int, width: int, looked_up: int, sparse: bool) -> Callable[[], None]:
    """A step on a look-up at random."""
    whole = table(rows - 1, width, 0.1)
    by_rows = [whole.weight] if sparse else []
    optimiser = optim.build(Optim(name="adam"), [{"params": [whole.weight]}], by_rows)
    if sparse:
        whole.fetch = lookups.Lookups(whole, optimiser.reader(whole.weight))
    gradients = Gradients([whole.weight], Workers(), [whole.fetch] if sparse else [])
    index = torch.randint(1, rows, (16, looked_up))
    factor = torch.randn(looked_up, width)
    numbers = itertools.cycle(index)

    def move() -> None:
        gradients.clear()
        (whole(next(numbers)) * factor).sum().backward()
        gradients.reduce()
        assert gradients.finite()
        optimiser.step()

    return move


def precision(scratch: Path) -> Iterator[dict[str, Any]]:
    for model, batch, loop, batches in loops(scratch, ["neumf", "multi_vae"], sizes=1):
        loop._freeze()
        batches = batches[:10]
        steppers = {
            "float32": {},
            "medium": {"precision": "medium"},
            "bf16": {"precision": "bf16"},
            "compiled": {"forward": step.compiled(loop.model)},
            "bf16, compiled": {"forward": step.compiled(loop.model), "precision": "bf16"},
        }
        ways = [
            lambda more=more, loop=loop, batches=batches: _steps(  # type: ignore[misc]
                Stepper(loop.model, loop.optimiser, Workers(), 0.0, **more), batches
            )
            for more in steppers.values()
        ]
        for name, taken in zip(steppers, _turns(ways, len(batches), rounds=3), strict=True):
            yield {
                "what": "precision",
                "model": model,
                "batch": batch,
                "way": name,
                "step_ms": round(statistics.median(taken), 2),
            }


def _steps(stepper: Stepper, batches: list[Any]) -> None:
    for number, (_, batch) in enumerate(batches):
        stepper(batch, Context(step=number, training=True, total_steps=1000), step.GO_ON)


def _turns(ways: list[Callable[[], None]], steps: int, rounds: int = ROUNDS) -> list[list[float]]:
    """Milliseconds a step of each way, by round; the first is for warming up."""
    found: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for way, taken in zip(ways, found, strict=True):
            began = time.perf_counter()
            way()
            if number:
                taken.append(1e3 * (time.perf_counter() - began) / steps)
    return found


PARTS = {
    "overhead": overhead,
    "tables": by_rows,
    "crossover": crossover,
    "precision": precision,
}


def as_a_rank() -> None:
    """Start this program again with the allocator of ranks that the launcher starts."""
    if "GLIBC_TUNABLES" not in os.environ:
        environment = {**os.environ, "GLIBC_TUNABLES": processes.ALLOCATOR}
        os.execve(sys.executable, sys.orig_argv, environment)


def main() -> None:
    as_a_rank()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    results = []
    with tempfile.TemporaryDirectory() as name:
        for part in given.parts:
            for line in PARTS[part](Path(name)):
                results.append({**line, "threads": given.threads})
                print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
