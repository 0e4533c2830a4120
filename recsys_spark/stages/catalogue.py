"""What can be trained, read from the files themselves: name, layout, task and `Paper:` line. Imports none of them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Entry:
    name: str
    kind: str  # a model's layout, or "baseline"
    task: str
    paper: str


def entries() -> list[Entry]:
    """Baselines first, then models, each by name."""
    return sorted(_entries(), key=lambda entry: (entry.kind != "baseline", entry.kind, entry.name))


def _entries() -> Iterator[Entry]:
    files = [*(PACKAGE / "baselines").glob("*.py"), *(PACKAGE / "models").glob("*/*.py")]
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        paper = _paper(ast.get_docstring(module) or "")
        if paper:
            kind = "baseline" if file.parent.name == "baselines" else file.parent.name
            yield Entry(file.stem, kind, _task(module), paper)


def _paper(docstring: str) -> str:
    """The text after `Paper:` up to the next blank line or the next `Word:` heading, on one line."""
    _, found, rest = docstring.partition("Paper:")
    text = rest.split("Differs:")[0].split("\n\n")[0]
    return " ".join(text.split()) if found else ""


def _task(module: ast.Module) -> str:
    """The value of `task = "..."` at class level or of `TASK = "..."` at module level; a function `task` decides by the settings."""
    if any(isinstance(node, ast.FunctionDef) and node.name == "task" for node in module.body):
        return "either"
    for node in ast.walk(module):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("task", "TASK"):
                value = node.value  # type: ignore[attr-defined]
                if isinstance(value, ast.Constant):
                    return str(value.value)
    return ""
