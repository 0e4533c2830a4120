"""Progress output while a pipeline runs."""

from __future__ import annotations

from typing import Any, Callable

from rich.console import Console
from rich.markup import escape

from recsys_spark.cli.progress import Running
from recsys_spark.core import log

_MARKS = {
    "done": "[green]done[/]",
    "skipped": "[dim]kept[/]",
    "planned": "[cyan]plan[/]",
    "failed": "[red]failed[/]",
}


def listener(console: Console, events: dict[str, Any] | None = None) -> Callable[[Any], None]:
    """A listener for events of steps: one line per step on a terminal, key=value log lines
    elsewhere. events gets the last event of each step.
    """
    logger, running = log.get("cli"), Running(console)

    def hear(event: Any) -> None:
        running.stop()
        if events is not None:
            events[event.step] = event
        facts = {
            name: value
            for name, value in (event.facts or {}).items()
            if isinstance(value, (int, float, str))
        }
        if not console.is_terminal:
            logger.info(log.fields(**_logged(event, facts)))
        elif event.kind != "start":
            console.print(_line(event, facts), highlight=False, soft_wrap=True)
        if event.kind == "start":
            running.start(event.step, event.stage, (event.facts or {}).get("earlier_s"))

    return hear


def _logged(event: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """The stage logs the facts of a completed step itself."""
    named = {
        "step": event.step,
        "stage": event.stage,
        "status": event.kind,
        "run_id": event.run_id or "none",
    }
    if event.kind in ("planned", "failed"):
        return facts | named
    return named | ({"seconds": round(event.seconds, 1)} if event.seconds else {})


def _line(event: Any, facts: dict[str, Any]) -> str:
    brief = "  ".join(f"{name} {_short(value)}" for name, value in list(facts.items())[:4])
    seconds = f"{event.seconds:6.1f} s" if event.seconds else " " * 8
    return f"{_MARKS[event.kind]} {event.step:<18} {seconds}  [dim]{escape(brief)}[/]"


def _short(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)[:40]
    )
