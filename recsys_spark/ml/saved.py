"""A model in a folder of its own: its parameters as Spark's ML writes them, and what of the lake
scores. It no longer needs the lake in which it was fitted.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader

from recsys_spark.core import columns as c
from recsys_spark.core.errors import ConfigError
from recsys_spark.ml import recipe
from recsys_spark.stages.bridge import artefact

TABLES = (c.RUNS, c.SPLITS, c.USER_INDEX, c.ITEM_INDEX)
_TRAINING_ONLY = ("optim.*", "state.json")


class Writer(DefaultParamsWriter):
    def saveImpl(self, path: str) -> None:
        """Raises ConfigError for a path that is no folder of this machine."""
        model: Any = self.instance
        place = local(path)
        fitted = model._fitted()
        extra = {"run_ids": model.run_ids, "types": model.types}
        self.saveMetadata(model, path, self.sparkSession, extraMetadata=extra)
        for table in TABLES:
            shutil.copytree(fitted.folder / "lake" / table, place / "lake" / table)
        run = fitted.context.inputs[recipe.MODEL]
        folder = artefact.folder(run)
        inside = folder.relative_to(run.run_dir)
        shutil.copytree(
            folder,
            place / "runs" / run.run_id / inside,
            ignore=shutil.ignore_patterns(*_TRAINING_ONLY),
        )

    def _handleOverwrite(self, path: str) -> None:
        shutil.rmtree(local(path), ignore_errors=True)


class Reader(MLReader[Any]):
    def __init__(self, cls: type[Any]) -> None:
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> Any:
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        model = self.cls(local(path).absolute(), metadata["run_ids"], metadata["types"])
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def local(path: str) -> Path:
    """The folder of this machine that Spark knows by this path."""
    text = path.removeprefix("file://").removeprefix("file:")
    if text.startswith("dbfs:/"):
        text = "/dbfs/" + text.removeprefix("dbfs:/").lstrip("/")
    if "://" in text:
        raise ConfigError(
            "path of a model",
            found=path,
            expected="a folder that this machine sees, such as one below /Volumes",
            remedy="save it there, and copy the folder",
        )
    return Path(text)
