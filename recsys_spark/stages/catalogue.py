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
    """The value of `TASK = "..."` at module level, or of `task = "..."` in the last class or what it derives from; `either` where the
    settings decide: a function `task`, or a setting of that name."""
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    if any(isinstance(node, ast.FunctionDef) and node.name == "task" for node in module.body):
        return "either"
    return _assigned(module.body, "TASK") or (_task_of(module, list(classes)[-1]) if classes else "")


def _task_of(module: ast.Module, name: str) -> str:
    """Of the class `name`, which is in this module or imported into it."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            if any(_assigned(part.body, "task") for part in node.body if isinstance(part, ast.ClassDef) and part.name == "Config"):
                return "either"
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return _assigned(node.body, "task") or next(filter(None, (_task_of(module, base) for base in bases)), "")
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            file = PACKAGE.parent / ((node.module or "").replace(".", "/") + ".py")
            return _task_of(ast.parse(file.read_text(encoding="utf-8")), name) if file.is_file() else ""
    return ""


def _assigned(body: list[ast.stmt], name: str) -> str:
    """The constant that a statement of this body gives to `name`."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value  # type: ignore[attr-defined]
            if isinstance(value, ast.Constant):
                return str(value.value)
    return ""
