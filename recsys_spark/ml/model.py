"""`DeepRecommenderModel`: what `DeepRecommender.fit` gives, with the methods of ALSModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyspark.ml import Model
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.core import columns as c
from recsys_spark.etl import row_key
from recsys_spark.ml import saved
from recsys_spark.ml.events import Columns, named
from recsys_spark.ml.frames import Fitted, entries_of, gathered
from recsys_spark.ml.params import RecommenderParams
from recsys_spark.scoring.queries import PREDICTION

_ROW = "_row"


class DeepRecommenderModel(Model, RecommenderParams, MLReadable, MLWritable):
    """Reads its lake when it is asked; nothing of it is held in memory."""

    def __init__(
        self, folder: Path = Path(), run_ids: Mapping[str, str] = {}, types: Mapping[str, str] = {}
    ) -> None:
        """folder: has the lake and the run folders. types: of the ids of users and items."""
        super().__init__()
        self.folder, self.run_ids, self.types = folder, dict(run_ids), dict(types)
        self._opened: Fitted | None = None

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """(userCol, recommendations array<struct<itemCol, rating float>>), best first. Raises
        ConfigError for a model that ranks nothing.
        """
        return self._lists(numItems)

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """As `recommendForAllUsers`, of the users of the data set that the model knows."""
        return self._lists(numItems, self._users(dataset))

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """(itemCol, recommendations array<struct<userCol, rating float>>). All pairs of users and
        items are scored and sorted.
        """
        return self._best_users(self._fitted().items().select(c.ITEM_ID), numUsers)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """As `recommendForAllItems`, of the items of the data set that the model knows."""
        return self._best_users(self._items(dataset), numUsers)

    def similarItems(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """(itemCol, recommendations array<struct<itemCol, rating float>>): the items most like
        those of the data set, by cosine of their vectors, or what a history of the item alone gets.
        """
        rows = self._fitted().alike(self._items(dataset), numItems)
        name = self.getItemCol()
        return gathered(rows, self._item(c.ITEM_ID), (self._item(c.SIMILAR_ID), name))

    @property
    def userFactors(self) -> DataFrame | None:
        """(id, features array<float>); None for a model without them. Where items have a bias, it
        is their last feature, and users have a 1 there.
        """
        factors = self._fitted().factors()
        return None if factors is None else self._factors(factors[0], c.QUERY_ID, "user")

    @property
    def itemFactors(self) -> DataFrame | None:
        """As `userFactors`."""
        factors = self._fitted().factors()
        return None if factors is None else self._factors(factors[1], c.ITEM_ID, "item")

    def write(self) -> saved.Writer:
        return saved.Writer(self)

    @classmethod
    def read(cls) -> saved.Reader:
        return saved.Reader(cls)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Raises DataError for columns that do not fit."""
        self.require_valid()
        columns = Columns.of(self)
        columns.require_ids(dataset.schema, "userCol", "itemCol")
        if self.getOutput() == "lists":
            return self._beside_labels(columns, dataset)
        at = columns.seconds()
        if columns.timestamp and columns.timestamp not in dataset.columns:
            at = F.lit(self._fitted(dataset).last_time())
        rows = dataset.select(
            F.struct("*").alias(_ROW),
            named(columns.user).cast("string").alias(c.QUERY_ID),
            named(columns.item).cast("string").alias(c.ITEM_ID),
            at.alias(c.TS),
        )
        scored = self._fitted(dataset).predicted(rows.drop(_ROW))
        rows = rows.withColumn(c.ROW_KEY, row_key.column()).join(scored, c.ROW_KEY, "left")
        number = F.coalesce(F.col(PREDICTION), F.lit(float("nan"))).cast("float")
        rows = rows.select(f"{_ROW}.*", number.alias(self.getPredictionCol()))
        if self.getColdStartStrategy() == "nan":
            return rows
        return rows.where(~F.isnan(named(self.getPredictionCol())))

    def _beside_labels(self, columns: Columns, dataset: DataFrame) -> DataFrame:
        """(userCol, predictionCol array<double>, labelCol array<double>): numbers of the k best
        items, and of the user's items in the data set; those that the model does not know are
        negative.
        """
        fitted = self._fitted(dataset)
        rows = dataset.select(
            named(columns.user).cast("string").alias(c.QUERY_ID),
            named(columns.item).cast("string").alias(c.ITEM_ID),
        )
        number = F.coalesce(
            F.col(c.ITEM_IDX).cast("double"), -1.0 - F.abs(F.xxhash64(c.ITEM_ID).cast("double"))
        )
        numbered = rows.join(fitted.items(), c.ITEM_ID, "left")
        label = F.collect_set(number).alias(self.getLabelCol())
        labels = numbered.groupBy(c.QUERY_ID).agg(label)
        lists = fitted.lists(self.getK(), exclude_seen=self.getExcludeSeen(), only=rows)
        best = F.col(c.ITEM_IDX).cast("array<double>").alias("_best")
        beside = labels.join(lists.select(c.QUERY_ID, best), c.QUERY_ID, "left")
        none = F.array().cast("array<double>")
        return beside.select(
            self._user(c.QUERY_ID).alias(columns.user),
            F.coalesce("_best", none).alias(self.getPredictionCol()),
            named(self.getLabelCol()),
        )

    def _lists(self, k: int, users: DataFrame | None = None) -> DataFrame:
        fitted = self._fitted()
        lists = fitted.lists(k, exclude_seen=self.getExcludeSeen(), only=users)
        rows = entries_of(lists, c.QUERY_ID).join(fitted.items(), on=c.ITEM_IDX)
        return gathered(rows, self._user(c.QUERY_ID), (self._item(c.ITEM_ID), self.getItemCol()))

    def _best_users(self, items: DataFrame, k: int) -> DataFrame:
        rows = self._fitted().best_users(items, k, exclude_seen=self.getExcludeSeen())
        return gathered(rows, self._item(c.ITEM_ID), (self._user(c.QUERY_ID), self.getUserCol()))

    def _users(self, dataset: DataFrame) -> DataFrame:
        columns = Columns.of(self)
        columns.require_ids(dataset.schema, "userCol")
        return dataset.select(named(columns.user).cast("string").alias(c.QUERY_ID)).distinct()

    def _items(self, dataset: DataFrame) -> DataFrame:
        columns = Columns.of(self)
        columns.require_ids(dataset.schema, "itemCol")
        return dataset.select(named(columns.item).cast("string").alias(c.ITEM_ID)).distinct()

    def _user(self, name: str) -> Column:
        return F.col(name).cast(self.types["user"]).alias(self.getUserCol())

    def _item(self, name: str) -> Column:
        return F.col(name).cast(self.types["item"]).alias(self.getItemCol())

    def _factors(self, rows: DataFrame, name: str, side: str) -> DataFrame:
        return rows.select(
            F.col(name).cast(self.types[side]).alias("id"), F.col(c.VECTOR).alias("features")
        )

    def _fitted(self, dataset: DataFrame | None = None) -> Fitted:
        """The tables of the lake, opened once a session."""
        spark = SparkSession.active() if dataset is None else dataset.sparkSession
        if self._opened is None or self._opened.spark is not spark:
            self._opened = Fitted(spark, self.folder, self.run_ids)
        return self._opened
