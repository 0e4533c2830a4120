"""Models of this project as estimators of `pyspark.ml`, in place of Spark's ALS: docs/ml.md.

>>> from recsys_spark.ml import DeepRecommender                           # doctest: +SKIP
>>> DeepRecommender(model="bpr_mf", userCol="user").fit(ratings).recommendForAllUsers(10)
"""

from recsys_spark.ml.estimator import DeepRecommender
from recsys_spark.ml.model import DeepRecommenderModel

__all__ = ["DeepRecommender", "DeepRecommenderModel"]
