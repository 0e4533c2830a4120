"""Prints the prediction of `recsys-spark plan` on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(console: Console, plan: Any) -> None:
    """`plan` is a stages.scaling.Plan."""
    cost, network = plan.cost, plan.network
    console.print(
        f"{plan.model}: measured here, on one rank: {1e3 * cost.fixed_s:.3g} ms a step and "
        f"{1e6 * cost.row_s:.3g} us a row, the reader {cost.read_rows_per_s:,.0f} rows/s",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"assumed: {1e6 * network.latency_s:g} us a message, {network.bandwidth * 8e-9:g} "
        f"Gbit/s a rank, {plan.faster:g} times "
        f"this processor; {cost.exchanged_bytes / 2**20:,.1f} MiB exchanged a step, not overlapped",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        _table(plan, plan.same_batch, f"the same global batch of {plan.batch_rows:,} rows", 1, 0)
    )
    console.print(
        _table(
            plan,
            plan.same_share,
            f"{plan.batch_rows:,} rows for each rank: the global batch grows",
            0,
            1,
        )
    )
    most = max(forecast.ranks for forecast in plan.same_batch)
    if plan.virtual_shards % most:
        console.print(
            f"[dim]{most} ranks need shards of a multiple of {most} virtual shards; these "
            f"have {plan.virtual_shards}[/]"
        )


def _table(plan: Any, forecasts: list[Any], title: str, fixed: int, share: int) -> Table:
    table = Table(title=title, title_justify="left")
    for name in (
        "ranks",
        "step",
        "examples/s",
        "efficiency",
        "exchange",
        "memory a rank",
        "epoch",
        "bottleneck",
    ):
        table.add_column(name, justify="left" if name == "bottleneck" else "right")
    for forecast in forecasts:
        epoch_s = plan.rows * plan.examples_per_row / forecast.examples_per_s
        batch = plan.batch_rows * (fixed + share * forecast.ranks)
        idle = forecast.ranks > batch
        table.add_row(
            f"{forecast.ranks:,}",
            f"{1e3 * forecast.step_s:.3g} ms",
            f"{forecast.examples_per_s:,.0f}",
            f"{forecast.efficiency:.0%}",
            f"{forecast.exchange_share:.0%}",
            f"{forecast.rank_bytes / 2**20:,.0f} MiB",
            f"{epoch_s:,.1f} s",
            "more ranks than rows" if idle else forecast.bottleneck,
        )
    return table
