"""YAML files -> one validated, frozen object, before any expensive work starts.

Any mapping in a file may hold `extends: other.yaml` (or a list; paths relative to the file): it
starts from that file's content. Precedence, lowest first: the extended files, the file itself,
arguments in their order: `key=value` (`steps.als.config.rank=32`), or another file. References such
as `${seed}` and `${oc.env:NAME,default}` are OmegaConf's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

import recsys_spark
from recsys_spark.core import expected
from recsys_spark.core.errors import ConfigError, nearest

T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """Base of every configuration object: frozen, no unknown keys, no silent conversion of
    types.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, protected_namespaces=())


def load(path: str | Path, arguments: Iterable[str] = ()) -> dict[str, Any]:
    """The merged and resolved mapping of a file and its arguments. Raises ConfigError."""
    merged = _read(Path(path), chain=())
    for argument in arguments:
        if is_file(argument):
            merged = _merge(merged, _read(located(argument), chain=()))
            continue
        key, equals, _ = argument.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"argument {argument!r}",
                expected="key=value, or a YAML file",
                remedy="write for example seed=2",
            )
        try:
            merged = _merge(merged, OmegaConf.from_dotlist([argument]))
        except (OmegaConfBaseException, YAMLError) as problem:
            raise ConfigError(
                f"argument {argument!r}", found=_in_one_line(problem), expected="key=value"
            ) from None
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as problem:
        raise ConfigError(
            str(path), found=_in_one_line(problem), expected="references that resolve"
        ) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def is_file(argument: str) -> bool:
    """Whether an argument names a file to merge, such as conf/env/cluster.yaml."""
    return "=" not in argument and argument.endswith((".yaml", ".yml"))


def located(name: str | Path, folder: Path = Path()) -> Path:
    """Where a file is that may come with the package: below `folder`, else, of a name such as
    conf/env/local.yaml, in the checkout or the installed package. The first where there is none.
    """
    here = folder / name
    if here.is_file() or Path(name).is_absolute():
        return here
    package = Path(recsys_spark.__file__).parent
    shipped = (root / name for root in (package.parent, package))
    return next((path for path in shipped if path.is_file()), here)


def validate(kind: type[T], values: dict[str, Any], *, source: str, key: str = "") -> T:
    """`kind(**values)`, or a ConfigError that names the source, the dotted key, the value and the
    nearest valid name.
    """
    try:
        return kind.model_validate(values)
    # of a part validated by another class: raised again with its place in this file
    except ConfigError as inner:
        raise _placed(inner, source, key) from None
    except ValidationError as problem:
        # Unknown keys first: they are often misspellings of keys reported as missing.
        first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
        dotted = ".".join(filter(None, [key, *map(str, first["loc"])]))
        if first["type"] == "extra_forbidden":
            valid = sorted(_fields_at(kind, first["loc"][:-1]))
            close = nearest(str(first["loc"][-1]), valid)
            raise KeyProblem(
                source,
                "unknown key ",
                dotted,
                found=expected.brief(first["input"]),
                expected=f"one of {', '.join(valid)}{close}",
            ) from None
        if first["type"] == "missing":
            raise KeyProblem(
                source,
                "missing key ",
                dotted,
                remedy=f"add {dotted} to the file or pass {dotted}=...",
            ) from None
        raise KeyProblem(
            source,
            "",
            dotted,
            found=expected.brief(first["input"]),
            expected=expected.words(first),
        ) from None


class KeyProblem(ConfigError):
    """A ConfigError that keeps its dotted key, so that an enclosing validation can add where it is
    in the file.
    """

    def __init__(
        self,
        source: str,
        what: str,
        dotted: str,
        *,
        found: Any = None,
        expected: Any = None,
        remedy: str = "",
    ) -> None:
        super().__init__(f"{source}, {what}{dotted}", found=found, expected=expected, remedy=remedy)
        self.what, self.dotted = what, dotted

    def __reduce__(self) -> tuple:
        return ConfigError(
            self.thing, found=self.found, expected=self.expected, remedy=self.remedy
        ).__reduce__()


def _placed(inner: ConfigError, source: str, key: str) -> ConfigError:
    facts = {"found": inner.found, "expected": inner.expected, "remedy": inner.remedy}
    if isinstance(inner, KeyProblem):
        return KeyProblem(source, inner.what, ".".join(filter(None, [key, inner.dotted])), **facts)
    return ConfigError(": ".join(filter(None, [source, key, inner.thing])), **facts)


def _fields_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> Iterable[str]:
    """The field names of the (possibly nested) model that `loc` leads to."""
    for part in loc:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return kind.model_fields
        kind = models[0]
    return kind.model_fields


def _read(path: Path, chain: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in chain:
        raise ConfigError(str(path), found="extends itself", expected="a chain of files that ends")
    if not path.is_file():
        suggestion = (
            nearest(path.name, [p.name for p in path.parent.glob("*.yaml")])
            if path.parent.is_dir()
            else ""
        )
        raise ConfigError(
            f"configuration file {path}", found="no such file", expected=f"a YAML file{suggestion}"
        )
    try:
        content = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException) as problem:
        raise ConfigError(str(path), found=_in_one_line(problem), expected="valid YAML") from None
    if not isinstance(content, DictConfig):
        raise ConfigError(
            str(path), found=type(content).__name__, expected="a mapping of keys to values"
        )
    return _extended(content, path, (*chain, path.resolve()))


def _extended(content: DictConfig, path: Path, chain: tuple[Path, ...]) -> DictConfig:
    """`content` merged over the files it extends, at every depth."""
    parents = content.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else list(parents)
    for key in list(content):
        value = content._get_node(
            key
        )  # the node itself: `own[key]` would resolve references too early
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            content[key] = _extended(value, path, chain)
    merged = OmegaConf.create({})
    for parent in parents:
        merged = _merge(merged, _read(located(parent, path.parent), chain))
    return _merge(merged, content)


def _merge(base: DictConfig, override: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(base, override)
    assert isinstance(merged, DictConfig)
    return merged


def _in_one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]
