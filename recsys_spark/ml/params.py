"""The parameters of the estimator and its model, named as Spark's ALS names its own."""

from __future__ import annotations

import json
from typing import Any

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasPredictionCol, HasSeed

from recsys_spark.core.errors import ConfigError, nearest

COLD_STARTS = ("nan", "drop")
OUTPUTS = ("pairs", "lists")


def _json(value: Any) -> str:
    """Settings as JSON text with sorted names, of text or of a mapping."""
    try:
        settings = json.loads(value) if isinstance(value, str) else value
        if isinstance(settings, dict):
            return json.dumps(settings, sort_keys=True)
    except (TypeError, ValueError):
        settings = value
    raise ConfigError("modelParams", found=repr(settings), expected="a mapping, or its JSON text")


class RecommenderParams(HasPredictionCol, HasSeed):
    """Columns and settings that an estimator hands on to its model."""

    userCol: Param[str] = Param(
        Params._dummy(), "userCol", "column of user ids", TypeConverters.toString
    )
    itemCol: Param[str] = Param(
        Params._dummy(), "itemCol", "column of item ids", TypeConverters.toString
    )
    ratingCol: Param[str] = Param(
        Params._dummy(),
        "ratingCol",
        "column of ratings; empty: each row counts 1",
        TypeConverters.toString,
    )
    timestampCol: Param[str] = Param(
        Params._dummy(),
        "timestampCol",
        "column of times, timestamps or seconds since 1970; empty: rows have no order",
        TypeConverters.toString,
    )
    coldStartStrategy: Param[str] = Param(
        Params._dummy(),
        "coldStartStrategy",
        "what transform does with a pair that the model cannot score: nan or drop",
        TypeConverters.toString,
    )
    excludeSeen: Param[bool] = Param(
        Params._dummy(),
        "excludeSeen",
        "whether items of a user's own rows are left out of the user's list",
        TypeConverters.toBoolean,
    )
    output: Param[str] = Param(
        Params._dummy(),
        "output",
        "what transform gives: pairs, a score for each row, or lists, a user's k best items beside "
        "those of the rows, as RankingEvaluator reads them",
        TypeConverters.toString,
    )
    k: Param[int] = Param(
        Params._dummy(), "k", "items of a list that transform gives", TypeConverters.toInt
    )
    labelCol: Param[str] = Param(
        Params._dummy(), "labelCol", "column of a user's items in lists", TypeConverters.toString
    )
    model: Param[str] = Param(
        Params._dummy(), "model", "name of a baseline or model", TypeConverters.toString
    )
    # Not `params`: that is what every estimator calls the list of its parameters
    modelParams: Param[str] = Param(
        Params._dummy(),
        "modelParams",
        "settings of the model as JSON; `train` and `workers` of a trained one under these names",
        _json,
    )
    lake: Param[str] = Param(
        Params._dummy(),
        "lake",
        "folder for tables and models, which driver and executors share; empty: a temporary one",
        TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            userCol="user",
            itemCol="item",
            ratingCol="rating",
            timestampCol="",
            predictionCol="prediction",
            coldStartStrategy="nan",
            excludeSeen=False,
            output="pairs",
            k=10,
            labelCol="label",
            model="als",
            modelParams="{}",
            lake="",
            seed=1,
        )

    def value(self, name: str) -> Any:
        """Of the parameter of this name."""
        return self.getOrDefault(self.getParam(name))

    def require_valid(self) -> None:
        """Raises ConfigError for values that no parameter may have."""
        for name, valid in (("coldStartStrategy", COLD_STARTS), ("output", OUTPUTS)):
            if (value := self.value(name)) not in valid:
                raise ConfigError(
                    name,
                    found=repr(value),
                    expected=f"one of {', '.join(valid)}{nearest(value, valid)}",
                )
        if self.value("k") < 1:
            raise ConfigError("k", found=self.value("k"), expected="at least 1")

    def getUserCol(self) -> str:
        return str(self.value("userCol"))

    def getItemCol(self) -> str:
        return str(self.value("itemCol"))

    def getRatingCol(self) -> str:
        return str(self.value("ratingCol"))

    def getTimestampCol(self) -> str:
        return str(self.value("timestampCol"))

    def getColdStartStrategy(self) -> str:
        return str(self.value("coldStartStrategy"))

    def getExcludeSeen(self) -> bool:
        return bool(self.value("excludeSeen"))

    def getOutput(self) -> str:
        return str(self.value("output"))

    def getK(self) -> int:
        return int(self.value("k"))

    def getLabelCol(self) -> str:
        return str(self.value("labelCol"))

    def getModel(self) -> str:
        return str(self.value("model"))

    def getModelParams(self) -> str:
        return str(self.value("modelParams"))

    def getLake(self) -> str:
        return str(self.value("lake"))
