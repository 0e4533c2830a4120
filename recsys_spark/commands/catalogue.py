"""The models and baselines that can be trained: name, layout, task and `Paper:` line, read from
the source files without importing them. Settings are read from the imported class and its comments.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from recsys_spark.core.config import Settings
from recsys_spark.core.errors import ConfigError, nearest

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Entry:
    name: str
    kind: str  # a model's layout, or "baseline"
    task: str
    about: str  # the first paragraph of its file
    paper: str


@dataclass(frozen=True)
class Setting:
    name: str
    kind: str  # its type, as the source has it
    default: str  # empty: it must be given
    meaning: str


def entry(name: str) -> Entry:
    """Raises ConfigError, with the nearest name, when there is none."""
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ConfigError(
            f"model {name!r}",
            found="no model or baseline of that name",
            expected=f"one of {', '.join(known)}{nearest(name, known)}",
        )
    return known[name]


def settings(name: str) -> list[Setting]:
    """What `config:` of a step with this model takes, those of its base classes first."""
    from recsys_spark.baselines.fitting import registry as baselines
    from recsys_spark.models import registry as models  # torch takes seconds: a list needs none

    if entry(name).kind == "baseline":
        config = baselines.find(name).Config
    else:
        config = models.find(name).Config
    lines = {
        field: line
        for kind in reversed(config.__mro__)
        if issubclass(kind, Settings) and kind is not Settings
        for field, line in _fields(kind).items()
    }
    return [
        Setting(
            field,
            lines[field][0],
            "" if facts.is_required() else repr(facts.get_default(call_default_factory=True)),
            lines[field][1],
        )
        for field, facts in config.model_fields.items()
    ]


def _fields(kind: type) -> dict[str, tuple[str, str]]:
    """{field: (its type, the comment above it or at its end)}, read from the source."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    described = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno - 1
            above: list[str] = []
            while first and lines[first - 1].strip().startswith("#"):
                first -= 1
                above.insert(0, lines[first].strip().lstrip("# "))
            _, _, behind = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
            described[node.target.id] = (
                ast.unparse(node.annotation),
                " ".join([*above, behind]).strip(),
            )
    return described


def entries() -> list[Entry]:
    """Baselines first, then models, each by name."""
    return sorted(_entries(), key=lambda entry: (entry.kind != "baseline", entry.kind, entry.name))


def _entries() -> Iterator[Entry]:
    files = [*(PACKAGE / "baselines").glob("*.py"), *(PACKAGE / "models").glob("*/*.py")]
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        text = ast.get_docstring(module) or ""
        paper = _paper(text)
        if paper:
            kind = "baseline" if file.parent.name == "baselines" else file.parent.name
            about = " ".join(text.split("\n\n")[0].split())
            yield Entry(file.stem, kind, _task(module), about, paper)


def _paper(docstring: str) -> str:
    """The text after `Paper:` up to the next blank line or the next `Word:` heading, on one
    line.
    """
    _, heading, rest = docstring.partition("Paper:")
    text = rest.split("Differs:")[0].split("\n\n")[0]
    return " ".join(text.split()) if heading else ""


def _task(module: ast.Module) -> str:
    """The value of `TASK = "..."` at module level, or of `task = "..."` in the last class or its
    base classes; `ranking or rating` where the settings decide: a function `task`, or a setting of
    that name.
    """
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    if any(isinstance(node, ast.FunctionDef) and node.name == "task" for node in module.body):
        return "ranking or rating"
    return _assigned(module.body, "TASK") or (
        _task_of(module, list(classes)[-1]) if classes else ""
    )


def _task_of(module: ast.Module, name: str) -> str:
    """The task of the class `name`, which is in this module or imported into it."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            if any(
                _assigned(part.body, "task")
                for part in node.body
                if isinstance(part, ast.ClassDef) and part.name == "Config"
            ):
                return "ranking or rating"
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return _assigned(node.body, "task") or next(
                filter(None, (_task_of(module, base) for base in bases)), ""
            )
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            file = PACKAGE.parent / ((node.module or "").replace(".", "/") + ".py")
            return (
                _task_of(ast.parse(file.read_text(encoding="utf-8")), name)
                if file.is_file()
                else ""
            )
    return ""


def _assigned(body: list[ast.stmt], name: str) -> str:
    """The constant that a statement of this body assigns to `name`."""
    for node in body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value  # type: ignore[attr-defined]
            if isinstance(value, ast.Constant):
                return str(value.value)
    return ""
