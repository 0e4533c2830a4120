"""The worked examples in docstrings say what the code does."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from recsys_spark import metrics

# The families that must have an example, and what else is pure and worth one
FAMILIES = (
    "candidates",
    "ctr",
    "exposure",
    "intervals",
    "lists",
    "paired",
    "ranking",
    "rating",
)
OTHERS = (
    "recsys_spark.commands.clean",
    "recsys_spark.core.xxh64",
    "recsys_spark.datasets.drafts.columns",
    "recsys_spark.datasets.drafts.delimiter",
    "recsys_spark.datasets.drafts.roles",
    "recsys_spark.etl.split.rule",
    "recsys_spark.pipeline.memory",
    "recsys_spark.report.content",
    "recsys_spark.scoring.topk",
    "recsys_spark.train.data.order",
)
MODULES = (
    *(f"{metrics.__name__}.{module.name}" for module in pkgutil.iter_modules(metrics.__path__)),
    *OTHERS,
)


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples_are_true(name: str) -> None:
    failed, examples = doctest.testmod(importlib.import_module(name))
    assert not failed, f"{failed} of {examples} examples in {name} are wrong: see the output above"
    if name in OTHERS or name.rpartition(".")[2] in FAMILIES:
        assert examples, f"{name} has no worked example"
