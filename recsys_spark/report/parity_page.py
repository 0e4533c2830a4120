"""The parity tables as Markdown: our figure beside the published one, one table per protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Line:
    """One row of a table; an empty `verdict` means that it has not been measured yet."""

    protocol: str
    model: str
    metric: str
    published: str
    source: str
    wanted: str
    note: str
    pipeline: str
    value: float | None = None
    interval: str = ""
    verdict: str = ""
    seconds: float = 0.0
    settings: str = ""
    fingerprints: tuple[str, ...] = ()  # fingerprints of the splits, one per seed

    def measured(
        self,
        *,
        value: float,
        interval: str,
        verdict: str,
        seconds: float,
        settings: str,
        fingerprints: tuple[str, ...],
    ) -> Line:
        return replace(
            self,
            value=value,
            interval=interval,
            verdict=verdict,
            seconds=seconds,
            settings=settings,
            fingerprints=fingerprints,
        )


HEAD = (
    "model",
    "metric",
    "ours",
    "95 % interval",
    "published",
    "source",
    "wanted",
    "verdict",
    "search and fit, s",
    "settings",
)


def render(title: str, intro: str, lines: Sequence[Line], machine: str) -> str:
    """The page. A protocol's table names its pipeline and the fingerprints of its splits."""
    page = [f"# {title}", "", intro.strip(), "", f"Machine: {machine}.", ""]
    verdicts = {
        "PASS": "PASS",
        "FALLS SHORT": "FALL SHORT",
        "reported": "reported",
        "": "not measured yet",
    }
    page += [
        ", ".join(
            f"{sum(line.verdict == verdict for line in lines)} {said}"
            for verdict, said in verdicts.items()
        )
        + ".",
        "",
    ]
    for protocol in dict.fromkeys(line.protocol for line in lines):
        protocol_lines = [line for line in lines if line.protocol == protocol]
        digests = ", ".join(
            dict.fromkeys(digest for line in protocol_lines for digest in line.fingerprints)
        )
        files = ", ".join(dict.fromkeys(f"`{line.pipeline}`" for line in protocol_lines))
        page += [
            f"## {protocol}",
            "",
            f"Pipeline {files}" + (f"; fingerprint of the split {digests}." if digests else "."),
            "",
        ]
        page += [_cells(HEAD), _cells(["---"] * len(HEAD))]
        page += [_cells(_row(line)) for line in protocol_lines]
        page += ["", *(f"- {line.model}: {line.note}" for line in protocol_lines if line.note)]
        page += [""] if page[-1] else []
    return "\n".join(page).rstrip() + "\n"


def _row(line: Line) -> Sequence[str]:
    ours = "not measured" if line.value is None else f"{line.value:.4f}"
    seconds = f"{line.seconds:.1f}" if line.value is not None else ""
    verdict = f"**{line.verdict}**" if line.verdict == "FALLS SHORT" else line.verdict
    return (
        line.model,
        line.metric,
        ours,
        line.interval,
        line.published,
        line.source,
        line.wanted,
        verdict,
        seconds,
        line.settings,
    )


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
