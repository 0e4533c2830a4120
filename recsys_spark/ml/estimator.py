"""`DeepRecommender`: fits any baseline or model of this project on a DataFrame, by the stages of
the command line, in a lake of its own.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.core import log
from recsys_spark.core.errors import ConfigError
from recsys_spark.lake.session import DELTA_CLASS
from recsys_spark.lake.tables import Lake
from recsys_spark.ml import events, recipe
from recsys_spark.ml.events import Columns
from recsys_spark.ml.model import DeepRecommenderModel
from recsys_spark.ml.params import RecommenderParams
from recsys_spark.pipeline import runner, steps

logger = log.get(__name__)
# Fits of one process, which CrossValidator starts in threads, run one after another: they share
# the steps before the model
_FITTING = threading.Lock()


class DeepRecommender(
    Estimator[DeepRecommenderModel],
    RecommenderParams,
    DefaultParamsReadable["DeepRecommender"],
    DefaultParamsWritable,
):
    """In place of `pyspark.ml.recommendation.ALS`, with any model: docs/ml.md.

    >>> als = DeepRecommender(model="als", modelParams={"rank": 32}, userCol="user")
    >>> als.getModelParams(), als.getColdStartStrategy()
    ('{"rank": 32}', 'nan')
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        model: str = "als",
        modelParams: str | dict[str, Any] = "{}",
        userCol: str = "user",
        itemCol: str = "item",
        ratingCol: str = "rating",
        timestampCol: str = "",
        predictionCol: str = "prediction",
        labelCol: str = "label",
        coldStartStrategy: str = "nan",
        excludeSeen: bool = False,
        output: str = "pairs",
        k: int = 10,
        seed: int = 1,
        lake: str = "",
    ) -> None:
        super().__init__()
        self.setParams(**self._input_kwargs)

    @keyword_only
    def setParams(self, **values: Any) -> DeepRecommender:
        """Any of the constructor's arguments."""
        return self._set(**values)

    def _fit(self, dataset: DataFrame) -> DeepRecommenderModel:
        """Raises ConfigError for settings, DataError for columns that do not fit, before any work;
        what the stages raise.
        """
        self.require_valid()
        columns = Columns.of(self)
        columns.require(dataset.schema)
        spark = dataset.sparkSession
        _require_delta(spark)
        rows = columns.events(dataset)
        root = Path(self.getLake() or _temporary()).absolute()
        with _FITTING:
            folder = root / f"rows-{events.fingerprint(rows)[:12]}"
            _write_once(events.placed(rows), folder)
            file = recipe.write(self, folder, timed=bool(columns.timestamp))
            pipeline, known = steps.load(file)
            lake = Lake(spark, pipeline.env.lake, Path(pipeline.env.runs))
            runs = runner.run(
                pipeline,
                steps.closure(known, [recipe.MODEL]),
                lake=lake,
                listener=lambda event: None,
            )
        fitted = DeepRecommenderModel(
            folder,
            {name: run.run_id for name, run in runs.items()},
            {
                "user": events.id_type(dataset.schema, columns.user),
                "item": events.id_type(dataset.schema, columns.item),
            },
        )
        fitted._resetUid(self.uid)
        return self._copyValues(fitted)


def _write_once(rows: DataFrame, folder: Path) -> None:
    """The rows as a Delta table, which is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / recipe.EVENTS
    if not any((place / "_delta_log").glob("*.json")):
        rows.write.format("delta").mode("overwrite").save(str(place))


def _require_delta(spark: SparkSession) -> None:
    extensions = spark.conf.get("spark.sql.extensions", "") or ""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ and DELTA_CLASS not in extensions:
        raise ConfigError(
            "the Spark session",
            found=f"spark.sql.extensions={extensions or 'none'}",
            expected=DELTA_CLASS,
            remedy="start the session with Delta's extension, catalog and JARs",
        )


@functools.cache
def _temporary() -> str:
    """A folder for the life of this process."""
    folder = tempfile.mkdtemp(prefix="recsys-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger.warning(
        log.fields(
            event="temporary_lake",
            folder=folder,
            meaning="models are gone when this process ends, unless they are saved; executors of "
            "other machines do not see it: set lake",
        )
    )
    return folder
