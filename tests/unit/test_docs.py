"""Links between pages lead somewhere, every page is found from the index, and what is to be typed
are commands: `make soak` runs those of README and docs/own-data.md, production.md and python.md.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys_spark.cli.commands import app
from recsys_spark.core import config
from tests.spark.typed import commands

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if "://" not in link and (not path.exists() or (anchor and anchor not in headings(path))):
            broken.append(link)
    assert not broken


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {Path(link.partition("#")[0]).name for link in LINK.findall(index.read_text())}
    missing = {page.name for page in (ROOT / "docs").glob("*.md")} - linked - {"index.md"}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_to_be_typed_are_commands(page: Path) -> None:
    """Names, options and files; targets of make, and jobs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(page):
        name, *words = shlex.split(command)
        if name == "recsys-spark":
            # An unknown command or option is refused before --help is answered
            answer = CliRunner().invoke(app, [*words, "--help"])
            assert answer.exit_code == 0, f"{command}\n{answer.output}"
        if name == "make":
            targets = [word for word in words if "=" not in word and not word.startswith("-")]
            assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), command
        for word in words:
            if word.startswith("conf/"):
                assert config.located(word).exists(), command
            elif word.startswith("jobs/"):
                assert (ROOT / word).exists(), command


@pytest.mark.parametrize("words", [["rnu"], ["run", "--no-such-option"], ["show", "1", "--k", "3"]])
def test_what_is_no_command_is_refused_beside_help(words: list[str]) -> None:
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code != 0
