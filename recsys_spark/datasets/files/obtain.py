"""A data set's folder: an existing one, else downloaded, else generated, as the job allows; the
choice is logged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable

from recsys_spark.core import log, plugins
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.files import download, folder
from recsys_spark.datasets.files.spec import Dataset
from recsys_spark.datasets.generators import synthetic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = log.get(__name__)


def obtain(
    dataset: Dataset,
    data: str | None,
    on_missing: Iterable[str],
    spark: Callable[[], SparkSession],
    *,
    root: Path = Path("data"),
    seed: int = 1,
) -> Path:
    """The folder with the raw files. spark: called only if data must be generated. Raises DataError
    when no source is available.
    """
    location = folder.locate(dataset, data, root)
    generated_path = root / f"{dataset.name}-generated"
    if (
        location is None
        and "generate" in on_missing
        and folder.generated(generated_path) is not None
    ):
        location = generated_path
    if location is None:
        location = _fetch_or_generate(dataset, tuple(on_missing), spark, root, generated_path, seed)
    if folder.generated(location) is not None:
        logger.warning(
            log.fields(
                event="generated_data",
                dataset=dataset.name,
                folder=location,
                meaning="these data are made up; set RECSYS_DATA or data= to use the real set",
            )
        )
    return location


def missing(
    dataset: Dataset, data: str | None, on_missing: Iterable[str], *, root: Path = Path("data")
) -> str:
    """What `obtain` would have to do first; empty when the files exist. Downloads and generates
    nothing; raises DataError as `locate` does.
    """
    if folder.locate(dataset, data, root) is not None:
        return ""
    if (
        "generate" in on_missing
        and folder.generated(root / f"{dataset.name}-generated") is not None
    ):
        return ""
    return f"{dataset.name} is not here: {' or '.join(on_missing) or 'nothing'} comes first"


def _fetch_or_generate(
    dataset: Dataset,
    ways: tuple[str, ...],
    spark: Callable[[], SparkSession],
    root: Path,
    generated_path: Path,
    seed: int,
) -> Path:
    problem = None
    if "download" in ways and dataset.download is not None:
        try:
            return download.download(dataset.name, root)
        except download.NoNetwork as no_network:
            problem = no_network
            if "generate" not in ways:
                raise
    if "generate" in ways and (dataset.like_movielens_1m or dataset.generator):
        logger.warning(
            log.fields(
                event="no_data",
                dataset=dataset.name,
                download=problem or "not asked for",
                doing="generate one",
            )
        )
        if dataset.generator:
            generators = "recsys_spark.datasets.generators"
            plugins.load(generators, dataset.generator).generate(generated_path, seed=seed)
        else:
            synthetic.generate(spark(), generated_path, seed=seed)
        return generated_path
    raise DataError(
        f"data set {dataset.name}",
        found=f"neither $RECSYS_DATA/{dataset.name} nor {root / dataset.name}",
        expected="a folder with its files",
        remedy=f"run `recsys-spark download {dataset.name}`, or pass data=/its/folder",
    )
