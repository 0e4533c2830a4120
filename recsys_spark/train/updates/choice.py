"""Which tables `optim.name: auto` updates by rows, and which as a whole.

The choice depends on sizes that are known before training and on settings, never on the number of
ranks or on time: any number of ranks and a resumed training choose alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from recsys_spark.core.contracts import Optim, Train
from recsys_spark.models.base import Model
from recsys_spark.nn.tables import Table, tables

# A dense step passes over all numbers of a table and of its gradient. A step by rows costs, for
# each number that it looks up, as much as PASSED numbers of a dense one, and as much as CALLS for
# its calls alone. Measured: `python -m tests.benchmarks.bench_step crossover`.
PASSED, CALLS = 10, 1 << 21


class Update(NamedTuple):
    """How a table of the model is updated."""

    name: str
    table: Table
    rows: int  # of the whole table
    looked_up: int  # rows that a step looks up, over all ranks, at most
    by_rows: bool


def updates(
    model: Model, groups: Iterable[dict[str, Any]], optim: Optim, train: Train
) -> list[Update]:
    """The tables among the groups' weights. train: its `batch_size` is that of all ranks."""
    decay = {
        id(weight): group.get("weight_decay", optim.weight_decay)
        for group in groups
        for weight in group["params"]
    }
    examples = train.batch_size * (1 + model.num_negatives)
    names = {id(module): name for name, module in model.named_modules()}
    result = []
    for table in tables(model):
        if id(table.weight) not in decay:
            continue
        rows = table.num_embeddings  # the weight may be this rank's part of the table
        looked_up = min(examples * table.per_example, rows)
        fits = not (model.whole_tables or decay[id(table.weight)])
        large = pays(rows, table.embedding_dim, looked_up)
        by_rows = fits and large if optim.name == "auto" else optim.by_rows
        result.append(Update(names[id(table)], table, rows, looked_up, by_rows))
    return result


def pays(rows: int, width: int, looked_up: int) -> bool:
    """Whether Adam by rows is faster on a table of that size than as a whole."""
    return width * (rows - PASSED * looked_up) > CALLS


def described(chosen: list[Update]) -> dict[str, str]:
    """For the log and the plan: the tables by kind of update, with their rows and those that a step
    looks up.
    """
    return {
        name: ", ".join(
            f"{update.name} ({update.looked_up:,} of {update.rows:,} rows)"
            for update in chosen
            if update.by_rows == by_rows
        )
        or "none"
        for name, by_rows in (("tables_by_rows", True), ("tables_whole", False))
    }


def exchanged_bytes(parameters: int, chosen: list[Update], number: int) -> int:
    """Size of an all-reduce that costs what many ranks send of a step's gradients. number: bytes of
    a weight. Rows are gathered, each with its number: that sends them once, an all-reduce twice.
    """
    by_rows = [update for update in chosen if update.by_rows]
    whole = parameters - sum(update.rows * update.table.embedding_dim for update in by_rows)
    rows = sum(update.looked_up * (update.table.embedding_dim * number + 8) for update in by_rows)
    return whole * number + rows // 2
