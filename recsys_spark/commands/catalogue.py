"""The models and baselines that can be trained: name, layout, task and what the docstrings of their
files say under `Paper:`, `For:` and so on, read from the source without importing it. Settings are
read from the imported class and its comments.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Iterator

from recsys_spark.commands import figures
from recsys_spark.commands.figures import Figure
from recsys_spark.core import config as configuration
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
    use: str  # what it is for
    needs: str  # of the data
    cold: str  # what new users and new items get
    memory: str  # of a baseline; that of a model is counted (models/sizes.py)
    unfit: str  # when not to take it


# The headings of a docstring, each at the start of a line, and the field that has its text
HEADINGS = {
    "Paper": "paper",
    "For": "use",
    "Needs": "needs",
    "Cold": "cold",
    "Memory": "memory",
    "Not for": "unfit",
}
_HEADING = re.compile(r"^(Paper|Differs|For|Needs|Cold|Memory|Not for|Couples rows|Limits): ", re.M)


@dataclass(frozen=True)
class Setting:
    name: str
    kind: str  # its type, as the source has it
    default: str  # empty: it must be given
    meaning: str


@dataclass(frozen=True)
class Card:
    """All that is known of one model or baseline."""

    entry: Entry
    settings: list[Setting]
    memory: str
    figures: list[Figure]


def card(name: str) -> Card:
    """Raises ConfigError, with the nearest name, when there is none."""
    found = entry(name)
    names = [other.name for other in entries()]
    return Card(found, settings(name), found.memory or _weights(name), figures.of(name, names))


def _weights(name: str) -> str:
    """The memory of a model's weights with the settings of conf/models/NAME.yaml."""
    from recsys_spark.models import sizes

    shipped = configuration.load(configuration.located(f"conf/models/{name}.yaml"))
    weights = sizes.bytes_of(name, shipped["config"])
    growing = {"a user": weights.per_user, "an item": weights.per_item}
    grows = ", ".join(f"{number:,} bytes {of}" for of, number in growing.items() if number)
    return (
        f"{grows}, and {weights.fixed:,} more, with the settings of conf/models/{name}.yaml and "
        "without fields; training with Adam takes three times as much, and batches beside it."
    )


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
    if entry(name).kind == "baseline":
        from recsys_spark.baselines.fitting import registry as baselines

        config = baselines.find(name).Config
    else:
        from recsys_spark.models import registry as models  # torch takes seconds

        config = models.find(name).Config
    lines: dict[str, tuple[str, str]] = {}
    for kind in reversed(config.__mro__):
        if issubclass(kind, Settings) and kind is not Settings:
            for field, (of_type, meaning) in _fields(kind).items():
                # Where another default is all that is new, the base class says what it means
                lines[field] = of_type, meaning or lines.get(field, ("", ""))[1]
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
            own = lines[node.lineno - 1 : node.end_lineno]
            behind = " ".join(line.partition("  # ")[2] for line in own if "  # " in line)
            described[node.target.id] = (
                ast.unparse(node.annotation),
                " ".join([*above, behind]).strip(),
            )
    return described


@cache
def entries() -> tuple[Entry, ...]:
    """Baselines first, then models, each by name."""
    order = sorted(_entries(), key=lambda entry: (entry.kind != "baseline", entry.kind, entry.name))
    return tuple(order)


def _entries() -> Iterator[Entry]:
    files = [*(PACKAGE / "baselines").glob("*.py"), *(PACKAGE / "models").glob("*/*.py")]
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        text = ast.get_docstring(module) or ""
        said = _said(text)
        if said["paper"]:
            kind = "baseline" if file.parent.name == "baselines" else file.parent.name
            about = " ".join(text.split("\n\n")[0].split())
            yield Entry(file.stem, kind, _task(module), about, **said)


def _said(docstring: str) -> dict[str, str]:
    """{field: the text behind its heading, on one line}: up to the next heading or blank line."""
    said = dict.fromkeys(HEADINGS.values(), "")
    _, *parts = _HEADING.split(docstring)
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        if heading in HEADINGS:
            said[HEADINGS[heading]] = " ".join(text.split("\n\n")[0].split())
    return said


def _task(module: ast.Module) -> str:
    """The value of `TASK = "..."` at module level, or of `task = "..."` in the last class or its
    base classes; `ranking or rating` where a baseline has a function `task`, `rating or click`
    where a model has a setting of that name.
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
                return "rating or click"
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
