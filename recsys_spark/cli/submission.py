"""Answer files of challenges: written from the lake, checked, scored."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from recsys_spark.cli import running
from recsys_spark.cli.options import Overrides
from recsys_spark.cli.screen import screen
from recsys_spark.core import plugins
from recsys_spark.core.errors import ConfigError, nearest

app = typer.Typer(help="The answer file of a challenge: write, check, score.", no_args_is_help=True)
Challenge = Annotated[str, typer.Argument(help="clickouts (trivago 2019), engagements (2020) ...")]
Answer = Annotated[Path, typer.Argument(help="The answer file, or folder.")]
_PACKAGE = "recsys_spark.commands.submission"


@app.command()
def write(
    challenge: Challenge,
    config: Annotated[str, typer.Argument(help="The pipeline that scored.")],
    step: Annotated[str, typer.Argument(help="Its score step.")],
    answer: Annotated[Path, typer.Option("-o", help="The file to write.")] = Path("answer.csv"),
    overrides: Overrides = None,
) -> None:
    """Write the lists or predictions of a score step as the organisers want them."""
    lake = running.named_lake(config, overrides)
    _say(f"wrote {answer}", _found(challenge).write(lake, step, answer))


@app.command()
def check(
    challenge: Challenge,
    answer: Answer,
    data: Annotated[Path, typer.Argument(help="The folder of the challenge's files.")],
) -> None:
    """Refuse what the organisers refuse, and what they let slip, with line and reason."""
    _say(f"{answer} is right", _found(challenge).check(answer, data))


@app.command()
def score(
    challenge: Challenge,
    answer: Answer,
    truth: Annotated[Path, typer.Argument(help="The file with what was to be found.")],
) -> None:
    """The organisers' figures of an answer file."""
    _say(str(answer), _found(challenge).score(answer, truth))


def _found(challenge: str) -> ModuleType:
    names = plugins.names(_PACKAGE)
    if challenge not in names:
        raise ConfigError(
            "challenge",
            found=repr(challenge),
            expected=f"one of {', '.join(names)}{nearest(challenge, names)}",
        )
    return plugins.load(_PACKAGE, challenge)


def _say(what: str, facts: dict[str, float]) -> None:
    said = ", ".join(f"{name} {value:,.4g}" for name, value in facts.items())
    screen().print(f"{what}: {said}", highlight=False)
