"""YAML files -> one validated, frozen object, before anything expensive starts.

Any mapping in a file may hold `extends: other.yaml` (or a list; paths relative to the file): it starts from that file's content.
Order of strength: what it extends, the file itself, then `key=value` arguments (`steps.als.config.rank=32`). References such as
`${seed}` and `${oc.env:NAME,default}` are OmegaConf's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from recsys_spark.core.errors import ConfigError, nearest

T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """Base of every configuration object: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


def load(path: str | Path, arguments: Iterable[str] = ()) -> dict[str, Any]:
    """The merged and resolved mapping of a file and its `key=value` arguments. Raises ConfigError."""
    merged = _read(Path(path), seen=())
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"argument {argument!r}", expected="key=value", remedy="write for example seed=2")
        try:
            merged = _merge(merged, OmegaConf.from_dotlist([argument]))
        except (OmegaConfBaseException, YAMLError) as problem:
            raise ConfigError(f"argument {argument!r}", found=_first_line(problem), expected="key=value") from None
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as problem:
        raise ConfigError(str(path), found=_first_line(problem), expected="references that resolve") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def validate(kind: type[T], values: dict[str, Any], *, source: str, key: str = "") -> T:
    """`kind(**values)`, or a ConfigError that names the source, the dotted key, the value and the nearest valid name."""
    try:
        return kind.model_validate(values)
    except ConfigError as inner:  # of a part that another class describes: told from here, with its place in this file
        raise _placed(inner, source, key) from None
    except ValidationError as problem:
        # An unknown key first: it is often the wrong spelling of one that is then missing.
        first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
        dotted = ".".join(filter(None, [key, *map(str, first["loc"])]))
        if first["type"] == "extra_forbidden":
            valid = sorted(_fields_at(kind, first["loc"][:-1]))
            close = nearest(str(first["loc"][-1]), valid)
            raise KeyProblem(source, "unknown key ", dotted, found=repr(first["input"]),
                             expected=f"one of {', '.join(valid)}{close}") from None
        if first["type"] == "missing":
            raise KeyProblem(source, "missing key ", dotted, remedy=f"add {dotted} to the file or pass {dotted}=...") from None
        raise KeyProblem(source, "", dotted, found=repr(first["input"]), expected=first["msg"]) from None


class KeyProblem(ConfigError):
    """A ConfigError that knows its dotted key, so that whoever validates around it can say where that stands in the file."""

    def __init__(self, source: str, what: str, dotted: str, *, found: Any = None, expected: Any = None, remedy: str = "") -> None:
        super().__init__(f"{source}, {what}{dotted}", found=found, expected=expected, remedy=remedy)
        self.what, self.dotted = what, dotted

    def __reduce__(self) -> tuple:
        return ConfigError(self.thing, found=self.found, expected=self.expected, remedy=self.remedy).__reduce__()


def _placed(inner: ConfigError, source: str, key: str) -> ConfigError:
    facts = {"found": inner.found, "expected": inner.expected, "remedy": inner.remedy}
    if isinstance(inner, KeyProblem):
        return KeyProblem(source, inner.what, ".".join(filter(None, [key, inner.dotted])), **facts)
    return ConfigError(": ".join(filter(None, [source, key, inner.thing])), **facts)


def _fields_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> Iterable[str]:
    """The field names of the (possibly nested) model that `loc` leads to."""
    for part in loc:
        inner = kind.model_fields[part].annotation if part in kind.model_fields else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return kind.model_fields
        kind = found[0]
    return kind.model_fields


def _read(path: Path, seen: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in seen:
        raise ConfigError(str(path), found="extends itself", expected="a chain of files that ends")
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise ConfigError(f"configuration file {path}", found="no such file", expected=f"a YAML file{near}")
    try:
        own = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException) as problem:
        raise ConfigError(str(path), found=_first_line(problem), expected="valid YAML") from None
    if not isinstance(own, DictConfig):
        raise ConfigError(str(path), found=type(own).__name__, expected="a mapping of keys to values")
    return _extended(own, path, (*seen, path.resolve()))


def _extended(own: DictConfig, path: Path, seen: tuple[Path, ...]) -> DictConfig:
    """`own` merged over the files it extends, at every depth."""
    parents = own.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else list(parents)
    for key in list(own):
        value = own._get_node(key)  # the node itself: `own[key]` would resolve references too early
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            own[key] = _extended(value, path, seen)
    merged = OmegaConf.create({})
    for parent in parents:
        merged = _merge(merged, _read(path.parent / parent, seen))
    return _merge(merged, own)


def _merge(under: DictConfig, over: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(under, over)
    assert isinstance(merged, DictConfig)
    return merged


def _first_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]
