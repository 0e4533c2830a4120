"""What is shown while a pipeline runs."""

from __future__ import annotations

from typing import Any, Callable

from rich.console import Console

from recsys_spark.core import log


def listener(console: Console) -> Callable[[Any], None]:
    """Steps as they come: one line each on a terminal, key=value log lines elsewhere."""
    logger = log.get("cli")

    def hear(event: Any) -> None:
        facts = {name: value for name, value in (event.facts or {}).items() if isinstance(value, (int, float, str))}
        if not console.is_terminal:  # what a stage did stands in its own line
            told = facts if event.kind == "planned" else {"seconds": round(event.seconds, 1)} if event.seconds else {}
            logger.info(log.fields(step=event.step, stage=event.stage, status=event.kind, run_id=event.run_id or "none",
                                   **{name: value for name, value in told.items() if name not in ("step", "stage", "status", "run_id")}))
            return
        brief = "  ".join(f"{name} {_short(value)}" for name, value in list(facts.items())[:4])
        mark = {"start": "[cyan]>[/]", "done": "[green]done[/]", "skipped": "[dim]kept[/]", "planned": "[cyan]plan[/]"}[event.kind]
        seconds = f"{event.seconds:6.1f} s" if event.seconds else " " * 8
        if event.kind != "start":
            console.print(f"{mark} {event.step:<18} {seconds}  [dim]{brief}[/]", highlight=False, soft_wrap=True)

    return hear


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)[:40]
