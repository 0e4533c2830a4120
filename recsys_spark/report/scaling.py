"""What `recsys-spark plan` predicts, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(console: Console, plan: Any) -> None:
    """`plan` is a stages.scaling.Plan."""
    cost, network = plan.cost, plan.network
    console.print(f"{plan.model}: measured here, on one rank: {1e3 * cost.fixed_s:.3g} ms a step and {1e6 * cost.row_s:.3g} us a row, "
                  f"the reader {cost.read_rows_per_s:,.0f} rows/s", soft_wrap=True, highlight=False)
    console.print(f"assumed: {1e6 * network.latency_s:g} us a message, {network.bandwidth * 8e-9:g} Gbit/s a rank, {plan.faster:g} times "
                  f"this processor; {cost.exchanged_bytes / 2**20:,.1f} MiB exchanged a step, not overlapped",
                  soft_wrap=True, highlight=False)
    console.print(_table(plan, plan.same_batch, f"the same global batch of {plan.batch_rows:,} rows", 1, 0))
    console.print(_table(plan, plan.same_share, f"{plan.batch_rows:,} rows for each rank: the global batch grows", 0, 1))
    most = max(one.ranks for one in plan.same_batch)
    if plan.virtual_shards % most:
        console.print(f"[dim]{most} ranks need shards of a multiple of {most} virtual shards; these have {plan.virtual_shards}[/]")


def _table(plan: Any, forecasts: list[Any], title: str, fixed: int, share: int) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("ranks", "step", "examples/s", "efficiency", "exchange", "memory a rank", "epoch", "bottleneck"):
        table.add_column(name, justify="left" if name == "bottleneck" else "right")
    for one in forecasts:
        epoch_s = plan.rows * plan.examples_per_row / one.examples_per_s
        batch = plan.batch_rows * (fixed + share * one.ranks)
        idle = one.ranks > batch
        table.add_row(f"{one.ranks:,}", f"{1e3 * one.step_s:.3g} ms", f"{one.examples_per_s:,.0f}", f"{one.efficiency:.0%}",
                      f"{one.exchange_share:.0%}", f"{one.rank_bytes / 2**20:,.0f} MiB", f"{epoch_s:,.1f} s",
                      "more ranks than rows" if idle else one.bottleneck)
    return table
