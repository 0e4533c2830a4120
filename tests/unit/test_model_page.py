"""docs/models.md is what the models' files and the pages of figures say."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark.commands import catalogue, figures, model_page
from recsys_spark.core import config
from recsys_spark.models import registry, sizes

ROOT = Path(__file__).parents[2]
ENTRIES = catalogue.entries()
NAMES = [entry.name for entry in ENTRIES]


def test_the_page_is_that_of_the_files() -> None:
    assert (ROOT / model_page.PAGE).read_text(encoding="utf-8") == model_page.text(), (
        "docs/models.md is old: write it anew with `make docs`"
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_a_file_says_what_its_model_is_for(entry: catalogue.Entry) -> None:
    headings = {name: getattr(entry, field) for name, field in catalogue.HEADINGS.items()}
    if entry.kind != "baseline":
        headings.pop("Memory")  # counted
    missing = [name for name, text in headings.items() if not text]
    assert not missing, f"{entry.name}: its docstring lacks {', '.join(f'`{n}:`' for n in missing)}"
    assert "\n" not in "".join(headings.values()) and "|" not in "".join(headings.values())


def test_figures_are_those_of_the_pages() -> None:
    [demo, *rest] = figures.of("ease", NAMES)
    assert (demo.metric, demo.value, demo.interval) == ("NDCG@10", ".0535", ".0493 - .0583")
    assert all(figure.page == figures.PARITY for figure in rest)
    assert ("ndcg@10", "0.0536") in {(figure.metric, figure.value) for figure in rest}
    by_item = [figure for figure in figures.of("rbm_cf", NAMES) if figure.value == "0.8586"]
    assert by_item and by_item[0].seconds == "394.4" and by_item[0].where.startswith("R-RND")
    assert figures.of("neumf", NAMES)[1].where.startswith("K-99")


@pytest.mark.parametrize("name", registry.names())
def test_the_bytes_of_a_model_are_those_of_its_weights(name: str) -> None:
    settings = config.load(ROOT / f"conf/models/{name}.yaml")["config"]
    model = sizes.shape(name, settings, users=321, items=123)
    held = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert sizes.bytes_of(name, settings).of(321, 123) == held > 0
