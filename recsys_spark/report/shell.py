"""The page around the content: one self-contained document that loads no fonts and nothing from
the network. Style and script are files in this folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
Section = tuple[str, str, str]  # anchor, heading, markup; left out where the markup is empty


def document(
    *,
    kind: str,
    title: str,
    lead: str,
    findings: str,
    sections: Sequence[Section],
    footer: str = "",
) -> str:
    """kind, title, lead and footer are text; findings and the sections' bodies are markup."""
    shown = [section for section in sections if section[2]]
    return Template(_file("page.html")).substitute(
        style=_file("page.css"),
        script=_file("page.js"),
        kind=escape(kind),
        title=escape(title),
        data=escape(lead),
        findings=findings,
        nav="".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in shown),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{escape(heading)}</h2>{body}</section>'
            for anchor, heading, body in shown
        ),
        footer=escape(footer),
    )


def card(body: str, heading: str = "") -> str:
    return f'<div class="card">{f"<h3>{heading}</h3>" if heading else ""}{body}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """(name, value) pairs as an HTML definition list."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{rows}</dl>"


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
